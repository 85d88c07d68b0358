"""The page around its parts: style, script and frame. Nothing in it is fetched from elsewhere."""

import base64
import hashlib

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #57606a; --grid: #d8dee4; --accent: #0072b2;
  --warn: #fff4e0; --warn-line: #e69f00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0f1419; --card: #182028; --ink: #e8ecf1; --soft: #a3adb8; --grid: #303a45; --accent: #56b4e9;
    --warn: #2b2311; --warn-line: #e69f00;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
.page { max-width: 1280px; margin: 0 auto; padding: 28px 20px 56px; }
.brand { color: var(--soft); font-size: .85rem; letter-spacing: .04em; }
.brand b { color: var(--accent); font-weight: 650; }
h1 {
  font-size: clamp(1.45rem, 1.05rem + 1.9vw, 2.15rem); line-height: 1.22; margin: .35em 0 .5em; max-width: 34em;
  letter-spacing: -.012em; overflow-wrap: anywhere; text-wrap: balance;
}
h2 { font-size: 1.3rem; margin: 2.2em 0 .6em; letter-spacing: -.005em; overflow-wrap: anywhere; }
h3 { font-size: 1.02rem; margin: 0 0 .5em; }
p, li, dd { max-width: 46em; overflow-wrap: anywhere; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .92rem; }
nav a { text-decoration: none; padding: 3px 0; }
nav a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 200px), 1fr)); gap: 12px; margin: 12px 0; }
.card { background: var(--card); border: 1px solid var(--grid); border-radius: 10px; padding: 14px 16px; }
.card .name { color: var(--soft); font-size: .86rem; }
.card .value {
  font-size: 1.65rem; font-weight: 650; line-height: 1.25; letter-spacing: -.01em; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums;
}
.card .detail { color: var(--soft); font-size: .86rem; margin-top: 2px; line-height: 1.4; overflow-wrap: anywhere; }
.whisker { position: relative; height: 4px; border-radius: 2px; background: var(--accent); opacity: .85; margin: 8px 5px 7px; }
.whisker.open { background: linear-gradient(90deg, var(--accent) 55%, transparent); }
.whisker i {
  position: absolute; top: -4px; width: 12px; height: 12px; margin-left: -6px; border-radius: 50%;
  background: var(--accent); border: 2px solid var(--card);
}
dl { display: grid; grid-template-columns: minmax(9em, max-content) 1fr; gap: 6px 20px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
.warnings { background: var(--warn); border-left: 4px solid var(--warn-line); border-radius: 6px; padding: 12px 16px; margin: 18px 0; }
.warnings h3 { margin-bottom: .3em; }
.warnings ul { margin: 0; padding-left: 1.15em; }
.figures { display: flex; flex-wrap: wrap; gap: 16px; margin: 18px 0; }
figure {
  margin: 0; background: var(--card); border: 1px solid var(--grid); border-radius: 10px; padding: 16px 16px 12px; min-width: 0;
  flex: 1 1 min(100%, 480px);
}
figure.wide { flex-basis: 100%; }
figure.failed .plot { height: auto !important; }
figcaption { color: var(--soft); font-size: .88rem; line-height: 1.45; margin-top: 6px; overflow-wrap: anywhere; }
.plot { width: 100%; }
.views { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 6px; }
button {
  font: inherit; font-size: .84rem; padding: 3px 11px; border-radius: 999px; cursor: pointer;
  border: 1px solid var(--grid); background: transparent; color: var(--ink);
}
button[aria-pressed="true"] { background: var(--accent); border-color: var(--accent); color: var(--card); }
.table { background: var(--card); border: 1px solid var(--grid); border-radius: 10px; margin: 14px 0; }
.table p { color: var(--soft); font-size: .875rem; margin: 0; padding: 11px 11px 3px; }
.scroll { overflow: auto; max-height: 860px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 11px; text-align: right; white-space: nowrap; border-top: 1px solid var(--grid); vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; border-top: 0; white-space: normal; vertical-align: bottom;
  position: sticky; top: 0; background: var(--card); }
th[scope="row"], th:first-child, th.text, td.text { text-align: left; }
th[scope="row"] { font-weight: 550; }
th[scope="row"] { max-width: 22em; overflow: hidden; text-overflow: ellipsis; }
tr:has(td.text) th[scope="row"] { white-space: normal; min-width: 11em; }
td.text { white-space: normal; min-width: 14em; }
.muted { color: var(--soft); font-weight: 400; }
details { margin: 14px 0; }
summary { cursor: pointer; color: var(--accent); }
.bars {
  display: grid; grid-template-columns: max-content minmax(60px, 1fr) max-content; gap: 6px 14px; align-items: center;
  max-width: 640px;
}
.bars div { height: 10px; border-radius: 5px; background: var(--accent); min-width: 2px; }
.bars span:nth-child(3n) { text-align: right; font-variant-numeric: tabular-nums; }
.live {
  position: fixed; right: 10px; bottom: 10px; padding: 3px 11px; border-radius: 999px; font-size: .8rem;
  background: var(--card); border: 1px solid var(--grid); color: var(--soft);
}
.files { columns: 2 22em; padding-left: 1.15em; font-size: .92rem; }
footer { margin-top: 48px; color: var(--soft); font-size: .86rem; }
@media (max-width: 560px) {
  .page { padding: 18px 14px 40px; }
  .cards { grid-template-columns: repeat(2, 1fr); gap: 10px; }
  .card { padding: 11px 12px; }
  .card .value { font-size: 1.32rem; }
  figure { padding: 12px 8px 10px; }
  figure > h3, figcaption, .views { margin-left: 6px; margin-right: 6px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 10px; }
}
@media print { nav, .views { display: none; } .scroll { max-height: none; } }
"""

SCRIPT = """
(() => {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const narrow = matchMedia('(max-width: 560px)').matches;
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const theme = layout => {
    const ink = colour('--ink'), grid = colour('--grid');
    const patch = {
      'font.color': ink, 'hoverlabel.bgcolor': colour('--card'), 'hoverlabel.bordercolor': grid, 'hoverlabel.font.color': ink,
      'hoverlabel.align': 'left', 'modebar.bgcolor': colour('--card'), 'modebar.color': colour('--soft'), 'modebar.activecolor': ink,
    };
    for (const key of Object.keys(layout)) {
      if (!/^[xy]axis[0-9]*$/.test(key)) continue;
      Object.assign(patch, {[key + '.gridcolor']: grid, [key + '.linecolor']: grid, [key + '.zerolinecolor']: grid});
    }
    return patch;
  };
  const put = (object, path, value) => {
    const names = path.split('.'), last = names.pop();
    for (const name of names) object = object[name] ??= {};
    object[last] = value;
  };
  const drawn = new Set();
  const draw = async root => {
  for (const source of root.querySelectorAll('script[data-plot]')) {
    const div = document.getElementById(source.dataset.plot);
    const {plot, views} = JSON.parse(source.textContent);
    const layout = plot.layout;
    for (const [path, value] of Object.entries(theme(layout))) put(layout, path, value);
    layout.dragmode = matchMedia('(pointer: coarse)').matches ? false : 'zoom';
    if (narrow) { Object.assign(layout.margin, {l: 54, r: 8}); layout.font.size = 12; }
    try {
      await Plotly.newPlot(div, plot.data, layout, {
        displaylogo: false, displayModeBar: matchMedia('(hover: hover)').matches ? 'hover' : false,
        modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d'],
      });
      drawn.add(div);
      new ResizeObserver(() => { if (div.isConnected) Plotly.Plots.resize(div); }).observe(div);
    } catch (error) {
      div.closest('figure').classList.add('failed');
      div.textContent = 'This figure could not be drawn: ' + error.message;
      console.error(error);
      continue;
    }
    const buttons = [...div.closest('figure').querySelectorAll('.views button')];
    buttons.forEach((button, index) => button.addEventListener('click', () => {
      buttons.forEach(other => other.setAttribute('aria-pressed', String(other === button)));
      Plotly.update(div, {visible: views[index].visible}, {...views[index].layout});
    }));
  }
  };
  const remove = root => root.querySelectorAll('.js-plotly-plot').forEach(div => { drawn.delete(div); Plotly.purge(div); });
  dark.addEventListener('change', () => drawn.forEach(div => Plotly.relayout(div, theme(div.layout))));
  window.batchwright = {draw, remove};
  draw(document);
})();
"""

# Before the figures are drawn it keeps each part as it came; later it fetches the parts anew and replaces those that differ, so that
# the place on the page and the zoom of a figure whose data did not change stay as they are.
WATCH = """
(() => {
  const list = root => [...root.querySelectorAll('header, main > *, footer')];
  const key = (part, index) => part.id || part.tagName + (part.className ? '.' + part.className : '') + (part.id ? '' : index);
  let kept = list(document).map(part => part.outerHTML), version = document.documentElement.dataset.version;
  const light = document.createElement('div');
  light.className = 'live';
  light.setAttribute('role', 'status');
  light.textContent = 'live';
  document.body.append(light);
  const update = async () => {
    const now = (await (await fetch('/version')).text()).trim();
    light.textContent = 'live';
    if (now === version) return;
    const answer = new DOMParser().parseFromString(await (await fetch('/body')).text(), 'text/html');
    const old = list(document), fresh = list(answer), sources = fresh.map(part => part.outerHTML);
    document.title = answer.querySelector('.page').dataset.title;
    if (old.map(key).join() === fresh.map(key).join()) {
      for (const [index, part] of fresh.entries()) {
        if (sources[index] === kept[index]) continue;
        const next = document.importNode(part, true);
        batchwright.remove(old[index]);
        old[index].replaceWith(next);
        await batchwright.draw(next);
      }
    } else {
      const page = document.querySelector('.page'), next = document.importNode(answer.querySelector('.page'), true);
      batchwright.remove(page);
      page.replaceWith(next);
      await batchwright.draw(next);
    }
    kept = sources;
    version = now;
    document.documentElement.dataset.version = now;
    light.textContent = 'live, updated ' + new Date().toLocaleTimeString();
  };
  const again = () => update()
    .catch(() => { light.textContent = 'not live: the command has ended; this is what it last showed'; })
    .finally(() => setTimeout(again, 1000));
  setTimeout(again, 1000);
})();
"""

FRAME = """<!DOCTYPE html>
<html lang="en"{version}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{page}
<script>{plotly}</script>
{watch}<script>{script}</script>
</body>
</html>
"""


def fill(*, title: str, body: str, plotly: str, version: str | None = None) -> str:
    """The page; ``title`` and ``body`` are HTML already. With a ``version`` it asks its own server for newer ones."""
    # Only these scripts may run and nothing may be fetched, but by a watched page from its own server: text that slipped through
    # unescaped would still be inert.
    watched = version is not None
    own = "connect-src 'self'; " if watched else ""
    scripts = " ".join(f"'sha256-{_digest(text)}'" for text in (plotly, SCRIPT, *([WATCH] if watched else ())))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"{own}base-uri 'none'; form-action 'none'"
    )
    return FRAME.format(
        title=title,
        policy=policy,
        style=STYLE,
        page=in_page(title, body),
        plotly=plotly,
        script=SCRIPT,
        version=f' data-version="{version}"' if watched else "",
        watch=f"<script>{WATCH}</script>\n" if watched else "",
    )


def in_page(title: str, body: str) -> str:
    """What changes of a page from one version to the next."""
    return f'<div class="page" data-title="{title.replace(chr(34), "&quot;")}">\n{body}\n</div>'


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
