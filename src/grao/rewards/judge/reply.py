"""What a server sends, taken in with suspicion: of bounded size, of any shape, and never with the key in it.

openai's client checks no types and httpx no sizes, so the body is read here, up to a limit, and only fields that are
what the protocol says are used. Whatever stands in place of an answer is shown in the server's own words.
"""

import html
import json
import logging
import re
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from openai import DefaultAsyncHttpxClient

LONGEST = 2**21
"""Bytes of an answer, decompressed: 100,000 tokens in the widest encoding."""
_SHOWN = 200
"""Longest text of a server that is repeated in a message, in characters."""
_KEPT = ("retry-after", "location")
_ENDINGS = {
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens"), "length"),
    **dict.fromkeys(("content_filter", "safety", "recitation", "prohibited_content", "blocklist"), "content_filter"),
    "refusal": "refusal",
}
"""The protocol's names for the endings that count here, by those of other servers in small letters."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields beside the answer that are paid for and never read."""


@dataclass(frozen=True)
class Mask(logging.Filter):
    """Hides a key, plain or in a usual encoding, in texts and in the records of the HTTP libraries."""

    key: str | None = field(repr=False)

    def __call__(self, text: str) -> str:
        """The text without the key."""
        return self._forms.sub("***", text) if self._forms else text

    def line(self, text: str) -> str:
        """One short line without the key, which a server may well repeat, and without control characters."""
        shown = self(text)[: 50 * _SHOWN]
        return self(" ".join("".join(sign if sign.isprintable() else " " for sign in shown).split()))[:_SHOWN]

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass, without the key."""
        record.msg, record.args, record.exc_info = self(record.getMessage()), (), None
        return True

    def watch(self) -> None:
        """From now on the HTTP libraries log nothing that holds the key, not even a header that repeats it."""
        for name in list(logging.root.manager.loggerDict):
            if re.match(r"(openai|httpx2?|httpcore2?)(\.|$)", name):
                logging.getLogger(name).addFilter(self)

    @cached_property
    def _forms(self) -> re.Pattern[str] | None:
        if not self.key:
            return None
        forms, raw = {self.key}, self.key.encode()
        if len(raw) >= 8:  # a shorter one is no secret, and its encodings stand everywhere
            forms |= {quote(self.key, safe=""), json.dumps(self.key)[1:-1], html.escape(self.key), raw.hex()}
            forms |= {"".join(f"\\u{byte:04x}" for byte in raw)}
            for shift in range(3):  # of the key within a longer text: in base64, three bytes are four signs
                coded = b64encode(bytes(shift) + raw).decode()[-(-8 * shift // 6) : 8 * (shift + len(raw)) // 6]
                forms |= {coded, coded.translate(str.maketrans("+/", "-_"))}
        pattern = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        return re.compile(pattern, re.IGNORECASE if len(forms) > 1 else 0)


@dataclass(frozen=True)
class Completion:
    """A chat completion."""

    text: str
    """What was said, thoughts left out."""
    ending: str
    """Why the judge stopped: `stop`, `length`, `refusal`, `content_filter` where anything withheld it, or else."""
    usage: tuple[Any, Any]
    """Tokens read and written, in whatever form the server counts them."""
    thoughts: int
    """At least as many bytes as its thoughts have."""


@dataclass(frozen=True)
class Reply:
    """What a request brought, be it a completion or a complaint."""

    status: int
    """Of HTTP; of an error that is sent as if all was well its own, 0 if it has none."""
    completion: Completion | None
    said: str
    """In place of a completion, in the server's words."""

    @classmethod
    def of(cls, response: Any) -> "Reply":
        """Reads a response of `bounded_client`."""
        if len(response.content) > LONGEST:
            return cls(0, None, f"an answer of more than {LONGEST:,} bytes")
        try:
            value = _parsed(response.content)
            if not response.is_success:
                return cls(response.status_code, None, _complaint(value))
            if error := _error(value):
                code = _at(error, "code")
                return cls(code if type(code) is int and 400 <= code < 600 else 0, None, _complaint(value))
            completion = _completion(value)
            return cls(response.status_code, completion, "" if completion else _complaint(value))
        except RecursionError:
            return cls(0, None, "an answer that is nested too deeply")


