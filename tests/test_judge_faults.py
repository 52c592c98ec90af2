"""A judge's server that is not to be trusted: whatever it sends, no verdict is lost, and nothing of it does harm.

All faults are sent in one go: each pair of texts has a fault of its own, by the name of its context.
"""

import base64
import gzip
import json
import logging
import math
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from grao.config.rewards import JudgeConfig
from grao.errors import InputError, RewardUnavailableError
from grao.rewards.judge.base import JudgedPair, Pair, orders_of
from grao.rewards.judge.client import Endpoint
from grao.rewards.judge.ledger import JudgeAnswer, Ledger, Question
from grao.rewards.judge.reply import LONGEST
from grao.rewards.judge.server import ServerJudge
from grao.rewards.judge.wording import PairVerdict, Template, load_template
from judge_server import Asked, JudgeServer, Told, completion, longer

KEY = "sk-very/secret+0123456789"
PRICES = {"price_input": 1000.0, "price_output": 1000.0}
DEEP = "[" * 100_000


def answer(told: Told) -> dict:
    """What the server would send, to be spoilt."""
    return completion(told)


def changed(change: Callable[[dict, dict], None]) -> Callable[[Told], Told]:
    """A completion with a change in it or in its only choice."""

    def spoil(told: Told) -> Told:
        whole = answer(told)
        change(whole, whole["choices"][0])
        return replace(told, raw=json.dumps(whole))

    return spoil


def message(**fields) -> Callable[[Told], Told]:
    """A message with other fields; of `{}` in a text, the verdict takes the place."""

    def spoil(told: Told) -> Told:
        whole = answer(told)
        filled = json.dumps(fields).replace("{}", told.text)
        whole["choices"][0]["message"].update(json.loads(filled))
        return replace(told, raw=json.dumps(whole))

    return spoil


def sent(head: str, body: str | bytes | None = None) -> Callable[[Told], Told]:
    """Over the wire as it is; the completion where there is no body, and `{n}` is its length."""

    def spoil(told: Told) -> Told:
        content = json.dumps(answer(told)) if body is None else body
        content = content.encode() if isinstance(content, str) else content
        lines = head.replace("{n}", str(len(content))).replace("\n", "\r\n") + "\r\n\r\n"
        return replace(told, wire=lambda write: write(lines.encode("latin-1") + content))

    return spoil


def endless(head: str, piece: bytes, pause: float = 0.0) -> Callable[[Told], Told]:
    """Goes on until the client hangs up."""

    def write_on(write: Callable[[bytes], object]) -> None:
        write((head.replace("\n", "\r\n") + "\r\n").encode())
        until = time.monotonic() + 20
        while time.monotonic() < until:
            write(piece)
            time.sleep(pause)

    return lambda told: replace(told, wire=write_on)


def instead(**changes) -> Callable[[Told], Told]:
    return lambda told: Told(**changes)


def usage(counted: object) -> Callable[[Told], Told]:
    return lambda told: replace(told, usage=counted)


def streamed(told: Told) -> Told:
    pieces = [{"delta": {"role": "assistant"}}, *({"delta": {"content": sign}} for sign in told.text)]
    pieces.append({"delta": {}, "finish_reason": "stop"})
    chunks = [json.dumps({"choices": [{"index": 0, **piece}]}) for piece in pieces]
    lines = [": hello", *(f"data: {chunk}" for chunk in chunks), "data: [DONE]", ""]
    return Told(raw="\n\n".join(lines), headers={"Content-Type": "text/event-stream"})


def compressed(told: Told) -> Told:
    return Told(raw=gzip.compress(json.dumps(answer(told)).encode()), headers={"Content-Encoding": "gzip"})


def other_choices(whole: dict, choice: dict) -> None:
    whole["choices"] = [{**choice, "index": 1, "message": {"content": "no verdict"}}, None, choice]


def zeros(mebibytes: int) -> bytes:
    """As gzip, made piece by piece."""
    press, piece = zlib.compressobj(1, wbits=31), bytes(2**20)
    return b"".join(press.compress(piece) for _ in range(mebibytes)) + press.flush()


