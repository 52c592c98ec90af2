"""`grao watch`: the page of a run while it is written, for this machine alone.

Nothing in the folder is served but the page, which is made from its records whenever they have changed. The browser
asks for it again every few seconds until the run has ended.
"""

import re
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from grao.errors import InputError
from grao.records.run import read_manifest
from grao.reports.run import RunRecords, read_run, render
from grao.reports.tables import duration

HOST = "127.0.0.1"
_COST = re.compile("judge_.*/cost")
_RECORDS = "manifest.json", "metrics.jsonl", "samples.jsonl", "items.jsonl", "evaluation.json"
_EVERY = 10
"""Seconds after which the browser asks again."""


class LiveServer(ThreadingHTTPServer):
    """Serves the page of a run under `/`, and nothing else.

    Args:
        folder: of the run, which may not have begun.
        port: 0 takes any that is free.

    Raises:
        OSError: if the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self._folder, self._lock = folder, Lock()
        self._seen: tuple[tuple[int, int], ...] | None = None
        self._page = ""

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def page(self) -> str:
        """The page as the records are now; where one cannot be read at the moment, what is wrong with it."""
        with self._lock:
            changed = tuple(map(_changed, (self._folder / name for name in _RECORDS)))
            if changed != self._seen:
                try:
                    run = read_run(self._folder)
                    self._page, self._seen = render(run, progress(run)), changed
                except InputError as error:  # it is looked at again the next time
                    return f"<!doctype html><meta charset=utf-8><title>grao</title><p>{escape(str(error))}"
            return self._page

    @property
    def ended(self) -> bool:
        """Whether nothing more will be written."""
        try:
            manifest = read_manifest(self._folder)
        except InputError:
            return False
        return manifest is not None and manifest.complete


def progress(run: RunRecords) -> str:
    """How far a run is, in a sentence; empty for one that is complete."""
    manifest, done = run.manifest, run.steps or 0
    if manifest is None or manifest.complete:
        return ""
    if manifest.status != "running":
        return f"The run is {manifest.status or 'not begun'}: {done:,} of {manifest.steps or 0:,} steps are done."
    seconds = run.metrics[-1].get("seconds", 0.0) if run.metrics else 0.0
    ahead = max((manifest.steps or 0) - done, 0)
    left = f", about {duration(seconds / done * ahead)} of training left" if done and ahead else ""
    cost = sum(value for step in run.metrics for name, value in step.items() if _COST.fullmatch(name))
    paid = f", {cost:,.2f} paid to judges" if cost else ""
    return f"Under way: step {done:,} of {manifest.steps or 0:,}{left}{paid}."


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer

    def do_GET(self) -> None:
        """The page; anything else is not there. A name of another host is one that was led here by its owner."""
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            return self.send_error(403)
        if self.path != "/":
            return self.send_error(404)
        page = self.server.page().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if not self.server.ended:
            self.send_header("Refresh", str(_EVERY))
        self.end_headers()
        self.wfile.write(page)
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def _changed(path: Path) -> tuple[int, int]:
    """When a file was written and how long it is; zeros without one."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
