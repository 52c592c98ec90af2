"""`grao reward audit` from the command line: what it leaves, that it moves nothing, and how it ends when it cannot."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from grao.cli.main import main
from grao.config.load import load_recipe
from grao.evaluation.audit_figures import accuracy, policy_figures
from grao.records.audit import read_audit
from grao.records.run import read_metrics
from grao.rewards.judge import client
from grao.sandbox.world import prepare
from grao.studies.given import judge_error
from judge_server import Asked, JudgeServer, Told, longer
from tiny import option_words, saved_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> & </div>"
REWARD = """
def length(completions):
    return [len(text) for text in completions]
def form(completions):
    return [text.endswith(".") - 0.01 * abs(len(text.split()) - 5) for text in completions]
def nothing(completions):
    return [None] * len(completions)
calls = 0
def interrupts(completions):
    global calls
    calls += 1
    if calls == 3:
        raise KeyboardInterrupt
    return length(completions)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model, data and rewards, as working directory."""
    saved_model(tmp_path / "model")
    words = [f"{one} {two}" for one in ("red", "blue", "green", "grey") for two in ("cat", "dog", "hen", "cow", "bee")]
    rows = [
        {"prompt": f"say {word}", "reference": f"a {word} it is{' indeed' * (i % 2)}.", "rejected": HOSTILE[: 9 + i]}
        for i, word in enumerate(words)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(**changes: str) -> list[str]:
    settings = {
        "model.path": "model",
        "data.path": "data.jsonl",
        "data.rejected": "rejected",
        "data.held_out": "8",
        "rewards.0.function": "rewards.py:length",
        "rollout.group_size": "4",
        "rollout.temperature": "1.0",
        "rollout.max_new_tokens": "8",
        "training.steps": "3",
        "training.prompts_per_step": "3",
        "training.learning_rate": "1e-2",
        "training.trainer.use_cpu": "true",
        "audit.edits": "5",
        "audit.prompts": "6",
        "output": "run",
        **changes,
    }
    return option_words(settings)


def audit(**changes: str) -> int:
    return main(["reward", "audit", *options(**changes)])


class Tags(HTMLParser):
    """Names of all elements, and all text outside of styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        assert not [value for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if {"style", "script"} & set(self.open) else data


def test_what_an_audit_leaves_behind(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert audit() == 0
    said = capsys.readouterr().out
    for words in ("length (function), training reward", "accuracy", "Forecast", "run-audit/audit.html"):
        assert words in said
    assert "Not safe to train yet: fix" in said  # a reward that counts letters
    assert "It favors the longer answer" in said or "rewards the longer ones" in said
    assert not (place / "run").exists()
    assert {path.name for path in (place / "run-audit").iterdir()} == {"audit.json", "audit.html"}
    assert all(path.read_bytes() == text for path, text in before.items())
    found = read_audit(place / "run-audit")
    assert len(found.pairs) == 20
    assert [pair.held_out for pair in found.pairs] == [True] * 8 + [False] * 12
    assert found.rewards[0].accuracy == accuracy([pair.readings["length"].value for pair in found.pairs])
    assert found.policy == policy_figures(found.groups)
    error, right = judge_error("run-audit"), found.rewards[0].accuracy.half_ties
    assert (error.value, error.low, error.high) == (1 - right.value, 1 - right.high, 1 - right.low)
    assert [pair.readings["length"].value for pair in found.pairs] == [
        len(pair.rejected) - len(pair.reference) for pair in found.pairs
    ]
    assert len(found.groups) == 6
    assert found.rewards[0].itself.changed.value == 0
    assert found.forecast.update > 0
    assert audit() == 0  # again, in its place
    again = read_audit(place / "run-audit")
    assert (again.pairs, again.groups, again.rewards) == (found.pairs, found.groups, found.rewards)


def test_the_page_shows_all_text_as_text(place: Path) -> None:
    rows = [json.loads(line) for line in (place / "data.jsonl").read_text().splitlines()]
    for row in rows:
        row.update(
            prompt=f"say {row['prompt']} {HOSTILE}", reference=f"{HOSTILE} {row['reference']}", rejected=2 * HOSTILE
        )
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert audit(**{"rewards.0.name": HOSTILE, "output": "<b>run"}) == 0
    page = Tags((place / "<b>run-audit" / "audit.html").read_text())
    assert not page.seen & {"img", "b>run-audit"}
    assert page.open == []
    assert page.text.count(HOSTILE) > 10
    assert "<b>run-audit" in page.text


def test_the_sandbox_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = prepare(prompts=60, held_out=40, steps=2, cache=tmp_path / "cache")
    changes = {
        "model.path": str(world.model),
        "data.path": str(world.train),
        "data.test_path": str(world.test),
        "data.held_out": "",
        "rewards.0.function": "grao.sandbox.judge:gold",
        "rewards.0.relative": "sign",
        "watch.reward.rule": "{length: {target: 10}}",
        "output": str(tmp_path / "run"),
        "audit.prompts": "8",
    }
    assert audit(**changes) == 0
    found = read_audit(tmp_path / "run-audit")
    assert found.rewards[0].accuracy.half_ties.value == 1.0
    assert [(one.name, one.role) for one in found.rewards] == [("gold", "deciding"), ("length", "second")]
    assert found.agreements[0].pairs.kappa is not None
    assert "gold and length" in capsys.readouterr().out
    (polite,) = (one for one in found.rewards[0].edits if one.edit == "a closing pleasantry")
    assert polite.wins.value > 0.5  # the gold judge pays for courtesy


def test_several_rewards_are_read_alone_and_as_their_sum(place: Path) -> None:
    rewards = (
        "[{function: 'rewards.py:length', normalise: true}, {rule: {length: {target: 9}}, name: nine, weight: -2}]"
    )
    assert audit(**{"rewards.0.function": "", "rewards": rewards}) == 0
    found = read_audit(place / "run-audit")
    assert [(one.name, one.role) for one in found.rewards] == [
        ("sum of the rewards", "deciding"),
        ("length", "part"),
        ("nine", "part"),
    ]
    for pair in found.pairs:
        alone = pair.readings["length"].value
        sign = (alone > 0) - (alone < 0)
        # one answer is a group of its own: normalised it is half of a standard deviation from the mean, R = 2 sigma
        expected = 2 * sign - 2 * pair.readings["nine"].value
        assert pair.readings["sum of the rewards"].value == pytest.approx(expected)
    assert [(one.first, one.second) for one in found.agreements] == [("length", "nine")]


def test_without_rejected_answers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(**{"data.rejected": ""}) == 0
    said = capsys.readouterr().out
    assert "no rejected answers, so no accuracy" in said
    assert "data.rejected if there is one" in " ".join(said.split())
    assert read_audit(place / "run-audit").rewards[0].accuracy is None
    assert "No accuracy, length bias or calibration" in (place / "run-audit" / "audit.html").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.path": "nowhere"}, "nowhere"),
        ({"data.rejected": "rejcted"}, "did you mean 'rejected'?"),
        ({"rewards.0.function": "rewards.py:lenght"}, "lenght"),
        ({"rewards.0.function": "rewards.py:nothing"}, "nothing returned None or NaN"),
        ({"audit.pairs": "0"}, "audit.pairs"),
        ({"audit.prompt": "3"}, "did you mean"),
        ({"audit.second.function": "other.py:score"}, "other.py"),
        ({"audit.output": "data.jsonl"}, "data.jsonl is a file"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], words: str
) -> None:
    assert audit(**changes) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (place / "run-audit").exists()


def test_a_second_reward_is_looked_for_beside_the_recipe(place: Path) -> None:
    (place / "here").mkdir()
    (place / "here" / "second.py").write_text("def score(completions):\n    return [0.0] * len(completions)\n")
    (place / "here" / "recipe.yaml").write_text("audit:\n  second: {function: second.py:score}\n")
    assert main(["reward", "audit", "--config", "here/recipe.yaml", *options()]) == 0
    assert [one.name for one in read_audit(place / "run-audit").rewards] == ["length", "score"]
    assert main(["train", "--config", "here/recipe.yaml", *options()]) == 0  # takes no notice of it
    kept = load_recipe(place / "run" / "recipe.yaml").audit.second
    assert kept.function == f"{place / 'here' / 'second.py'}:score"


def test_no_recipe_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "audit"]) == 2
    assert capsys.readouterr().err == "error: give --config FILE; see grao reward audit --help\n"