def bounded_client() -> "DefaultAsyncHttpxClient":
    """An HTTP client that follows no redirect, for the key goes to no other host, and reads no more than `LONGEST`.

    Raises:
        ImportError, OSError, ValueError: if a proxy or a certificate in the environment is of no use.
    """
    from openai import DefaultAsyncHttpxClient

    class Bounded(DefaultAsyncHttpxClient):
        async def send(self, request: Any, **options: Any) -> Any:
            response = await super().send(request, **{**options, "stream": True})
            body = bytearray()
            try:
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > LONGEST:
                        break
            finally:
                await response.aclose()
            headers = {name: response.headers[name] for name in _KEPT if name in response.headers}
            headers["content-type"] = "text/plain; charset=utf-8"  # what a server says of its text is not to be trusted
            content = bytes(body[: LONGEST + 1])
            return type(response)(response.status_code, headers=headers, content=content, request=request)

    return Bounded(timeout=None, follow_redirects=False)


def _parsed(body: bytes) -> Any:
    """JSON as it is, an event stream as the completion that it makes up, and anything else as text."""
    text = body.decode("utf-8-sig", "replace")
    try:
        return _joined(text) if text.lstrip().startswith(("data:", "event:", ":")) else _json(text)
    except (ValueError, RecursionError):
        return text


def _completion(value: Any) -> Completion | None:
    """The first choice of a chat completion; None if it is none."""
    choices = _at(value, "choices")
    if not isinstance(choices, list) or not choices:
        return None
    choice = next((each for each in choices if _at(each, "index") == 0), choices[0])
    message = _at(choice, "message")
    content, refusal = _at(message, "content"), _at(message, "refusal")
    text, ending = _text(content), _at(choice, "finish_reason")
    if not isinstance(message, dict) or text is None:
        return None
    if isinstance(refusal, str) and refusal:
        text, ending = refusal, "refusal"
    ending = _ENDINGS.get(ending.lower(), ending) if isinstance(ending, str) and ending else "stop"
    usage = _at(value, "usage", "prompt_tokens"), _at(value, "usage", "completion_tokens")
    beside = [message[name] for name in _THOUGHTS if message.get(name)] + [content] * isinstance(content, list)
    thoughts = max((len(json.dumps(each)) for each in beside), default=0)
    return Completion(text, ending, usage, thoughts)


def _error(value: Any) -> Any:
    """The error that stands in JSON in place of a completion, or beside it."""
    return _at(value, "error") or _at(value, "choices", 0, "error")


def _complaint(value: Any) -> str:
    """What a server says in place of an answer: the message of its error, or all that it sent."""
    value = _error(value) or value
    while isinstance(value, dict):
        inner = next((value[name] for name in ("error", "message", "detail", "msg") if value.get(name)), None)
        if inner is None:
            break
        value = inner
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def storable(text: str) -> str:
    """Without halves of surrogate pairs, which no encoding takes."""
    return text.encode("utf-8", "replace").decode()


def _at(value: Any, *path: str | int) -> Any:
    """What stands in JSON at a path, None if nothing does."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _text(content: Any) -> str | None:
    """A message's content, or its parts that are text; None if it is neither."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list):
        return None
    said = (part for part in parts if _at(part, "type") in (None, "text", "output_text"))
    texts = (_at(part, "text") if isinstance(part, dict) else part for part in said)
    return "\n".join(text for text in texts if isinstance(text, str))


def _joined(stream: str) -> Any:
    """Of a server that streams though nobody asked for it; where that breaks off, what came last."""
    lines = [line[5:].strip() for line in stream.split("\n") if line.startswith("data:")]
    chunks = [_json(line) for line in lines if line not in ("", "[DONE]")] or [None]
    text = "".join(str(_at(chunk, "choices", 0, "delta", "content") or "") for chunk in chunks)
    ending = next((end for chunk in chunks if (end := _at(chunk, "choices", 0, "finish_reason"))), None)
    usage = next((counted for chunk in chunks if (counted := _at(chunk, "usage"))), None)
    whole = {"choices": [{"message": {"content": text}, "finish_reason": ending}], "usage": usage}
    return whole if ending else chunks[-1]


def _json(text: str) -> Any:
    """Python reads no number of more than 4,300 digits."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