BOMB = zeros(256)
OK = "HTTP/1.1 200 OK\nContent-Type: application/json"

READ: dict[str, Callable[[Told], Told]] = {
    "another model": changed(lambda whole, _: whole.update(model="something else", id=7, created="never")),
    "choices out of order": changed(other_choices),
    "no finish_reason": changed(lambda _, choice: choice.update(finish_reason=None)),
    "a finish_reason that is a list": changed(lambda _, choice: choice.update(finish_reason=["stop"])),
    "a finish_reason of another make": changed(lambda _, choice: choice.update(finish_reason="eos_token")),
    "an error that is null": changed(lambda whole, _: whole.update(error=None)),
    "parts": message(content=[{"type": "text", "text": "{}"}]),
    "parts with thoughts": message(
        content=[{"type": "thinking", "thinking": [{"type": "text", "text": "1 > 1"}]}, {"type": "text", "text": "{}"}]
    ),
    "parts that are texts": message(content=["So ", "{}"]),
    "a part in place of a list": message(content={"type": "output_text", "text": "{}"}),
    "reasoning_content": message(content="{}", reasoning_content="1 > 2? 1 = 2? 1 < 2?"),
    "reasoning": message(content="{}", reasoning={"text": "1 > 2? 1 = 2? 1 < 2?"}),
    "thinking": message(content="{}", thinking=[{"text": "1 > 2? 1 = 2? 1 < 2?"}]),
    "a closing tag alone": message(content="1 > 2? 1 < 2? 1 = 2?\n</think>\n\n{}"),
    "20,000 opening tags": message(content="<think>" * 20_000 + "</think>{}"),
    "half of a surrogate pair": message(content="\ud800 {} \udfff"),
    "control characters": message(content="\x00\x1b[31m {}\x07\u202e\u2066"),
    "its thoughts repeat the key": message(content=f"<think>{KEY}</think>{{}} Bearer {KEY}"),
    "the key in base64": message(content=f"{{}} {base64.b64encode(f'user:{KEY}'.encode()).decode()}"),
    "the key for an address": message(content=f"{{}} {urllib.parse.quote(KEY, safe='')}"),
    "the key as numbers": message(content=f"{{}} {KEY.encode().hex()} {json.dumps(KEY).replace('/', chr(92) + '/')}"),
    "ends with the key": changed(lambda _, choice: choice.update(finish_reason=f"stop {KEY}")),
    "a header repeats the key": lambda told: replace(told, headers={"X-Echo": KEY, "Set-Cookie": f"k={KEY}"}),
    "the reason repeats the key": sent(f"HTTP/1.1 200 {KEY}\nContent-Length: {{n}}"),
    "usage: none": usage(None),
    "usage: negative": usage({"prompt_tokens": -(10**6), "completion_tokens": -5}),
    "usage: nothing": usage({"prompt_tokens": 0, "completion_tokens": 0}),
    "usage: absurd": usage({"prompt_tokens": 10**18, "completion_tokens": 10**30}),
    "usage: texts": usage({"prompt_tokens": "100", "completion_tokens": None}),
    "usage: fractions": usage({"prompt_tokens": math.inf, "completion_tokens": math.nan}),
    "usage: true": usage({"prompt_tokens": True, "completion_tokens": True}),
    "usage: a list": usage([1, 2, 3]),
    "usage: 5,000 digits": lambda told: Told(raw=json.dumps(answer(told)).replace("100", "9" * 5000)),
    "fields twice": lambda told: Told(raw='{"choices": 1, ' + json.dumps(answer(told))[1:]),
    "a byte order mark": lambda told: Told(raw=b"\xef\xbb\xbf" + json.dumps(answer(told)).encode()),
    "bytes that are no UTF-8": lambda told: Told(
        raw=json.dumps(answer(replace(told, text=f"@@ {told.text}"))).encode().replace(b"@@", b"\xff\xc3\xed\xa0\x80")
    ),
    "called HTML": lambda told: replace(told, headers={"Content-Type": "text/html; charset=rot13"}),
    "an unknown encoding": lambda told: replace(told, headers={"Content-Type": "application/json; charset=klingon"}),
    "an event stream": streamed,
    "compressed": compressed,
    "status 201": lambda told: replace(told, status=201),
    "HTTP/1.0": sent("HTTP/1.0 200 OK\nContent-Type: application/json"),
    "no type, no length": sent("HTTP/1.1 200 OK\nConnection: close"),
    "100 Continue": sent(
        "HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: x\n\n" + OK + "\nContent-Length: {n}"
    ),
    "Retry-After on success": lambda told: replace(told, headers={"Retry-After": "3600"}),
}
"""Answers that hold a verdict all the same: asked once, and read."""