def test_ctrl_c_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(**{"rewards.0.function": "rewards.py:interrupts"}) == 130
    assert capsys.readouterr().err == "stopped, nothing is written\n"
    assert not (place / "run-audit").exists()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setattr(client, "backoff", lambda attempts, key: 0.05 * attempts)
    with JudgeServer(longer).running() as running:
        yield running


def judge(server: JudgeServer, **more: str) -> dict[str, str]:
    settings = {"model": "judge", "base_url": server.url, "api_key_env": "null", "patience": "1", **more}
    return {"rewards.0.function": "", **{f"rewards.0.judge.{name}": value for name, value in settings.items()}}


def test_a_judge_is_asked_once_and_the_run_begins_with_its_answers(place: Path, server: JudgeServer) -> None:
    changes = judge(server, price_input="1", price_output="10")
    assert audit(**changes) == 0
    found = read_audit(place / "run-audit")
    reward = found.rewards[0]
    assert reward.kind == "judge"
    assert reward.orders.flips.value == 0
    assert reward.itself_asked.value == 0
    assert reward.questions.asked == reward.questions.known + len(server.asked) - 1  # and one to see if it is there
    assert reward.questions.cost == pytest.approx(150e-6 * (len(server.asked) - 1))
    # samples, evaluations, wrong texts before training, and one question to see if it is there
    assert found.forecast.judges[0].questions == 2 * (3 * 3 * 4 + 3 * 8 + 3 * 12) + 1
    asked = len(server.asked)
    assert audit(**changes) == 0
    assert len(server.asked) == asked
    assert read_audit(place / "run-audit").forecast.known == 1
    assert main(["train", *options(**changes)]) == 0
    first = read_metrics(place / "run")[0]
    assert first["judge_helpful/requests"] == 0
    assert first["judge_helpful/cached"] > 0


