"""`grao train` with a judge: nothing is lost, nothing is asked twice, and the judge may fail."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from forked import Forked
from grao.cli.arguments import overrides_of
from grao.cli.main import main
from grao.config.load import dump_recipe, load_recipe
from grao.errors import InputError
from grao.records.run import read_evaluation, read_items, read_metrics
from grao.rewards.judge.ledger import JudgeAnswer, Ledger, Question
from grao.rewards.judge.wording import load_template
from grao.studies.spending import Spending
from judge_server import Asked, JudgeServer, Told
from tiny import saved_model, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

KEY = "sk-not-to-be-seen-anywhere"


def vowels(asked: Asked) -> Told:
    """More of a and e wins."""
    first, second = (sum(letter in "ae" for letter in text) for text in (asked.text_1, asked.text_2))
    return Told("1 > 2" if first > second else "1 < 2" if first < second else "1 = 2")


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer(vowels).running() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model and data, as working directory; the key in the environment; short waits."""
    saved_model(tmp_path / "model")
    words = [f"{one} {two}" for one in ("red", "blue", "green", "grey") for two in ("cat", "dog", "hen", "cow", "bee")]
    rows = [json.dumps({"prompt": f"say {word}", "reference": f"a {word} it is."}) for word in words]
    (tmp_path / "data.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setattr("grao.rewards.judge.client.backoff", lambda attempts, key: 0.05 * attempts)
    return tmp_path


def options(server: JudgeServer, **changes: str) -> list[str]:
    """Three steps of three prompts and four samples, eight prompts held out."""
    settings = {
        "model.path": "model",
        "data.path": "data.jsonl",
        "data.held_out": "8",
        "rewards.0.judge.model": "judge",
        "rewards.0.judge.base_url": server.url,
        "rewards.0.judge.api_key_env": "JUDGE_KEY",
        "rewards.0.judge.patience": "2",
        "rollout.group_size": "4",
        "rollout.temperature": "1.0",
        "rollout.max_new_tokens": "8",
        "training.steps": "3",
        "training.prompts_per_step": "3",
        "training.learning_rate": "1e-2",
        "training.trainer.use_cpu": "true",
        "audit.before_training": "skip",
        "output": "run",
        **changes,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def train(server: JudgeServer, **changes: str) -> int:
    return main(["train", *options(server, **changes)])


def asked_once(server: JudgeServer) -> bool:
    """No verdict was given twice, but for the question that every judge can answer."""
    return {count for content, count in server.answered.items() if "capital of France" not in content} == {1}


def kept(place: Path) -> int:
    """Answers in the ledger, 0 while there is none."""
    with closing(sqlite3.connect(place / "judge-ledger.sqlite", timeout=10)) as ledger:
        there = ledger.execute("SELECT count(*) FROM sqlite_master WHERE name = 'answers'").fetchone()[0]
        return ledger.execute("SELECT count(*) FROM answers").fetchone()[0] if there else 0


def without_time(run: Path, but: str = "cost") -> list[dict[str, float]]:
    spent = ("seconds", "requests", "cached", "flops", "mfu", "speed", "memory", but)
    return [{k: v for k, v in step.items() if not any(word in k for word in spent)} for step in read_metrics(run)]


def test_a_whole_run(place: Path, server: JudgeServer, capsys):
    prices = {"rewards.0.judge.price_input": "1", "rewards.0.judge.price_output": "10"}
    assert train(server, **prices) == 0
    said = capsys.readouterr()
    told = "judge helpful: up to 121 questions (1 of them before anything is sampled), 0.0 million tokens, about 0.0"
    assert told in " ".join(said.out.split())
    assert asked_once(server)
    cost = 150e-6 * len(server.asked)
    spent = f"{len(server.asked)} questions, {cost:.2g} paid"
    assert f"judges  {spent}\n" in said.out  # the question before the work counts too
    assert "4/4 writing the report: " in said.out
    assert f" s, {spent} so far\n" in said.out
    steps = read_metrics(place / "run")
    assert len(steps) == 3
    for step in steps:
        assert step["judge_helpful/flip"] == step["judge_helpful/missing"] == 0.0
        assert (
            12 < step["judge_helpful/requests"] + step["judge_helpful/cached"] <= 24
        )  # equal samples are one question
        assert step["judge_helpful/cost"] == pytest.approx(150e-6 * step["judge_helpful/requests"])
        assert step["reward_helpful/mean"] == step["reward/mean"]
        assert step["verdict/win"] + step["verdict/tie"] + step["verdict/loss"] == pytest.approx(1)
    for item in read_items(place / "run"):
        for answer in item.answers.values():
            gap = sum((letter in "ae") for letter in answer.text) - sum(letter in "ae" for letter in item.reference)
            assert answer.reward == (gap > 0) - (gap < 0)
    ledger = sqlite3.connect(place / "judge-ledger.sqlite")
    assert ledger.execute("SELECT count(*), sum(cost) FROM answers").fetchone() == (
        len(server.asked),
        pytest.approx(150e-6 * len(server.asked)),
    )
    ledger.close()
    files = [path for path in place.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in said.out + said.err
    assert "JUDGE_KEY" in (place / "run" / "recipe.yaml").read_text()


def test_what_was_spent_before_does_not_count(place: Path, server: JudgeServer):
    config = load_recipe(None, list(overrides_of("train", options(server))))
    ledger = Ledger(place / "judge-ledger.sqlite", run=str(config.output.absolute()))

    def answer(number: int, cost: float) -> None:
        question = Question("m", load_template("helpful"), str(number), "a", "b")
        ledger.add(question, JudgeAnswer("1 > 2", "stop", None, cost=cost))

    spending = Spending()
    assert spending.words == ""
    spending.follow(config)
    assert spending.words == "0 questions"  # there is no ledger yet
    answer(1, 0.0)
    assert spending.words == "1 question"
    answer(2, 0.05)
    assert spending.words == "2 questions, 0.05 paid"
    spending.follow(config)  # the run after it
    answer(3, 1234.5)
    assert spending.words == "3 questions, 1,234.55 paid"
    again = Spending()
    again.follow(config)
    assert again.total() == (0, 0.0)


def test_a_judge_that_looks_on_is_in_the_estimate(place: Path, server: JudgeServer, capsys):
    watch = {"judge": {"model": "other", "base_url": server.url, "api_key_env": None}, "name": "wary"}
    changes = {"watch.reward": json.dumps(watch), "watch.every": "2", "watch.prompts": "2"}
    assert train(server, **changes) == 0
    # two looks, at the steps 1 and 3, at two prompts of four samples in both orders
    assert "judge wary (watch): up to 33 questions (1 of them" in capsys.readouterr().out  # one if it is there
    watched = [asked for asked in server.asked if asked.body["model"] == "other" and "France" not in asked.context]
    assert 0 < len(watched) <= 32
    looks = [step for step in read_metrics(place / "run") if "watch/second" in step]
    assert [look["step"] for look in looks] == [1, 3]
    assert sum(look["judge_wary (watch)/requests"] for look in looks) == len(watched)
    assert all(look["judge_wary (watch)/flip"] == 0 for look in looks)
    page = (place / "run" / "report.html").read_text()
    assert "Order-dependent verdicts" in page
    assert "wary (watch)" in page


def test_a_second_run_pays_for_nothing_and_replay_needs_no_server(place: Path, server, monkeypatch, capsys):
    assert train(server) == 0
    asked = len(server.asked)
    assert train(server, output="again") == 0
    assert len(server.asked) == asked
    assert read_items(place / "again") == read_items(place / "run")
    monkeypatch.delenv("JUDGE_KEY")
    nowhere = {"rewards.0.judge.base_url": "http://127.0.0.1:9/v1", "rewards.0.judge.replay": "true"}
    capsys.readouterr()
    assert train(server, output="replayed", **nowhere) == 0
    assert "questions" not in capsys.readouterr().out  # nobody is asked, so there is no estimate
    assert without_time(place / "replayed") == without_time(place / "run")
    assert read_evaluation(place / "replayed") == read_evaluation(place / "run")


def test_a_replay_that_lacks_verdicts_says_how_many(place: Path, server: JudgeServer, capsys):
    assert train(server) == 0
    asked = len(server.asked)
    assert train(server, output="other", seed="1", **{"rewards.0.judge.replay": "true"}) == 2
    assert "answers are not in" in capsys.readouterr().err
    assert len(server.asked) == asked


def test_a_judge_that_goes_down_stops_the_run_and_resuming_asks_for_the_rest(place: Path, server: JudgeServer, capsys):
    assert train(server, output="whole", **{"rewards.0.judge.ledger": "whole.sqlite"}) == 0
    server.answered.clear()
    server.script = lambda asked: Told(status=503) if (place / "run" / "metrics.jsonl").exists() else vowels(asked)
    begin = time.monotonic()
    assert train(server) == 3
    assert time.monotonic() - begin < 30
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"error: judge judge at {server.url}: no answer for 2 s; last error: " in error
    assert "; step 1 is saved, continue with: grao train --resume run" in error
    assert list((place / "run" / "checkpoints").glob("checkpoint-1"))
    assert json.loads((place / "run" / "manifest.json").read_text())["status"] == "failed"
    server.script = vowels
    assert main(["train", "--resume", "run"]) == 0
    assert asked_once(server)
    assert read_evaluation(place / "run") == read_evaluation(place / "whole")
    assert without_time(place / "run") == without_time(place / "whole")


def test_a_killed_run_asks_only_for_what_is_missing(place: Path, server: JudgeServer, monkeypatch: pytest.MonkeyPatch):
    """Killed while questions are out that are never answered: every answer that did arrive is in the ledger."""
    server.script = lambda asked: vowels(asked) if asked.number < 45 else Told(delay=8, cut=True)
    recipe = dict(zip(*[iter(options(server))] * 2, strict=True))
    Path("recipe.yaml").write_text(dump_recipe(load_recipe(None, [(n[2:], v) for n, v in recipe.items()])))
    running = Forked(lambda: main(["train", "--config", "recipe.yaml"]))
    deadline = time.monotonic() + 60
    while (len(server.asked) < 50 or kept(place) < 45) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert kept(place) == sum(server.answered.values()) == 45
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    server.script = vowels
    before = len(server.asked)
    assert main(["train", "--resume", "../run"]) == 0
    assert asked_once(server)
    assert sum(server.answered.values()) - 45 == len(server.asked) - before
    assert not list(Path().iterdir())


def test_with_a_third_of_the_requests_failing_the_run_finishes_and_counts_what_is_missing(place: Path, server):
    server.script = lambda asked: Told(status=500) if Random(asked.number).random() < 0.3 else vowels(asked)
    assert train(server, **{"rewards.0.judge.retries": "0"}) == 0
    steps = read_metrics(place / "run")
    assert len(steps) == 3
    assert sum(step["judge_helpful/failed"] for step in steps) > 5
    for step in steps:
        assert step["reward/missing"] == step["judge_helpful/missing"]
        assert step["loss"] == step["loss"]
    assert 0 < sum(step["reward/missing"] for step in steps) < 3
    assert any(answer.reward is None for item in read_items(place / "run") for answer in item.answers.values())


def test_a_cap_on_the_cost_stops_the_run_to_be_resumed(place: Path, server: JudgeServer, capsys):
    cost = {
        "rewards.0.judge.price_input": "1000",
        "rewards.0.judge.price_output": "1000",
        "rewards.0.judge.max_tokens": "5",
        "rewards.0.judge.max_cost": "6",
    }
    assert train(server, **cost) == 3
    error = capsys.readouterr().err
    assert "could exceed max_cost 6; raise max_cost (for a run to be resumed, in its recipe.yaml)" in error
    asked = len(server.asked)
    assert 0.105 * asked <= 6
    assert main(["train", "--resume", "run"]) == 3
    assert len(server.asked) == asked
    recipe = place / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_cost: 6.0", "max_cost: 60"))
    assert main(["train", "--resume", "run"]) == 0
    assert asked_once(server)


@pytest.mark.parametrize(
    ("changes", "told", "code", "message"),
    [
        (
            {},
            Told(status=401, raw=f'{{"error": {{"message": "wrong key {KEY}"}}}}'),
            2,
            "rejects the key: 401 wrong key ***",
        ),
        ({}, Told(status=404), 2, "check model and base_url"),
        (
            {},
            Told(status=400, raw='{"error": {"message": "use max_completion_tokens"}}'),
            3,
            "400 use max_completion_t",
        ),
        (
            {"rewards.0.judge.api_key_env": "NO_KEY"},
            Told(),
            2,
            "environment variable NO_KEY is empty or not set; set it, or",
        ),
        (
            {"rewards.0.judge.criterion": "helpfull"},
            Told(),
            2,
            "'helpfull' is neither a criterion (helpful, harmless, truthful",
        ),
        (
            {"rewards.0.judge.criterion": "Which text is the better one? {context} {text_1} {text_2} " * 9},
            Told(),
            2,
            "Wh...' is neither a criterion (helpful, harmless, truthful",
        ),
        (
            {"rewards.0.judge.criterion": "data.jsonl"},
            Told(),
            2,
            "data.jsonl contains {context} 0 times; a templ",
        ),
        ({"rewards.0.judge.ledger": "data.jsonl/x.sqlite"}, Told(), 2, "ledger data.jsonl/x.sqlite cannot be used"),
        ({"rewards.0.judge.replay": "true"}, Told(), 2, "answers are not in"),
    ],
)
def test_a_mistake_shows_before_any_work(
    place: Path, server, capsys, changes: dict, told: Told, code: int, message: str
):
    server.script = lambda asked: told
    assert train(server, **changes) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert KEY not in error
    if "replay" not in str(changes):
        assert not (place / "run").exists()
        assert not (place / "judge-ledger.sqlite").exists()


def test_a_local_judge_and_a_template_of_ones_own(place: Path, server: JudgeServer, chat_tokenizer):
    tiny_model("qwen3", vocabulary=len(chat_tokenizer)).save_pretrained(place / "judge")
    chat_tokenizer.save_pretrained(place / "judge")
    (place / "short.txt").write_text("{context} {text_1} {text_2} 1 > 2 1 = 2 1 < 2")
    words = options(server)
    for name in ("model", "base_url", "api_key_env", "patience"):
        at = words.index(f"--rewards.0.judge.{name}")
        del words[at : at + 2]
    local = ["--rewards.0.judge.local.path", "judge", "--rewards.0.judge.criterion", "short.txt"]
    assert main(["train", *words, *local]) == 0
    assert not server.asked
    steps = read_metrics(place / "run")
    assert all(step["judge_short/requests"] == 24 and step["judge_short/missing"] == 0 for step in steps)
    anchored = load_recipe(place / "run" / "recipe.yaml").rewards[0].judge
    assert (anchored.local.path, anchored.criterion) == (str(place / "judge"), str(place / "short.txt"))


def recipe_of(**judge: str):
    base = {"model.path": "m", "data.path": "d", "output": "o", "rewards.0.judge.model": "x"}
    changes = {f"rewards.0.judge.{name.replace('__', '.')}": value for name, value in judge.items()}
    return load_recipe(None, list({**base, **changes}.items()))


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ({"local__path": "m"}, "rewards.0.judge: give either model, for a server, or local with its path"),
        ({"price_input": "1"}, "give both price_input and price_output, or neither"),
        ({"max_cost": "1"}, "max_cost needs price_input and price_output"),
        ({"criterion": "domain"}, "domain is required with criterion: domain"),
        ({"domain": "law"}, "domain is required with criterion: domain"),
        ({"api_key_env": KEY}, "api_key_env must be the name of an environment variable, not the key itself"),
        ({"base_url": f"http://user:{KEY}@host/v1"}, "base_url must not contain user, password or query"),
        ({"base_url": f"http://host/v1?key={KEY}"}, "base_url must not contain user, password or query"),
        ({"base_url": "localhost:8000"}, "base_url must start with http:// or https:// and contain a valid host"),
        ({"base_url": "http://localhost:port/v1"}, "contain a valid host and port"),
        ({"base_url": "http://local host/v1"}, "contain a valid host and port"),
        ({"base_url": "http://[::1/v1"}, "contain a valid host and port"),
        ({"extra": "{max_completion_tokens: many}"}, "extra.max_completion_tokens must be a whole number"),
        ({"extra": "{stream: true}"}, "extra.stream cannot be set; it is fixed"),
        ({"concurrency": "0"}, "concurrency must be at least 1, got 0"),
        ({"api_key": KEY}, "use --rewards.0.judge.api_key_env"),
    ],
)
def test_mistakes_in_the_section(judge: dict[str, str], message: str):
    with pytest.raises(InputError) as caught:
        recipe_of(**judge)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_section_from_options_and_back():
    found = recipe_of(replay="true", extra="{reasoning_effort: low}", api_key_env="null", ledger="my.sqlite")
    assert found.rewards[0].judge.replay
    assert found.rewards[0].judge.extra == {"reasoning_effort": "low"}
    assert found.rewards[0].judge.api_key_env is None
    assert found.rewards[0].function is None
    with pytest.raises(InputError, match="relative has no effect on a judge"):
        load_recipe(None, [("model.path", "m"), ("data.path", "d"), ("output", "o"), ("rewards.0.judge.model", "x"),
                           ("rewards.0.relative", "sign")])  # fmt: skip
