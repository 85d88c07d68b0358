/* A page that was opened from a disk may start no worker, and the search of the theme runs in one. On such a page an invisible frame takes
   the worker's place; over http nothing here has an effect. The theme would fetch a program for this from a server. */
if (location.protocol === "file:") {
  const importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    Object.assign(script, {src: url, onload: resolve, onerror: reject});
    document.body.append(script);
  })), Promise.resolve());

  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = Object.assign(document.createElement("iframe"), {hidden: true});
      document.body.append(this.frame);
      const inside = this.frame.contentWindow, page = inside.document;
      page.open();
      page.write("<html><body><script>postMessage = data => parent.postMessage(data, '*'); importScripts = "
        + importScripts + "<\/script><script src=\"" + url + "\"><\/script></body></html>");
      page.close();
      // Only now: opening the page took all listeners away.
      this.ready = new Promise(resolve => { inside.onload = resolve; });
      window.addEventListener("message", event => {
        if (event.source !== this.frame.contentWindow) return;
        event.stopImmediatePropagation();
        const told = new MessageEvent("message", {data: event.data});
        this.dispatchEvent(told);
        if (this.onmessage) this.onmessage(told);
      });
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data})));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