REPEATED: dict[str, Callable[[Told], Told]] = {
    "nothing at all": instead(cut=True),
    "an empty body": instead(raw=""),
    "204": sent("HTTP/1.1 204 No Content", ""),
    "101": sent("HTTP/1.1 101 Switching Protocols\nUpgrade: h2c\nConnection: upgrade", ""),
    "an error page": instead(raw=f"<html><body>Bad gateway {KEY}</body></html>", headers={"Content-Type": "text/html"}),
    "an error with status 200": instead(raw='{"error": {"message": "model is overloaded", "code": 503}}'),
    "an error as text": instead(raw='{"error": "busy"}'),
    "an error in a choice": changed(lambda _, choice: choice.update(error={"message": "provider broke", "code": 502})),
    "an error in a stream": instead(raw='data: {"error": {"message": "broke off"}}\n\n'),
    "a stream that breaks off": instead(raw='data: {"choices": [{"delta": {"content": "1 >"}}]}\n\ndata: {"cho'),
    "choices: none": changed(lambda whole, _: whole.update(choices=[])),
    "choices: null": changed(lambda whole, _: whole.update(choices=None)),
    "choices: a map": changed(lambda whole, _: whole.update(choices={"0": 1})),
    "choices: texts": changed(lambda whole, _: whole.update(choices=["1 > 2"])),
    "a message that is a text": changed(lambda _, choice: choice.update(message="1 > 2")),
    "content: a number": message(content=12),
    "a list": instead(raw="[1, 2]"),
    "half of the JSON": lambda told: Told(raw=json.dumps(answer(told))[:-20]),
    "deep JSON": instead(raw=DEEP),
    "deep JSON in a field": lambda told: Told(raw=f'{{"usage": {DEEP}'),
    "deep but whole JSON": instead(raw="[" * 900 + "]" * 900),
    "a long answer": instead(raw=json.dumps("x" * (LONGEST + 1))),
    "a bomb": instead(raw=BOMB, headers={"Content-Encoding": "gzip"}),
    "a bomb in a bomb": instead(raw=gzip.compress(BOMB), headers={"Content-Encoding": "gzip, gzip"}),
    "no gzip": instead(raw="1 > 2", headers={"Content-Encoding": "gzip"}),
    "a body that ends early": sent(OK + "\nContent-Length: 99999"),
    "a length that is too short": sent(OK + "\nContent-Length: 20"),
    "a length that is none": sent(OK + "\nContent-Length: many"),
    "two lengths": sent(OK + "\nContent-Length: 7\nContent-Length: 9"),
    "chunks that are none": sent(OK + "\nTransfer-Encoding: chunked", b"zz\r\n" + KEY.encode()),
    "chunks that never end": endless(OK + "\nTransfer-Encoding: chunked\n", b"8000\r\n" + b" " * 0x8000 + b"\r\n"),
    "a body that drips": endless(OK + "\nContent-Length: 99999\n", b" ", 0.1),
    "headers that never end": endless(OK, b"X-More: more and more and more\r\n"),
    "early hints that never end": endless("HTTP/1.1 103 Early Hints\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "no HTTP": sent("SSH-2.0-OpenSSH_9.6", b""),
    "a header that is none": sent(f"HTTP/1.1 200 OK\n{KEY}", b""),
    "status 99999": sent("HTTP/1.1 99999 What\nContent-Length: 0", ""),
    "a redirect later on": instead(status=307, headers={"Location": "http://127.0.0.1:9/v1/chat/completions"}, raw=""),
    "a redirect to nowhere": instead(status=302, headers={"Location": "http://[::1"}, raw=""),
    "404 later on": instead(status=404, raw="404 page not found"),
    "408": instead(status=408),
    "409": instead(status=409),
    "425": instead(status=425),
    "429 with a negative wait": instead(
        status=429, headers={"Retry-After": "-99"}, raw='{"error": {"message": "slow"}}'
    ),
    "429 with an endless wait": instead(status=429, headers={"Retry-After": "1e999"}),
    "429 until long ago": instead(status=429, headers={"Retry-After": "Mon, 01 Jan 0001 00:00:00 GMT"}),
    "429 until 10,000 years from now": instead(status=429, headers={"Retry-After": "Mon, 99 Jan 99999 00:00:00 GMT"}),
    "500": instead(status=500, raw=DEEP),
    "502": instead(status=502, raw="<html>"),
    "504": instead(status=504, raw=""),
    "520": instead(status=520, raw=b"\x00\xff" * 99),
    "529": instead(status=529, raw='{"type": "error", "error": {"type": "overloaded_error"}}'),
    "599": instead(status=599, raw='{"detail": [{"msg": "no"}]}'),
}
"""On the first attempt; the second is answered."""

MISSING: dict[str, Callable[[Told], Told]] = {
    "content: null": message(content=None),
    "content: null, thoughts": message(content=None, reasoning_content="So {}."),
    "thoughts only": message(content="<think>So {}"),
    "thoughts only, closed": message(content="So {}.\n</think>"),
    "thoughts as parts": message(content=[{"type": "thinking", "thinking": "{}", "text": "{}"}]),
    "no parts": message(content=[]),
    "a tool call": message(content=None, tool_calls=[{"function": {"name": "judge", "arguments": "{}"}}]),
    "a refusal": message(content="{}", refusal=f"I cannot judge that with {KEY}."),
    "content_filter": lambda told: replace(told, ending="content_filter"),
    "SAFETY": lambda told: replace(told, ending="SAFETY"),
    "cut while it thinks": lambda told: replace(told, text=f"Now {told.text}", ending="length"),
    "cut, in other words": lambda told: replace(told, text=f"Now {told.text}", ending="MAX_TOKENS"),
    "two verdicts": message(content="{}, or rather 1 = 2"),
    "400": instead(status=400, raw='{"error": {"message": "maximum context length is 8192 tokens"}}'),
    "403 later on": instead(status=403, raw='{"error": {"message": "flagged by moderation"}}'),
    "405": instead(status=405, raw=""),
    "413": instead(status=413, raw="<html>Request entity too large</html>"),
    "418": instead(status=418, raw="I'm a teapot"),
    "422": instead(status=422, raw='{"detail": [{"loc": ["body"], "msg": "bad"}]}'),
    "422 with a wait": instead(status=422, raw="no", headers={"Retry-After": "3600"}),
    "451": instead(status=451, raw=f"Unavailable for legal reasons, {KEY}"),
    "400 with status 200": instead(raw='{"error": {"message": "bad request", "code": 400}}'),
}
"""There is no verdict, and another attempt would bring none: asked once."""


@dataclass
class Outcome:
    """What came of all faults together."""

    judged: dict[str, JudgedPair]
    asked: Counter[str]
    said: str
    files: list[bytes]
    judge: ServerJudge
    answers: list[JudgeAnswer]
    seconds: float


def quick(url: str, folder: Path, key: str | None = KEY, run: str = "run", **changes) -> ServerJudge:
    """A judge that is quick to repeat and to give up."""
    settings = {"base_url": url, "retries": 2, "timeout": 3.0, "patience": 30.0, "concurrency": 24, **changes}
    config = JudgeConfig(model="judge", **settings)
    return ServerJudge(Endpoint(config, key), load_template("helpful"), Ledger(folder / "ledger.sqlite", run))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grao.rewards.judge.client.backoff", lambda attempts, key: 0.02 * attempts)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One comparison in which every pair meets its own fault, with everything logged that can be."""

    def script(asked: Asked) -> Told:
        told = longer(asked)
        spoil = READ.get(asked.context) or MISSING.get(asked.context) or REPEATED.get(asked.context)
        return told if spoil is None or (asked.context in REPEATED and asked.attempt) else spoil(told)

    folder = tmp_path_factory.mktemp("faults")
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(logging.Formatter().format(record))
    patch = pytest.MonkeyPatch()
    patch.setattr("grao.rewards.judge.client.backoff", lambda attempts, key: 0.02 * attempts)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with JudgeServer(script).running() as server:
            judge = quick(server.url, folder, **PRICES)
            judge.check()
            pairs = [Pair(name, "aa", "b") for name in (*READ, *REPEATED, *MISSING)]
            begin = time.monotonic()
            judged = dict(zip([pair.prompt for pair in pairs], judge.compare(pairs), strict=True))
            seconds = time.monotonic() - begin
            asked = Counter(each.context for each in server.asked)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        patch.undo()
    ledger = [path.read_bytes() for path in folder.iterdir()]
    known = judge.ledger.find(judge._question(order) for pair in pairs for order in orders_of(pair, "both", 0))
    return Outcome(judged, asked, "\n".join(said), ledger, judge, list(known.values()), seconds)


@pytest.mark.parametrize("name", READ)
def test_an_odd_answer_with_a_verdict_is_read_and_asked_for_once(outcome: Outcome, name: str):
    assert outcome.judged[name].value == 1.0
    assert outcome.asked[name] == 2  # once in each order


@pytest.mark.parametrize("name", REPEATED)
def test_a_failed_attempt_is_repeated_and_loses_nothing(outcome: Outcome, name: str):
    assert outcome.judged[name].value == 1.0
    assert outcome.asked[name] == 4


@pytest.mark.parametrize("name", MISSING)
def test_no_verdict_is_made_up(outcome: Outcome, name: str):
    assert math.isnan(outcome.judged[name].value)
    assert outcome.asked[name] == 2


def test_there_are_many_faults_and_they_take_no_time(outcome: Outcome):
    assert len(READ) + len(REPEATED) + len(MISSING) >= 60
    assert outcome.seconds < 30


def test_the_key_is_in_no_file_and_no_record(outcome: Outcome):
    coded = {base64.b64encode(bytes(shift) + KEY.encode()).decode()[4:-4] for shift in range(3)}
    for form in (KEY, urllib.parse.quote(KEY, safe=""), KEY.encode().hex(), *coded):
        assert form not in outcome.said
        assert all(form.encode() not in content for content in outcome.files)
    assert "X-Echo" in outcome.said
    assert "***" in outcome.said


def test_what_a_server_counts_never_breaks_the_cap(outcome: Outcome):
    assert len(outcome.answers) > 100
    for said in outcome.answers:
        assert 0 < said.input_tokens < 3000  # no more than a token a byte
        assert 0 <= said.output_tokens <= 512
        assert said.cost == pytest.approx((said.input_tokens + said.output_tokens) / 1000)


def test_messages_are_one_line_in_the_servers_words(outcome: Outcome):
    assert "questions failed; last error: " in outcome.said
    assert "answers were cut off before a verdict; example: 'Now 1 " in outcome.said
    assert "it was cut off at the token limit: raise max_tokens (512)" in outcome.said


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            Told(raw="<html>\n<b>Portal</b>\x00\x1b[2J login \u202e</html>"),
            r"'<html> <b>Portal</b> \[2J login </html>'",
        ),
        (Told(raw='{"error": {"message": "model is loading"}}'), "last error: model is loading"),
        (Told(raw='{"error": "no such model"}'), "last error: no such model"),
        (Told(raw=""), "the answer is not a chat completion but empty; check the end of base_url"),
        (Told(raw='{"object": "error", "message": "Only \\"text\\""}'), "not a chat completion but 'Only \"text\"'"),
        (Told(status=503, raw='{"detail": "warming up"}'), "last error: 503 warming up"),
        (Told(status=500, raw=f"key {KEY} " + "x" * 999), r"500 key \*\*\* x{192}$"),
        (Told(raw=json.dumps("y" * (LONGEST + 1))), "an answer of more than 2,097,152 bytes"),
        (Told(status=529, raw="sk-very/sec\x00ret+0123456789"), "529 sk-very/sec ret"),
    ],
)
def test_what_stands_in_place_of_an_answer_is_shown(tmp_path: Path, told: Told, message: str):
    with JudgeServer(lambda asked: told).running() as server, pytest.raises(RewardUnavailableError) as caught:
        quick(server.url, tmp_path, patience=0.2).compare([Pair("q", "aa", "b")])
    assert caught.match(message)
    assert str(caught.value).isprintable()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        (
            Told(status=402, raw='{"error": {"message": "no money"}}'),
            RewardUnavailableError,
            "requires payment: 402 no money",
        ),
        (Told(status=410, raw="gone"), InputError, "was not found: 410 gone; check model and base_url"),
        (Told(raw='{"error": {"message": "who?", "code": 401}}'), InputError, "rejects the key: 401 who?"),
        (Told(raw='{"error": {"message": "no judge", "code": 404}}'), InputError, "was not found: 404 no judge"),
        (
            Told(status=308, headers={"Location": "/v2/chat/completions"}),
            InputError,
            "redirects to '/v2' .308.; redirects are not followed",
        ),
    ],
)
def test_what_never_worked_stops_at_once(tmp_path: Path, told: Told, error: type[Exception], message: str):
    with JudgeServer(lambda asked: told).running() as server:
        for use in (ServerJudge.check, lambda judge: judge.compare([Pair("q", "aa", "b")])):
            with pytest.raises(error, match=message) as caught:
                use(quick(server.url, tmp_path))
            assert KEY not in str(caught.value)
        assert len(server.asked) <= 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(tmp_path: Path, status: int):
    with JudgeServer().running() as other, JudgeServer().running() as server:
        target = f"{other.url}/chat/completions?echo={KEY}"
        server.script = lambda asked: Told(status=status, headers={"Location": target}, raw="")
        with pytest.raises(InputError, match=f"redirects to '{other.url}.*set it as base_url") as caught:
            quick(server.url, tmp_path).check()
        assert KEY not in str(caught.value)
        assert not other.asked


