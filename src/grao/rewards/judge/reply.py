"""Defensive parsing of a server's replies: bounded in size, of any shape, with the key masked.

openai's client checks no types and httpx no sizes, so the body is read here, up to a limit, and only fields of the type
that the protocol specifies are used. Anything in place of an answer is reported in the server's own words.
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
"""Maximum bytes of a reply, decompressed: 100,000 tokens in the widest encoding."""
_SHOWN = 200
"""Characters of a server's text that a message shows at most."""
_HEADERS = ("retry-after", "location")
"""Headers that are used."""
_ENDINGS = {
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens"), "length"),
    **dict.fromkeys(("content_filter", "safety", "recitation", "prohibited_content", "blocklist"), "content_filter"),
    "refusal": "refusal",
}
"""{a server's lower-case finish reason: the protocol's}, of those that matter here."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields beside the answer that are paid for but not used."""


@dataclass(frozen=True)
class Mask(logging.Filter):
    """Masks a key, plain or in a common encoding, in texts and in log records of the HTTP libraries."""

    key: str | None = field(repr=False)

    def __call__(self, text: str) -> str:
        """Return the text with the key masked."""
        return self._forms.sub("***", text) if self._forms else text

    def line(self, text: str) -> str:
        """Return one short line with the key masked (a server may repeat it) and without control characters."""
        shown = self(text)[: 50 * _SHOWN]
        return self(" ".join("".join(char if char.isprintable() else " " for char in shown).split()))[:_SHOWN]

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with the key masked."""
        record.msg, record.args, record.exc_info = self(record.getMessage()), (), None
        return True

    def watch(self) -> None:
        """Mask the key in everything that the HTTP libraries log from now on, even in headers that repeat it."""
        for name in list(logging.root.manager.loggerDict):
            if re.match(r"(openai|httpx2?|httpcore2?)(\.|$)", name):
                logging.getLogger(name).addFilter(self)

    @cached_property
    def _forms(self) -> re.Pattern[str] | None:
        if not self.key:
            return None
        forms, raw = {self.key}, self.key.encode()
        if len(raw) >= 8:  # a shorter one is not a secret, and its encodings occur everywhere
            forms |= {quote(self.key, safe=""), json.dumps(self.key)[1:-1], html.escape(self.key), raw.hex()}
            forms |= {"".join(f"\\u{byte:04x}" for byte in raw)}
            for shift in range(3):  # the key inside a longer base64 text, where three bytes are four characters
                coded = b64encode(bytes(shift) + raw).decode()[-(-8 * shift // 6) : 8 * (shift + len(raw)) // 6]
                forms |= {coded, coded.translate(str.maketrans("+/", "-_"))}
        pattern = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        return re.compile(pattern, re.IGNORECASE if len(forms) > 1 else 0)


@dataclass(frozen=True)
class Completion:
    """A chat completion."""

    text: str
    """The answer without thoughts."""
    ending: str
    """Why the judge stopped: `stop`, `length`, `refusal`, `content_filter`, or the server's own word."""
    usage: tuple[Any, Any]
    """(input, output) tokens as the server reports them, unchecked."""
    thoughts: int
    """Upper bound of the bytes of its thoughts."""


@dataclass(frozen=True)
class Reply:
    """The reply to a request: a completion or an error."""

    status: int
    """HTTP status; for an error sent with a success status, the status in the error, 0 if it has none."""
    completion: Completion | None
    message: str
    """The server's message in place of a completion."""

    @classmethod
    def of(cls, response: Any) -> "Reply":
        """Parse a response of `bounded_client`."""
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
    """Return an HTTP client that reads at most `LONGEST` bytes and follows no redirects: the key goes to no other host.

    Raises:
        ImportError: if a proxy in the environment needs a missing package.
        OSError: if a certificate in the environment cannot be read.
        ValueError: if a proxy in the environment is malformed.
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
            headers = {name: response.headers[name] for name in _HEADERS if name in response.headers}
            headers["content-type"] = "text/plain; charset=utf-8"  # the server's own header is not to be trusted
            content = bytes(body[: LONGEST + 1])
            return type(response)(response.status_code, headers=headers, content=content, request=request)

    return Bounded(timeout=None, follow_redirects=False)


def _parsed(body: bytes) -> Any:
    """Parse JSON, or an event stream into the completion that it adds up to; return anything else as text."""
    text = body.decode("utf-8-sig", "replace")
    try:
        return _joined(text) if text.lstrip().startswith(("data:", "event:", ":")) else _json(text)
    except (ValueError, RecursionError):
        return text


def _completion(value: Any) -> Completion | None:
    """Return the first choice of a chat completion; None if the value is not one."""
    choices = _at(value, "choices")
    if not isinstance(choices, list) or not choices:
        return None
    choice = next((option for option in choices if _at(option, "index") == 0), choices[0])
    message = _at(choice, "message")
    content, refusal = _at(message, "content"), _at(message, "refusal")
    text, ending = _text(content), _at(choice, "finish_reason")
    if not isinstance(message, dict) or text is None:
        return None
    if isinstance(refusal, str) and refusal:
        text, ending = refusal, "refusal"
    ending = _ENDINGS.get(ending.lower(), ending) if isinstance(ending, str) and ending else "stop"
    usage = _at(value, "usage", "prompt_tokens"), _at(value, "usage", "completion_tokens")
    unread = [message[name] for name in _THOUGHTS if message.get(name)] + [content] * isinstance(content, list)
    thoughts = max((len(json.dumps(field)) for field in unread), default=0)
    return Completion(text, ending, usage, thoughts)


def _error(value: Any) -> Any:
    """Return the error in JSON, in place of a completion or beside it."""
    return _at(value, "error") or _at(value, "choices", 0, "error")


def _complaint(value: Any) -> str:
    """Return the message of a server's error, or else all that it sent."""
    value = _error(value) or value
    while isinstance(value, dict):
        inner = next((value[name] for name in ("error", "message", "detail", "msg") if value.get(name)), None)
        if inner is None:
            break
        value = inner
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def storable(text: str) -> str:
    """Replace unpaired surrogates, which no encoding accepts."""
    return text.encode("utf-8", "replace").decode()


def _at(value: Any, *path: str | int) -> Any:
    """Return the value at a path in JSON, None if there is none."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _text(content: Any) -> str | None:
    """Return the text of a message's content, or of its text parts; None if it has neither."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list):
        return None
    text_parts = (part for part in parts if _at(part, "type") in (None, "text", "output_text"))
    texts = (_at(part, "text") if isinstance(part, dict) else part for part in text_parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _joined(stream: str) -> Any:
    """Join the chunks of a server that streams unasked; if the stream breaks off, return the last chunk."""
    lines = [line[5:].strip() for line in stream.split("\n") if line.startswith("data:")]
    chunks = [_json(line) for line in lines if line not in ("", "[DONE]")] or [None]
    text = "".join(str(_at(chunk, "choices", 0, "delta", "content") or "") for chunk in chunks)
    ending = next((end for chunk in chunks if (end := _at(chunk, "choices", 0, "finish_reason"))), None)
    usage = next((counted for chunk in chunks if (counted := _at(chunk, "usage"))), None)
    whole = {"choices": [{"message": {"content": text}, "finish_reason": ending}], "usage": usage}
    return whole if ending else chunks[-1]


def _json(text: str) -> Any:
    """Parse JSON. Long integers become floats, because Python parses at most 4,300 digits."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