def test_a_judge_led_by_the_place_is_found_out(place: Path, server: JudgeServer) -> None:
    server.script = lambda asked: Told("1 > 2")
    assert audit(**judge(server)) == 0
    found = read_audit(place / "run-audit")
    reward = found.rewards[0]
    assert reward.orders.flips.value == reward.orders.first_wins.value == reward.itself_asked.value == 1
    assert reward.accuracy.ties.value == 1
    problems = " ".join(finding.problem for finding in found.verdict.findings)
    assert "contradicts itself" in problems
    assert "rarely decides" in problems


def test_a_judge_led_by_the_place_is_found_out_without_rejected_answers(place: Path, server: JudgeServer) -> None:
    server.script = lambda asked: Told("1 > 2")
    assert audit(**judge(server), **{"data.rejected": "", "audit.edits": "12"}) == 0
    found = read_audit(place / "run-audit")
    reward = found.rewards[0]
    assert reward.accuracy is None
    assert reward.orders.flips.value == reward.orders.first_wins.value == 1
    assert {wrong.as_good.value for wrong in reward.content} == {0.5}  # every flip is a tie
    problems = " ".join(finding.problem for finding in found.verdict.findings)
    assert "contradicts itself" in problems
    assert "It may ignore content" in problems


def test_a_reward_blind_to_content_is_found_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = {"audit.edits": "12", "data.rejected": ""}
    assert audit(**{"rewards.0.function": "rewards.py:form", **edits}) == 0
    assert "It may ignore content; rated as good as the reference: the reference of" in " ".join(
        capsys.readouterr().out.split()
    )
    (other, shuffled, prompt) = read_audit(place / "run-audit").rewards[0].content
    assert other.as_good.value >= 0.4
    assert shuffled.as_good.value < 0.5  # the full stop has moved
    assert prompt.as_good.value == 0
    assert "Wrong answers" in (place / "run-audit" / "audit.html").read_text()
    assert audit(**{"rewards.0.function": "", "rewards.0.rule.exact": "{}", **edits}) == 0
    found = read_audit(place / "run-audit")
    assert {wrong.as_good.value for wrong in found.rewards[0].content} == {0}
    assert not [each for each in found.verdict.findings if "ignore content" in each.problem]


def test_people_and_a_judge_of_the_family_of_the_model(place: Path, server: JudgeServer, capsys) -> None:
    assert audit() == 0
    pairs = read_audit(place / "run-audit").pairs
    sides = [{"id": pair.id, "preferred": "reference" if index % 4 else "rejected"} for index, pair in enumerate(pairs)]
    (place / "people.jsonl").write_text("".join(json.dumps(side) + "\n" for side in sides))
    (place / "qwen-tiny").symlink_to(place / "model")
    related = {"model.path": "qwen-tiny", "audit.labels": "people.jsonl", **judge(server, model="Qwen/Qwen2.5-72B")}
    assert audit(**related) == 0
    found = read_audit(place / "run-audit")
    (agreement,) = found.agreements
    assert (agreement.first, agreement.second) == ("people", "helpful")
    right = [bool(index % 4) == (len(pair.reference) > len(pair.rejected)) for index, pair in enumerate(pairs)]
    assert agreement.pairs.agreement.value == sum(right) / 20
    assert [each.problem for each in found.verdict.findings if "family" in each.problem] == [
        "The judge Qwen/Qwen2.5-72B is of the same family as qwen-tiny and may prefer its answers."
    ]
    (place / "people.jsonl").write_text('{"id": "0", "preferred": "reference"}\n')
    assert audit(**related) == 2
    assert "people.jsonl, line 1: its prompt is not among the 20" in capsys.readouterr().err


def test_a_judge_that_goes_down_ends_with_3_and_loses_nothing(
    place: Path, server: JudgeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails_later(asked: Asked) -> Told:
        return longer(asked) if asked.number < 30 else Told(status=503)

    server.script = fails_later
    assert audit(**judge(server, retries="1")) == 3
    error = capsys.readouterr().err
    assert "the same command goes on from there" in error
    assert not (place / "run-audit").exists()
    server.script = longer
    answered = set(server.answered)
    assert audit(**judge(server)) == 0
    assert {server.answered[content] for content in answered} == {1}