@pytest.mark.parametrize("address", ["https://127.0.0.1:{port}/v1", "http://127.0.0.1:9/v1", "http://a..b/v1"])
def test_who_cannot_be_reached_is_said(tmp_path: Path, address: str):
    with JudgeServer().running() as server:
        judge = quick(address.format(port=server.url[17:-3]), tmp_path, patience=0.3)
        with pytest.raises(RewardUnavailableError, match="last error: ") as caught:
            judge.compare([Pair("q", "aa", "b")])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("name", "value"), [("HTTP_PROXY", "gopher://x:1"), ("SSL_CERT_FILE", "/no/such/file")])
def test_a_setting_of_the_environment_that_is_no_use_is_said(tmp_path: Path, monkeypatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="proxy or certificate in the environment: "):
        quick("http://127.0.0.1:9/v1", tmp_path, patience=0.3).check()


def test_a_proxy_of_the_environment_is_used(tmp_path: Path, monkeypatch):
    paths: list[str] = []
    with JudgeServer(lambda asked: Told(status=418, raw="I am a proxy")).running() as proxy:
        proxy.arrive, proxy.leave = (lambda path, *_: paths.append(path)), lambda *_: None
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        with pytest.raises(RewardUnavailableError, match="418 I am a proxy"):
            quick("http://judge.example/v1", tmp_path).check()
    assert paths == ["http://judge.example/v1/chat/completions"]


