"""The judge's real client against a real server on this machine: verdicts, failures, limits, cost, the ledger."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from grao.config.rewards import JudgeConfig
from grao.errors import InputError, RewardUnavailableError
from grao.rewards.judge.base import JudgeTally, Pair
from grao.rewards.judge.client import Endpoint
from grao.rewards.judge.ledger import Ledger
from grao.rewards.judge.server import ServerJudge
from grao.rewards.judge.wording import PairVerdict, load_template
from judge_server import Asked, JudgeServer, Told, longer

KEY = "sk-very-secret-0123456789"
PAIRS = [Pair(f"question {i}", "a" * (1 + i % 3), "b" * (1 + i % 2)) for i in range(12)]
VALUES = [float((i % 3 > i % 2) - (i % 3 < i % 2)) for i in range(12)]

Script = Callable[[Asked], Told]


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer().running() as running:
        yield running


@pytest.fixture
def judge(server: JudgeServer, tmp_path: Path) -> Callable[..., ServerJudge]:
    """Builds one; quick to repeat and to give up."""

    def build(run: str = "run", **changes) -> ServerJudge:
        settings = {"retries": 2, "timeout": 5.0, "patience": 8.0, "base_url": server.url, **changes}
        key = settings.pop("key", KEY)
        endpoint = Endpoint(JudgeConfig(model="judge", **settings), key)
        return ServerJudge(endpoint, load_template("helpful"), Ledger(tmp_path / "ledger.sqlite", run))

    return build


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grao.rewards.judge.client.backoff", lambda attempts, key: 0.02 * attempts)


def values(judge: ServerJudge, pairs=PAIRS) -> list[float]:
    return [found.value for found in judge.compare(pairs)]


def nth(number: int, told: Told) -> Script:
    """The rule, but for one request."""
    return lambda asked: told if asked.number == number else longer(asked)


def first_attempts(told: Told, attempts: int = 1) -> Script:
    """The rule, but not at once."""
    return lambda asked: told if asked.attempt < attempts else longer(asked)


def test_both_orders_are_asked_once_and_never_again(server, judge):
    asking = judge()
    assert values(asking) == VALUES
    assert asking.tally == JudgeTally(requests=24)
    assert all(found.a_first is found.b_first for found in asking.compare(PAIRS))
    assert asking.tally == JudgeTally(cached=24)
    assert values(judge()) == VALUES
    assert len(server.asked) == 24
    assert {(asked.text_1, asked.text_2) for asked in server.asked if asked.context == "question 2"} == {
        ("aaa", "b"), ("b", "aaa"),
    }  # fmt: skip


def test_what_is_sent(server, judge):
    judge(temperature=0.5, max_tokens=9, extra={"seed": 3}).compare(PAIRS[:1])
    asked = server.asked[0]
    assert {name: asked.body[name] for name in asked.body if name != "messages"} == {
        "model": "judge", "temperature": 0.5, "max_tokens": 9, "seed": 3,
    }  # fmt: skip
    assert [message["role"] for message in asked.body["messages"]] == ["user"]
    assert {name.lower(): value for name, value in asked.headers.items()}["authorization"] == f"Bearer {KEY}"


def test_the_same_question_is_asked_once_in_a_batch(server, judge):
    assert values(judge(), [Pair("q", "aa", "a")] * 5 + [Pair(" q", "aa ", "a\n")]) == [1.0] * 6
    assert values(judge(), [Pair("q", "a", "aa")]) == [-1.0]
    assert len(server.asked) == 2


def test_another_draw_is_another_question(server, judge):
    asking = judge()
    asking.compare(PAIRS[:1])
    asking.compare(PAIRS[:1], sample=1)
    assert asking.tally.requests == 2
    assert len(server.asked) == 4


def test_a_judge_that_always_prefers_the_first_text_decides_nothing(server, judge):
    server.script = lambda asked: Told("1 > 2")
    found = judge().compare(PAIRS)
    assert [one.value for one in found] == [0.0] * 12
    assert all(one.flipped for one in found)
    assert {(one.a_first, one.b_first) for one in found} == {(PairVerdict.FIRST, PairVerdict.SECOND)}


def test_one_order_asks_half(server, judge):
    assert values(judge(orders="one")) == VALUES
    assert len(server.asked) == 12
    firsts = [asked.text_1 == PAIRS[int(asked.context.split()[1])].a for asked in server.asked]
    assert 0 < sum(firsts) < 12
    assert values(judge(orders="both")) == VALUES
    assert len(server.asked) == 24  # the other half


@pytest.mark.parametrize(
    ("told", "unreadable"),
    [
        (Told("Both are fine."), 1),
        (Told("1 > 2 or 1 < 2"), 1),
        (Told(""), 1),
        (Told(refusal="I cannot judge this: 1 > 2"), 1),
        (Told("1 > 2", ending="content_filter"), 1),
        (Told("Let me think whether 1 > 2", ending="length"), 1),
        (Told("１ ＞ ２", ending="length"), 0),
    ],
)
def test_unreadable_and_refused_are_missing_and_not_asked_again(server, judge, told: Told, unreadable: int):
    server.script = lambda asked: told if (asked.context, asked.text_1) == ("question 2", "b") else longer(asked)
    asking = judge()
    found = values(asking)
    assert math.isnan(found[2]) == bool(unreadable)
    assert found[:2] + found[3:] == VALUES[:2] + VALUES[3:]
    assert asking.tally.unreadable == unreadable
    assert values(judge()) == pytest.approx(found, nan_ok=True)
    assert len(server.asked) == 24


@pytest.mark.parametrize(
    "told",
    [
        Told(status=500),
        Told(status=503, raw="<html>busy</html>", headers={"Content-Type": "text/html"}),
        Told(status=408),
        Told(cut=True),
        Told(raw="garbage"),
        Told(raw="<html>a proxy</html>", headers={"Content-Type": "text/html"}),
        Told(raw='{"choices": []}'),
        Told(raw='{"choices": [{"message": null}]}'),
        Told(raw='{"error": {"message": "an error with status 200"}}'),
        Told(raw="[1, 2]"),
        Told(raw="null"),
    ],
    ids=lambda told: told.raw or ("cut" if told.cut else str(told.status)),
)
def test_what_fails_once_is_repeated(server, judge, told: Told):
    server.script = first_attempts(told)
    asking = judge()
    assert values(asking) == VALUES
    assert asking.tally == JudgeTally(requests=24)
    assert len(server.asked) == 48


def test_an_answer_that_never_comes_is_asked_for_again(server, judge):
    server.script = nth(3, Told(delay=8))
    begin = time.monotonic()
    assert values(judge(timeout=2.0)) == VALUES
    assert time.monotonic() - begin < 7
    assert len(server.asked) == 25


def test_an_answer_that_drips_is_bounded_as_a_whole(judge, tmp_path: Path):
    import socket

    dripping = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = dripping.accept()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
        for _ in range(20):
            time.sleep(0.1)
            try:
                connection.sendall(b" ")
            except OSError:
                break
        connection.close()

    thread = threading.Thread(target=drip)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(RewardUnavailableError, match=r"no answer within 0\.3 s"):
        judge(base_url=f"http://127.0.0.1:{dripping.getsockname()[1]}/v1", timeout=0.3, patience=0.3).compare(PAIRS[:1])
    assert time.monotonic() - begin < 1.9
    dripping.close()
    thread.join()


def test_retry_after_holds_for_all(server, judge):
    server.script = nth(0, Told(status=429, headers={"Retry-After": "0.6"}))
    assert values(judge(concurrency=2)) == VALUES
    waited = [moment - server.times[0] for moment in server.times]
    assert len(waited) == 25
    assert sum(seconds < 0.58 for seconds in waited) <= 3  # what was under way when the server said so


def test_retry_after_may_be_a_date(server, judge):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.script = nth(0, Told(status=503, headers={"Retry-After": soon}))
    values(judge(concurrency=1))
    assert 0.5 < server.times[1] - server.times[0] < 2.5


@pytest.mark.parametrize("value", ["-3", "nan", "inf", "soon", ""])
def test_a_retry_after_that_says_nothing_is_passed_over(server, judge, value: str):
    server.script = first_attempts(Told(status=429, headers={"Retry-After": value}))
    begin = time.monotonic()
    assert values(judge()) == VALUES
    assert time.monotonic() - begin < 10


def test_who_asks_to_wait_longer_than_patience_stops_the_run(server, judge):
    server.script = lambda asked: Told(status=429, headers={"Retry-After": "3600"}, raw='{"error":{"message":"quota"}}')
    with pytest.raises(RewardUnavailableError, match=r"it asks to wait 3600 s, but patience is 8 s; .*: 429 quota"):
        judge().compare(PAIRS)
    assert len(server.asked) <= 24


def test_a_question_that_always_fails_is_given_up_and_the_others_are_not(server, judge, caplog):
    server.script = lambda asked: Told(status=500) if asked.context == "question 4" else longer(asked)
    asking = judge()
    found = values(asking)
    assert math.isnan(found[4])
    assert found[:4] + found[5:] == VALUES[:4] + VALUES[5:]
    assert asking.tally == JudgeTally(requests=24, failed=2)
    assert f"judge at {server.url}: 2 of 24 questions failed; last error: " in caplog.text
    server.script = longer
    assert values(judge()) == VALUES  # failures are not kept


def test_questions_that_are_at_fault_do_not_stop_the_run_when_they_are_alone(server, judge):
    values(judge())
    server.script = lambda asked: Told(status=500) if asked.context == "poison" else longer(asked)
    begin = time.monotonic()
    asking = judge()
    assert all(math.isnan(value) for value in values(asking, [Pair("poison", "x" * i, "y") for i in range(6)]))
    assert asking.tally.failed == 12
    assert time.monotonic() - begin < 12


def test_a_request_that_the_server_rejects_is_not_repeated(server, judge):
    words = '{"error": {"message": "maximum context length is 4096 tokens"}}'
    server.script = lambda asked: Told(status=400, raw=words) if asked.context == "question 4" else longer(asked)
    asking = judge()
    assert sum(map(math.isnan, values(asking))) == 1
    assert len(server.asked) == 24


def test_a_judge_that_rejects_everything_stops_the_run(server, judge):
    server.script = lambda asked: Told(status=400, raw='{"error": {"message": "max_tokens is not supported"}}')
    with pytest.raises(
        RewardUnavailableError, match=r"24 of 24 questions failed; last error: 400 max_tokens is not supp"
    ):
        judge().compare(PAIRS)


@pytest.mark.parametrize("told", [Told(status=503), Told(cut=True), Told(raw="garbage")])
def test_a_judge_that_is_down_stops_the_run_in_time(server, judge, told: Told):
    server.script = lambda asked: told
    begin = time.monotonic()
    with pytest.raises(RewardUnavailableError, match=r"judge judge at http://127.0.0.1:\d+/v1: no answer for 1 s; la"):
        judge(patience=1.0).compare(PAIRS)
    assert 1.0 <= time.monotonic() - begin < 6


def test_a_judge_that_hangs_stops_the_run_in_time(server, judge):
    server.script = lambda asked: Told(delay=3)
    begin = time.monotonic()
    with pytest.raises(RewardUnavailableError, match=r"no answer for 1 s; last error: no answer within"):
        judge(patience=1.0, timeout=0.4).compare(PAIRS)
    assert 1.0 <= time.monotonic() - begin < 8


def test_a_judge_that_is_not_there_stops_the_run_in_time(judge):
    with pytest.raises(
        RewardUnavailableError, match=r"no answer for 3 s; last error: (cannot connect|no answer within)"
    ):
        judge(base_url="http://127.0.0.1:9/v1", patience=3.0).compare(PAIRS)


def test_an_outage_within_the_patience_loses_no_verdict(server, judge):
    begin = time.monotonic()
    down, up = Told(cut=True, delay=0.02), Told("1 > 2", delay=0.02)
    server.script = lambda asked: (
        down if 0.1 < time.monotonic() - begin < 1.2 else up if len(asked.text_1) > 1 else Told("1 < 2", delay=0.02)
    )
    pairs = [Pair(f"q {i}", "aa", "a") for i in range(100)]
    asking = judge(concurrency=4, retries=1)
    assert values(asking, pairs) == [1.0] * 100
    assert time.monotonic() - begin > 1.2
    assert asking.tally.failed == 0
    assert {count for content, count in server.answered.items() if "capital of France" not in content} == {1}


def test_answers_before_an_outage_are_kept(server, judge):
    server.script = lambda asked: longer(asked) if asked.number < 10 else Told(status=503)
    with pytest.raises(RewardUnavailableError):
        judge(patience=1.5, concurrency=2).compare(PAIRS)
    while server.open_requests:  # they must not get answers of the next script
        time.sleep(0.01)
    server.script = longer
    asking = judge()
    assert values(asking) == VALUES
    assert asking.tally == JudgeTally(requests=14, cached=10)
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            Told(status=401, raw=f'{{"error": {{"message": "Incorrect API key: {KEY}"}}}}'),
            r"rejects the key: 401 .* \*\*\*",
        ),
        (Told(status=403, raw="{}"), "rejects the key: .*403"),
        (
            Told(status=404, raw='{"error": {"message": "no model judge"}}'),
            "was not found: 404 no model judge; check model",
        ),
        (Told(status=404, raw="Not Found", headers={"Content-Type": "text/plain"}), "check model and base_url"),
    ],
)
def test_a_wrong_key_or_address_is_the_users_mistake(server, judge, told: Told, message: str):
    server.script = lambda asked: told
    for use in (ServerJudge.check, values):
        with pytest.raises(InputError, match=message) as caught:
            use(judge())
        assert KEY not in str(caught.value)
        assert "\n" not in str(caught.value)
    server.script = lambda asked: Told(status=401)
    with pytest.raises(InputError, match=r"requires a key \(set api_key_env\)"):
        judge(key=None).check()


def test_a_check_asks_one_question_once(server, judge):
    judge().check()
    judge().check()
    assert len(server.asked) == 1
    assert values(judge()) == VALUES
    assert len(server.asked) == 25


def test_a_check_of_a_judge_that_is_down(server, judge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grao.rewards.judge.server._CHECK_PATIENCE", 0.5)
    server.script = lambda asked: Told(status=503)
    with pytest.raises(RewardUnavailableError, match=r"no answer for 0\.5 s; last error: .*503"):
        judge().check()


def test_as_many_requests_at_once_as_allowed(server, judge):
    server.script = lambda asked: Told(delay=0.05)
    judge(concurrency=5).compare(PAIRS)
    assert server.most_at_once == 5


def test_a_rate_limit_counts_every_attempt(server, judge):
    server.script = nth(2, Told(status=500))
    values(judge(rate_limit=1200), PAIRS[:6])
    assert len(server.times) == 13
    assert server.times[-1] - server.times[0] > 0.95 * 12 * 60 / 1200


def test_replay_takes_all_from_the_ledger(server, judge):
    first = judge().compare(PAIRS)
    server.script = lambda asked: Told(status=500)
    replayed = judge(replay=True, base_url="http://127.0.0.1:9/v1", key=None)
    replayed.check()
    assert replayed.compare(PAIRS) == first
    assert replayed.tally == JudgeTally(cached=24)
    with pytest.raises(InputError, match=r"replay: 2 of 26 answers are not in .*ledger.sqlite; set replay: false"):
        replayed.compare([*PAIRS, Pair("new", "a", "b")])
    assert len(server.asked) == 24


PRICES = {"price_input": 1000.0, "price_output": 10_000.0}  # a verdict: 100 tokens in, 5 out = 0.15


def test_cost_is_counted_and_remembered(server, judge):
    asking = judge(**PRICES)
    asking.compare(PAIRS[:2])
    assert asking.tally.cost == pytest.approx(4 * 0.15)
    assert asking.ledger.spent("judge") == pytest.approx(4 * 0.15)
    asking.compare(PAIRS[:2])
    assert asking.tally.cost == 0.0


def test_a_cap_stops_before_it_is_passed_and_counts_earlier_starts(server, judge):
    few = {**PRICES, "temperature": None, "max_tokens": 5, "max_cost": 3.0}

    def bound(asked: Asked) -> float:
        return judge(**few).endpoint.bound(asked.body["messages"][0]["content"])

    with pytest.raises(RewardUnavailableError, match=r"the judge has cost .* could exceed max_cost 3; raise max_cost"):
        judge(**few).compare(PAIRS)
    spent = judge().ledger.spent("judge")
    assert spent == pytest.approx(0.15 * len(server.asked))
    most = max(map(bound, server.asked))
    assert 3.0 - most < spent <= 3.0  # one more might have passed it
    answered = len(server.asked)
    with pytest.raises(RewardUnavailableError, match="max_cost 3"):
        judge(**few).compare(PAIRS)
    assert len(server.asked) == answered
    assert values(judge(**{**few, "max_cost": 30.0})) == VALUES
    assert set(server.answered.values()) == {1}
    judge(run="another", **few).compare([Pair("mine", "a", "b")])


def test_a_request_in_doubt_counts_as_paid(server, judge):
    server.script = lambda asked: Told(cut=True)
    few = {**PRICES, "temperature": None, "max_tokens": 5, "max_cost": 3.0, "patience": 30.0, "retries": 100}
    with pytest.raises(RewardUnavailableError, match="max_cost 3"):
        judge(**few).compare(PAIRS)
    assert 1 <= len(server.asked) <= 3
    server.asked.clear()
    server.script = lambda asked: Told(status=500) if asked.attempt < 5 else longer(asked)
    with pytest.raises(RewardUnavailableError, match=r"plus up to 2\.\d+ for requests without an answer; the next"):
        judge(**few).compare(PAIRS)  # also in another process, or after a kill
    assert not server.asked
    assert values(judge(run="another", **few), PAIRS[:1]) == VALUES[:1]  # what the server refused costs nothing


def test_a_cap_holds_for_two_processes_together(server, judge):
    server.script = lambda asked: Told("1 = 2", delay=0.05)
    few = {**PRICES, "temperature": None, "max_tokens": 5, "max_cost": 10.0, "concurrency": 4}
    stopped = []

    def ask(one: ServerJudge, pairs: list[Pair]) -> None:
        with pytest.raises(RewardUnavailableError, match="could exceed max_cost 10"):
            one.compare(pairs)
        stopped.append(one)

    many = [Pair(f"question {i}", "a", "b") for i in range(80)]
    threads = [threading.Thread(target=ask, args=(judge(**few), part)) for part in (many[:40], many[40:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stopped) == 2
    ledger = judge().ledger
    most = judge(**few).endpoint.bound(server.asked[0].body["messages"][0]["content"])
    assert 10.0 - 3 * most < ledger.spent("judge") + ledger.reserved("judge") <= 10.0


def test_tokens_that_the_server_does_not_count_are_bounded(server, judge):
    server.script = lambda asked: Told("1 = 2", usage=None)
    asking = judge(price_input=1e6, price_output=1e6)
    asking.compare(PAIRS[:1])
    sent = [len(asked.body["messages"][0]["content"].encode()) for asked in server.asked]
    assert asking.tally.cost == pytest.approx(sum(sent) + 2 * len("1 = 2"))


def test_an_estimate_is_near_what_is_asked(server, judge):
    pairs = [Pair(f"question {i}", f"A rather long answer, number {i}", f"Another one, {i}") for i in range(20)]
    asking = judge(price_input=1.0, price_output=2.0)
    expected = asking.estimate(pairs[:5], comparisons=20)
    asking.compare(pairs)
    sent = sum(len(asked.body["messages"][0]["content"]) for asked in server.asked)
    assert expected.questions == len(server.asked) == 40
    assert expected.input_tokens == pytest.approx(sent / 4, rel=0.02)
    assert expected.cost == pytest.approx((expected.input_tokens + 2 * expected.output_tokens) / 1e6)
    assert judge(orders="one").estimate(pairs, 20).questions == 20


def test_a_judge_that_never_says_a_verdict_is_named(server, judge):
    server.script = lambda asked: Told("As a language model I like\nboth.")
    with pytest.raises(
        InputError, match=r"none of its 24 answers contains a verdict; example: 'As a language model I like\\nb"
    ):
        judge().compare(PAIRS)


def test_the_key_is_in_no_log_no_ledger_and_no_error(server, judge, tmp_path: Path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    echo = Told(status=400, raw=f'{{"error": {{"message": "bad request of {KEY}"}}}}', headers={"X-Echo": "yes"})
    server.script = lambda asked: echo if asked.number % 2 else longer(asked)
    asking = judge()
    asking.compare(PAIRS)
    asking.ledger.close()
    server.script = lambda asked: Told(status=503, raw=f"down {KEY}", headers={"Content-Type": "text/plain"})
    with pytest.raises(RewardUnavailableError) as caught:
        judge(patience=0.2).compare([Pair("new", "a", "b")])
    assert "12 of 24 questions failed; last error: 400 bad request of ***" in caplog.text
    assert KEY not in caplog.text
    assert KEY not in str(caught.value)
    assert KEY not in repr(asking.endpoint)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_without_the_package_openai_it_is_named(judge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(InputError, match=r"requires the package openai: .* -m pip install 'grao\[judge\]'"):
        judge()
    assert judge(replay=True).name == "judge"
