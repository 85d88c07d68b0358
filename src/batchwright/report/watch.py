"""The page of a folder, served while its runs go on: on loopback alone, and made anew when a record changes.

Nothing but the page and the records that it links to is given out, and a request must name this machine as its host, so that no page of
another site can read it through the browser.
"""

import threading
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from batchwright.core.errors import InputError, RecordError
from batchwright.report.collect import ReadBefore, collect, state_of
from batchwright.report.elements import Html, join, tag
from batchwright.report.figures.style import shorten
from batchwright.report.page import REPORT_NAME, contents, plotly_script
from batchwright.report.template import fill, in_page

HOST = "127.0.0.1"
# Making a page takes at most a quarter of the time: with a thousand runs it costs seconds, and the run wants the processor too.
PAUSE_OVER_WORK = 3.0


class Watch:
    """A server of the page of one folder.

    Attributes:
        url: Where it is.
        num_pages: How many pages were made.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Open the port; `serve` begins to answer.

        Args:
            folder: As of `write_report`; it may be empty still, or not be there yet.
            port: 0 takes one that is free.

        Raises:
            InputError: If the port is taken.
        """
        self._folder = folder
        self._lock = threading.Lock()
        self._state: dict[str, tuple[int, int]] | None = None
        self._read_before: ReadBefore = {}
        self._title, self._body = "", ""
        self._rested_at = 0.0
        self._serving = False
        self.num_pages = 0
        try:
            self._server = ThreadingHTTPServer((HOST, port), partial(_Handler, self))
        except (OSError, OverflowError) as error:
            raise InputError(f"port must be free and may be opened, got {port} ({error}); leave it out") from error
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self.url = f"http://{HOST}:{self._port}/"

    def serve(self) -> None:
        """Answer until `close`."""
        self._serving = True
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """End `serve` and free the port."""
        if self._serving:  # of a server that never began it would wait for ever
            self._server.shutdown()
        self._server.server_close()

    def answer(self, host: str, path: str) -> tuple[int, str, str]:
        """Status, type and text for a request of ``path`` by a client that calls this server ``host``."""
        if host not in (f"{HOST}:{self._port}", f"localhost:{self._port}"):
            return 403, "text/plain", "This page is for this machine alone."
        with self._lock:
            if path in ("/", "/version", "/body"):
                self._refresh()
            if path == "/":
                page = fill(title=self._title, body=self._body, plotly=plotly_script(), version=str(self.num_pages))
                return 200, "text/html", page
            if path == "/version":
                return 200, "text/plain", str(self.num_pages)
            if path == "/body":
                return 200, "text/html", in_page(self._title, self._body)
            name = unquote(path.removeprefix("/"), errors="surrogateescape")
            known = name in (self._state or {})
        if not known:
            return 404, "text/plain", "There is no such record."
        try:
            return 200, "text/plain", (self._folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 404, "text/plain", "The record is gone."

    def _refresh(self) -> None:
        """Make the page anew where a record changed, and not again before the work has paid its pause."""
        if self.num_pages and time.monotonic() < self._rested_at:
            return
        start = time.monotonic()
        state = state_of(self._folder)
        if state == self._state:
            return
        try:
            found = collect(self._folder, self._read_before)
            title, body = contents(found, self._folder / REPORT_NAME)
        except RecordError as error:
            title, body = _waiting(self._folder, str(error))
        for gone in self._read_before.keys() - state.keys():
            del self._read_before[gone]
        self._state, self._title, self._body = state, title, body
        self.num_pages += 1
        now = time.monotonic()
        self._rested_at = now + PAUSE_OVER_WORK * (now - start)


def _waiting(folder: Path, reason: str) -> tuple[str, str]:
    """The page before there is anything to show."""
    title = "Waiting for the first record"
    body = join(
        [
            tag("header", tag("div", tag("b", "Batchwright"), " report", class_="brand"), tag("h1", title)),
            tag("main", tag("p", shorten(reason.replace(str(folder), folder.name or "."), 400))),
            tag("footer", "This page shows the run as soon as it has begun."),
        ]
    )
    return Html(title), body


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, watch: Watch, *arguments: object) -> None:
        self._watch = watch
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer one request."""
        status, kind, text = self._watch.answer(self.headers.get("Host", ""), self.path.partition("?")[0])
        data = text.encode("utf-8", errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # the reader left
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed: a browser that watches asks once a second."""