def test_failures_of_small_batches_add_up(tmp_path: Path):
    with JudgeServer(lambda asked: Told(status=400, raw="no")).running() as server:
        judge = quick(server.url, tmp_path)
        for number in range(3):
            judge.compare([Pair(f"{number}.{part}", "aa", "b") for part in range(2)])
        with pytest.raises(RewardUnavailableError, match="4 of 4 questions failed; last error: 400 no"):
            judge.compare([Pair(f"last.{part}", "aa", "b") for part in range(2)])


def test_a_judge_whose_first_answer_holds_no_verdict_is_named_at_once(tmp_path: Path, caplog):
    with JudgeServer(lambda asked: Told("Hm, 1 <", ending="length")).running() as server:
        judge = quick(server.url, tmp_path, max_tokens=4)
        judge.check()
        assert "its first answer contains no verdict; example: 'Hm, 1 <'; it was cut off" in caplog.text
        with pytest.raises(InputError, match=r"none of its 2 answers contains a verdict.*raise max_tokens \(4\)"):
            judge.compare([Pair("q", "aa", "b")])
        asked = len(server.asked)
        again = quick(server.url, tmp_path, max_tokens=4)
        again.check()
        with pytest.raises(InputError, match="none of its 2 answers"):  # at the next start too, and nothing is asked
            again.compare([Pair("q", "aa", "b")])
        assert len(server.asked) == asked


