"""`grao watch`: serve the live page of a run to browsers on this machine.

Only the page is served, no other file of the folder. It is rendered again whenever the records have changed, and the
browser reloads it every few seconds until the run has finished.
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
_RELOAD_SECONDS = 10
"""Interval at which the browser reloads the page."""


class LiveServer(ThreadingHTTPServer):
    """HTTP server for the page of a run at `/`; all other paths are not found.

    Args:
        folder: of the run, which need not have started.
        port: port to listen on; 0 chooses a free one.

    Raises:
        OSError: if the port is in use.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self._folder, self._lock = folder, Lock()
        self._seen: tuple[tuple[int, int], ...] | None = None
        self._page = ""

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{HOST}:{self.server_port}/"

    def page(self) -> str:
        """Render the current records, or the error message if one of them cannot be read."""
        with self._lock:
            versions = tuple(map(_version, (self._folder / name for name in _RECORDS)))
            if versions != self._seen:
                try:
                    run = read_run(self._folder)
                    self._page, self._seen = render(run, progress(run)), versions
                except InputError as error:  # not cached: the next request reads the records again
                    return f"<!doctype html><meta charset=utf-8><title>grao</title><p>{escape(str(error))}"
            return self._page

    @property
    def ended(self) -> bool:
        """Whether the run has finished, so that its records no longer change."""
        try:
            manifest = read_manifest(self._folder)
        except InputError:
            return False
        return manifest is not None and manifest.complete


def progress(run: RunRecords) -> str:
    """Describe the progress of a run in a sentence; empty for a finished run."""
    manifest, done = run.manifest, run.steps or 0
    if manifest is None or manifest.complete:
        return ""
    if manifest.status != "running":
        return f"The run is {manifest.status or 'not started'}: {done:,} of {manifest.steps or 0:,} steps are done."
    seconds = run.metrics[-1].get("seconds", 0.0) if run.metrics else 0.0
    remaining = max((manifest.steps or 0) - done, 0)
    left = f", about {duration(seconds / done * remaining)} of training left" if done and remaining else ""
    cost = sum(value for step in run.metrics for name, value in step.items() if _COST.fullmatch(name))
    spent = f", {cost:,.2f} spent on judges" if cost else ""
    return f"Running: step {done:,} of {manifest.steps or 0:,}{left}{spent}."


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer

    def do_GET(self) -> None:
        """Serve the page; answer other hosts with 403 and other paths with 404."""
        # A foreign host name points to DNS rebinding: a website that resolves its name to this machine.
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
            self.send_header("Refresh", str(_RELOAD_SECONDS))
        self.end_headers()
        self.wfile.write(page)
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the request log."""


def _version(path: Path) -> tuple[int, int]:
    """Modification time and size of a file; zeros if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
