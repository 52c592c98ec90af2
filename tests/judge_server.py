"""An OpenAI-compatible server on this machine that plays a judge: answers by rule, and fails as it is told to."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

_TEXTS = re.compile(r"<(context|text-1|text-2)-[0-9a-f]{8}>\n(.*?)\n</\1-", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """One request as the server sees it."""

    context: str
    text_1: str
    text_2: str
    number: int
    """Of all requests, from 0."""
    attempt: int
    """Of this question, from 0."""
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True)
class Told:
    """What the server does about it."""

    text: str = "1 = 2"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    """Close the connection instead of answering."""
    raw: str | bytes | None = None
    """In place of a chat completion."""
    wire: Callable[[Callable[[bytes], Any]], None] | None = None
    """Writes all of the response itself, status line and all; the connection is closed behind it."""
    ending: str = "stop"
    refusal: str | None = None
    usage: Any = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 5})


def longer(asked: Asked) -> Told:
    """The longer text wins."""
    first, second = len(asked.text_1), len(asked.text_2)
    return Told("1 > 2" if first > second else "1 < 2" if first < second else "1 = 2")


class JudgeServer:
    """The server; `script` decides what each request gets."""

    def __init__(self, script: Callable[[Asked], Told] = longer) -> None:
        self.script, self.asked, self.answered = script, [], Counter()
        self.most_at_once = self.open_requests = 0
        self.times: list[float] = []
        self._seen: Counter[str] = Counter()
        self._lock = Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = server.arrive(self.path, body, dict(self.headers))
                told = server.script(asked)
                time.sleep(told.delay)
                server.leave(asked, told)
                if told.cut:
                    self.close_connection = True
                    return
                self.reply(told)

            def reply(self, told: Told) -> None:
                if told.wire:
                    self.close_connection = True
                    return told.wire(self.wfile.write)
                text = told.raw if told.raw is not None else json.dumps(completion(told))
                text = text.encode() if isinstance(text, str) else text
                self.send_response(told.status)
                for name, value in {"Content-Type": "application/json", **told.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                return None

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                """Clients hang up; that is part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def arrive(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Asked:
        assert path == "/v1/chat/completions"
        content = body["messages"][-1]["content"]
        texts = dict(_TEXTS.findall(content))
        with self._lock:
            self.times.append(time.monotonic())
            self.open_requests += 1
            self.most_at_once = max(self.most_at_once, self.open_requests)
            asked = Asked(
                texts.get("context", ""), texts.get("text-1", ""), texts.get("text-2", ""),
                len(self.asked), self._seen[content], body, headers,
            )  # fmt: skip
            self._seen[content] += 1
            self.asked.append(asked)
        return asked

    def leave(self, asked: Asked, told: Told) -> None:
        with self._lock:
            self.open_requests -= 1
            if told.status == 200 and not told.cut and told.raw is None and told.wire is None:
                self.answered[asked.body["messages"][-1]["content"]] += 1

    @contextmanager
    def running(self) -> Iterator["JudgeServer"]:
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def completion(told: Told) -> dict[str, Any]:
    """A chat completion as OpenAI's."""
    message = {"role": "assistant", "content": None if told.refusal else told.text, "refusal": told.refusal}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": told.ending}],
        **({"usage": told.usage} if told.usage else {}),
    }