BOMBED = """
import resource, sys
from pathlib import Path
from grao.config.rewards import JudgeConfig
from grao.errors import RewardUnavailableError
from grao.rewards.judge.base import Pair
from grao.rewards.judge.client import Endpoint
from grao.rewards.judge.ledger import Ledger
from grao.rewards.judge.server import ServerJudge
from grao.rewards.judge.wording import load_template
config = JudgeConfig(model="judge", base_url=sys.argv[1], timeout=1.0, patience=2.0)
judge = ServerJudge(Endpoint(config), load_template("helpful"), Ledger(Path(sys.argv[2])))
judge.check()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
try:
    judge.compare([Pair(f"q {i}", "aa", "b") for i in range(40)])
except RewardUnavailableError as error:
    print(peak() - before, error)
"""


def test_bombs_take_no_memory(tmp_path: Path):
    """Of the client alone, in a process of its own: bombs, endless bodies, and JSON that swells when it is read."""
    swelling = b"[" + b"[],{}," * (LONGEST // 6 - 1) + b"1]"
    faults = [
        Told(raw=BOMB, headers={"Content-Encoding": "gzip"}),
        Told(raw=gzip.compress(BOMB), headers={"Content-Encoding": "gzip, gzip"}),
        Told(raw=BOMB, status=500, headers={"Content-Encoding": "gzip"}),
        Told(raw=swelling),
        endless(OK + "\nTransfer-Encoding: chunked\n", b"8000\r\n" + b" " * 0x8000 + b"\r\n")(Told()),
        endless(OK + "\nTransfer-Encoding: chunked\n", b"1\r\n \r\n" * 4000)(Told()),
    ]
    with JudgeServer(
        lambda asked: faults[asked.number % 6] if "q" in asked.context else longer(asked)
    ).running() as server:
        words = [sys.executable, "-c", BOMBED, server.url, str(tmp_path / "ledger.sqlite")]
        found = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "no answer for 2 s" in found
    assert int(found.split()[0]) < 300


def test_three_processes_share_a_tight_cap_to_the_end(tmp_path: Path):
    """What the others hold back is waited for: all that is asked for together costs a fraction of the cap."""
    server = JudgeServer(lambda asked: replace(longer(asked), delay=0.01))
    with server.running():
        judges = [
            quick(server.url, tmp_path, **PRICES, max_cost=60.0, max_tokens=40_000, concurrency=4) for _ in range(3)
        ]
        bound = judges[0].endpoint.bound(judges[0]._known.content)
        assert 60.0 / 2 < bound < 60.0  # one request at a time
        results: list[list[float]] = []

        def ask(number: int) -> None:
            pairs = [Pair(f"question {number} {i}", "aa", "b") for i in range(4)]
            results.append([judged.value for judged in judges[number].compare(pairs)])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [[1.0] * 4] * 3
        assert judges[0].ledger.spent("judge") < 60 * 0.06
        assert judges[0].ledger.reserved("judge") == 0


def test_what_a_dead_process_held_back_is_not_waited_for(tmp_path: Path):
    with JudgeServer().running() as server:
        judge = quick(server.url, tmp_path, **PRICES, max_cost=60.0, max_tokens=40_000)
        judge.ledger.reserve("judge", 50.0, 60.0, seconds=-10.0 + 0.5)  # it is killed, half a second is left
        begin = time.monotonic()
        with pytest.raises(
            RewardUnavailableError, match=r"up to 50 for requests without an answer; .* exceed max_cost 60"
        ):
            judge.check()
        assert 0.4 < time.monotonic() - begin < 5
        assert not server.asked


QUESTION = Question("judge", Template("mine", "{context} {text_1} {text_2}"), "context", "one", "two")
ANSWER = JudgeAnswer("1 > 2", "stop", PairVerdict.FIRST)


def garbage(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + os.urandom(5000))


def cut_off(path: Path) -> None:
    kept = Ledger(path)
    kept.add(QUESTION, ANSWER)
    kept.close()
    path.write_bytes(path.read_bytes()[:9000])


def spoilt(statement: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        kept = Ledger(path)
        kept.add(QUESTION, ANSWER)
        kept.close()
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.mkdir, "unable to open"),
        (garbage, "cannot be used"),
        (cut_off, "malformed|not a database|disk image|disk I/O"),
        (spoilt("PRAGMA user_version = 7"), "it was written by a newer version of grao"),
        (spoilt("UPDATE answers SET verdict = 'maybe'"), "'maybe' is not a valid PairVerdict"),
        (spoilt("ALTER TABLE answers RENAME COLUMN ending TO whatever"), "no such column|ending"),
        (os.mkfifo, "cannot be used"),
    ],
)
def test_a_ledger_that_cannot_be_used_is_one_line(tmp_path: Path, spoil: Callable[[Path], None], message: str):
    path = tmp_path / "ledger.sqlite"
    spoil(path)
    with pytest.raises(InputError, match=message) as caught:
        Ledger(path).find([QUESTION])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x" * 300, "file/ledger.sqlite", "nul\0.sqlite"])
def test_a_path_that_can_be_no_ledger_is_one_line(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / name)
    assert ledger.find([QUESTION]) == {}
    with pytest.raises(InputError, match="cannot be used"):
        ledger.add(QUESTION, ANSWER)


def test_a_locked_ledger_is_one_line_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grao.rewards.judge.ledger._PATIENCE", 0.2)
    other = Ledger(tmp_path / "ledger.sqlite")
    other.add(QUESTION, ANSWER)
    with other._open() as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="database is locked"):
            Ledger(other.path).add(replace(QUESTION, sample=1), ANSWER)
        connection.rollback()


def test_a_full_disk_is_one_line(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(QUESTION, ANSWER)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(ledger.path), hard))
    try:
        with pytest.raises(InputError, match=r"cannot be used: (disk I/O error|database or disk is full)"):
            ledger.add(replace(QUESTION, sample=1), replace(ANSWER, text="x" * 10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    ledger.add(replace(QUESTION, sample=1), ANSWER)
    assert len(ledger.find([QUESTION, replace(QUESTION, sample=1)])) == 2


def test_the_run_of_a_folder_whose_name_is_no_text(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite", run="/runs/\udcff")
    ledger.add(QUESTION, replace(ANSWER, cost=0.5))
    assert ledger.spent("judge") == 0.5
