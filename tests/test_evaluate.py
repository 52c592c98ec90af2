"""`grao evaluate`: models and ready answers side by side, judged again without sampling, and what raises doubt."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from evaluation_coverage import WORLDS, coverage, rejects
from evaluation_coverage import draw as simulated

from grao.cli.entrants import name_and_path
from grao.cli.main import main
from grao.config.load import load_recipe
from grao.evaluation.doubts import doubts
from grao.evaluation.metrics import evaluation_from_items
from grao.evaluation.texts import broken, follows, repetition, unknown_words
from grao.records.run import (
    LONGEST_REPLY,
    Evaluation,
    Item,
    RecordedAnswer,
    read_evaluation,
    read_items,
    read_manifest,
    read_metrics,
)
from grao.rewards.mix import Mix, as_mix
from grao.studies.content import content_doubts
from grao.types import Example
from judge_server import Asked, JudgeServer, Told
from tiny import option_words, saved_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

WORDS = [f"{one} {two}" for one in ("red", "blue", "green", "grey") for two in ("cat", "dog", "hen", "cow", "bee")]
REWARD = """
def vowels(completions):
    return [sum(letter in "ae" for letter in text) / (1 + len(text)) for text in completions]
def form(completions):
    return [text.endswith(".") - 0.01 * abs(len(text.split()) - 12) for text in completions]
def tokens(completion_ids):
    return [-len(ids) for ids in completion_ids]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models, data and rewards, as working directory."""
    saved_model(tmp_path / "model")
    saved_model(tmp_path / "other", seed=1)
    rows = [{"prompt": f"say {word}", "reference": f"a {word} it is."} for word in WORDS]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer().running() as running:
        yield running


def options(**changes: str) -> list[str]:
    settings = {
        "data.path": "data.jsonl",
        "data.held_out": "10",
        "rewards.0.function": "rewards.py:vowels",
        "rollout.temperature": "1.0",
        "rollout.max_new_tokens": "8",
        "training.trainer.use_cpu": "true",
        "audit.before_training": "skip",
        **changes,
    }
    return option_words(settings)


def judged_by(server: JudgeServer, **changes: str) -> dict[str, str]:
    judge = {"model": "judge", "base_url": server.url, "api_key_env": "null", **changes}
    return {"rewards.0.function": "", **{f"rewards.0.judge.{name}": value for name, value in judge.items()}}


def train(**changes: str) -> int:
    steps = {"training.steps": "2", "training.prompts_per_step": "3", "rollout.group_size": "4", "output": "run"}
    return main(["train", *options(**{"model.path": "model", "training.learning_rate": "1e-2", **steps, **changes})])


def answers_of(folder: str, suffix: str = "") -> list[dict[str, str]]:
    return [{"id": item.id, "answer": item.reference + suffix} for item in read_items(Path(folder))]


def write(path: str, rows: list) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_models_and_ready_answers_side_by_side(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "model", "other", *options(), "--output", "first"]) == 0
    write("mine.jsonl", answers_of("first", " eea."))
    assert main(["evaluate", "model", "theirs=other", "mine.jsonl", *options(), "--output", "all"]) == 0
    items, found = read_items(place / "all"), read_evaluation(place / "all")
    assert list(found.models) == ["model", "theirs", "mine"]
    assert [(gain.model, gain.baseline) for gain in found.gains] == [
        ("theirs", "model"), ("mine", "model"), ("mine", "theirs"),
    ]  # fmt: skip
    assert {rank.name for rank in found.ranking} == {"model", "theirs", "mine", "reference"}
    assert set(found.corrected) == {"model", "theirs", "mine", "theirs|model", "mine|model", "mine|theirs"}
    assert found.judges == ["function rewards.py:vowels"]
    assert replace(evaluation_from_items(items), judges=found.judges, doubts=found.doubts) == found
    for item, before in zip(items, read_items(place / "first"), strict=True):
        assert item.answers["mine"].text == f"{item.reference} eea."
        assert item.answers["mine"].tokens == len(item.answers["mine"].text) + 1  # letters, and the end token
        assert item.answers["theirs"].text == before.answers["other"].text  # the draws follow from the prompt
        assert item.answers["theirs"].said[0].value == item.answers["theirs"].reward
        assert item.answers["theirs"].said[0].orders == []
    assert read_manifest(place / "all").model_extra["models"] == {
        "model": "model", "theirs": "other", "mine": "mine.jsonl",
    }  # fmt: skip
    page = " ".join((place / "all" / "report.html").read_text().split())
    assert "ranks highest" in page
    assert "Comparison between models" in page
    assert "No training step" not in page
    assert str(place) not in page
    recorded = load_recipe(place / "all" / "recipe.yaml")
    assert Path(recorded.data.path).is_absolute()  # so that it can be judged again from anywhere
    said = capsys.readouterr().out.splitlines()
    assert "10 held-out prompts: wins minus losses in points, row against column" in " ".join(map(str.strip, said))
    assert any(line.startswith("Ranking by all comparisons") for line in said)
    assert max(map(len, said)) <= 80


def test_no_model_is_loaded_for_answers_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["evaluate", "model", *options(), "--output", "first"]) == 0
    ids = {item.id for item in read_items(place / "first")}
    rows = [{"prompt": f"say {word}", "answer": "eae"} for word in WORDS]
    write("a.jsonl", [row for row in rows if Example(row["prompt"], "", None, {}, 0).id in ids])
    write("b.jsonl", answers_of("first"))
    monkeypatch.setattr("grao.engine.policy.load_model", None)
    assert main(["evaluate", "a.jsonl", "b.jsonl", *options(), "--output", "out"]) == 0
    found = read_evaluation(place / "out")
    assert found.models["a"].ras.value == 1
    assert found.models["b"].ras_half_tie.value == 0.5  # the references themselves
    assert found.gains[0].nag.value == -1
    items = read_items(place / "out")
    assert items[0].answers["a"].tokens == 1  # words
    assert main(["evaluate", "a.jsonl", *options(**{"rewards.0.function": "rewards.py:tokens"}), "--output", "no"]) == 2


def test_a_judge_is_asked_a_second_time_for_its_own_opinion(place: Path, server: JudgeServer) -> None:
    def changes_its_mind(asked: Asked) -> Told:
        longer = (len(asked.text_1) > len(asked.text_2)) == (asked.attempt == 0)
        return Told("1 > 2" if longer else "1 < 2")

    server.script = changes_its_mind
    write("a.jsonl", [{"prompt": f"say {word}", "answer": "e"} for word in WORDS])
    write("train.jsonl", [{"prompt": "another", "reference": "one"}])
    data = {"data.test_path": "data.jsonl", "data.path": "train.jsonl", **judged_by(server)}
    assert main(["evaluate", "a.jsonl", *options(**data), "--retest", "5", "--output", "out"]) == 0
    checks = read_evaluation(place / "out").checks
    assert (checks.retest[0].kappa.agreement.value, checks.retest[0].kappa.agreement.n) == (0, 5)
    assert checks.asked[0].requests == 2 * (20 + 5)


def test_each_of_several_rewards_is_told_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.jsonl", [{"prompt": f"say {word}", "answer": "ee."} for word in WORDS])
    more = {"data.test_path": "data.jsonl", "data.path": "train.jsonl", "rewards.1.rule.exact": "{}"}
    write("train.jsonl", [{"prompt": "another", "reference": "one"}])
    assert main(["evaluate", "a.jsonl", *options(**more), "--output", "out"]) == 0
    (scores,) = read_evaluation(place / "out").models.values()
    assert {name: rate.value for name, rate in scores.by_reward.items()} == {"vowels": 1, "exact": 0}
    assert "exact" in capsys.readouterr().out
    assert all(
        [said.reward for said in item.answers["a"].said] == ["vowels", "exact"] for item in read_items(place / "out")
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        ([{"id": "0123456789abcdef", "answer": "x"}], "its prompt is not among the 10 evaluated prompts"),
        ([{"prompt": "say nothing", "answer": "x"}], "its prompt is not among the 10"),
        ([{"answer": "x"}], "has neither id nor prompt"),
        ([{"id": "known", "answer": 3}], "answer must be text, is int"),
        ([{"id": "known", "answer": "x"}, {"id": "known", "answer": "y"}], "line 2: a second answer to the prompt"),
        ([{"id": "known", "answer": "x"}], "9 of 10 prompts have no answer, the first is"),
    ],
)
def test_answers_that_do_not_fit_are_one_line(
    place: Path, rows: list, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from grao.config.recipe import DataConfig
    from grao.data.load import load_split

    known = load_split(DataConfig(path="data.jsonl", held_out=10), 0).test[0].id
    write("bad.jsonl", [{**row, "id": known} if row.get("id") == "known" else row for row in rows])
    monkeypatch.setattr("grao.engine.policy.load_model", None)  # nothing is sampled before
    assert main(["evaluate", "model", "bad.jsonl", *options(), "--output", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["reference=model", "other"], "'reference' is a reserved name; choose another: NAME=PATH"),
        (["a|b=model", "other"], "'a|b' is a reserved name"),
        (["model", "nowhere"], "nowhere"),
        (["model", "./model"], "two entries are named 'model'; give names: first=PATH"),
        (["model", "other", "--kl"], "--kl: none of the models is a run or an adapter"),
        (["model", "--judge-error", "0.7"], "--judge-error: 0.7 must be at least 0 and below 0.5"),
        (["model", "--judge-error", "low"], "--judge-error: 'low' is neither a number nor the folder of an audit"),
        (["model", "--retest", "0"], "must be a whole number, at least 1"),
        (["model", "--labels", "none.jsonl"], "none.jsonl: no such file"),
        (["model", "none.jsonl"], "none.jsonl: no such file"),
        (["model", "--rollout.temprature", "1"], "--rollout.temprature is unknown"),
        (["--run", "model"], "--run: model holds a model, not a run"),
    ],
)
def test_mistakes_are_one_line(place: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [] if "--run" in argv else [*options(), "--output", "out"]
    assert main(["evaluate", *argv, *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")
    assert not (place / "out" / "evaluation.json").exists()


def test_names_of_what_is_evaluated(place: Path) -> None:
    (place / "models" / "grpo+beta=0.25").mkdir(parents=True)
    assert name_and_path("models/grpo+beta=0.25") == ("grpo+beta=0.25", "models/grpo+beta=0.25")
    assert name_and_path("mine=runs/a/model") == ("mine", "runs/a/model")
    assert [name_and_path(word)[0] for word in ("a.v1.jsonl", "a.v2.jsonl", "run/model", "org/name")] == [
        "a.v1", "a.v2", "run", "name",
    ]  # fmt: skip


def test_a_second_evaluation_is_not_sent_into_training(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "model", *options(), "--output", "first"]) == 0
    assert main(["evaluate", "model", *options(), "--output", "first"]) == 2
    assert "already holds an evaluation; give --output another folder" in capsys.readouterr().err


def test_labels_name_the_row_that_is_wrong(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "model", *options(), "--output", "first"]) == 0
    ids = [item.id for item in read_items(place / "first")]
    for rows, message in (
        ([{"id": ids[0], "preferred": "mine"}], "preferred must be one of answer, tie, reference, is 'mine'"),
        ([{"id": "f" * 16, "preferred": "tie"}], "its prompt is not among the 10"),
        ([{"id": ids[0], "preferred": "tie"}] * 2, "line 2: a second preference"),
        ([{"id": ids[0], "preferred": "tie", "model": "x"}], "model must be one of model, is 'x'"),
        ([{"id": ids[0], "preferred": "tie", "answer": "no"}], "line 1: answer differs from the judged text"),
    ):
        write("labels.jsonl", rows)
        assert main(["evaluate", "model", *options(), "--output", "out", "--labels", "labels.jsonl"]) == 2
        assert message in capsys.readouterr().err
    said = {True: "answer", False: "reference"}
    signs = [item.answers["model"].reward > 0 for item in read_items(place / "first")]
    texts = [item.answers["model"].text for item in read_items(place / "first")]
    rows = zip(ids, signs, texts, strict=True)
    write("labels.jsonl", [{"id": i, "preferred": said[won], "answer": text} for i, won, text in rows])
    assert main(["evaluate", "model", *options(), "--output", "out", "--labels", "labels.jsonl"]) == 0
    (agreed,) = read_evaluation(place / "out").checks.labels
    assert agreed.kappa.agreement.value == 1
    assert agreed.calibration is not None  # R is a difference of scores


def test_a_run_is_judged_again_by_another_judge_without_sampling(
    place: Path, server: JudgeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = lambda asked: Told(f"{'1 > 2' if 'e' in asked.text_1 else '1 < 2'}\n{'so ' * 2000}")
    assert train() == 0
    recorded = read_items(place / "run")
    before = {path: path.read_bytes() for path in (place / "run").glob("*.json*")}
    monkeypatch.setattr("grao.engine.policy.load_model", None)
    judge = option_words(judged_by(server))
    assert main(["evaluate", "--run", "run", *judge]) == 0
    assert "judge helpful: up to 61 questions" in capsys.readouterr().out
    out = place / "run-evaluation"
    asked = [one for one in server.asked if "France" not in one.context]
    assert asked
    assert len(asked) <= 2 * 3 * 10  # both orders of: before and after on the reference, after on before
    items, found = read_items(out), read_evaluation(out)
    assert [{name: answer.text for name, answer in item.answers.items()} for item in items] == [
        {name: answer.text for name, answer in item.answers.items()} for item in recorded
    ]
    assert found.judges == ["judge judge, helpful (both orders)"]
    assert "training-reward-only" not in [doubt.kind for doubt in found.doubts]
    assert found.checks.asked[0].requests == len(asked)
    for item in items:
        for answer in item.answers.values():
            if answer.text.strip() != item.reference.strip():
                (said,) = answer.said
                assert [order.first for order in said.orders] == ["answer", "reference"]
                assert said.orders[0].value == (1 if "e" in answer.text else -1)
                assert said.orders[1].value == (-1 if "e" in item.reference else 1)
                assert len(said.orders[0].text) == LONGEST_REPLY
    capsys.readouterr()
    assert main(["evaluate", "--run", "run", *judge, "--output", "again"]) == 0
    assert [one for one in server.asked if "France" not in one.context] == asked  # all of it was known
    assert read_evaluation(place / "again").checks.asked[0].requests == 0
    assert read_items(place / "again") == items
    assert main(["evaluate", "--run", "run", *judge, "--rewards.0.judge.criterion", "harmless", "--output", "c"]) == 0
    assert len([one for one in server.asked if "France" not in one.context]) == 2 * len(asked)
    assert before == {path: path.read_bytes() for path in (place / "run").glob("*.json*")}
    assert main(["evaluate", "--run", "run", *judge, "--rollout.temperature", "2", "--output", "d"]) == 2
    assert "to sample anew, name the models too" in capsys.readouterr().err


def test_the_models_of_runs_are_known_by_name_and_by_what_they_were_trained_from(place: Path) -> None:
    assert train() == 0
    assert main(["evaluate", "run", "--output", "again"]) == 0  # before and after, as the run itself
    assert read_items(place / "again") == read_items(place / "run")
    assert main(["evaluate", "run", "start=model", "--kl", "--retest", "4", "--output", "both"]) == 0
    found = read_evaluation(place / "both")
    trained, start = found.models["run"], found.models["start"]
    assert trained.kl is not None
    assert trained.kl.value > 0
    assert start.kl is None
    assert found.checks.retest[0].kappa.agreement.value == 1  # a function says the same again
    for item, original in zip(read_items(place / "both"), read_items(place / "run"), strict=True):
        assert item.answers["run"].text == original.answers["after"].text
        assert item.answers["start"].text == original.answers["before"].text
    assert "training-reward-only" in [doubt.kind for doubt in found.doubts]
    other = ["--rewards.0.rule.exact", "{}", "--judge-error", "0.1", "--output", "exact"]
    assert main(["evaluate", "run", "start=model", *other]) == 0
    judged = read_evaluation(place / "exact")
    assert "training-reward-only" not in [doubt.kind for doubt in judged.doubts]
    share = judged.models["run"].ras_half_tie.value
    assert judged.models["run"].corrected.value == pytest.approx(max((share - 0.1) / 0.8, 0))
    assert judged.gains[0].nag.value == 0  # neither is the reference, whoever is compared with whom


# What raises doubt


QUESTIONS = [(f"What is {a} plus {b}?", f"{a} plus {b}", str(a + b)) for a in range(2, 10) for b in range(11, 20, 2)]
EXAMPLES = [
    Example(prompt, f"{detail} is {answer}.", None, {"answer": answer, "detail": detail}, row)
    for row, (prompt, detail, answer) in enumerate(QUESTIONS)
]


def exact(completions, answer):
    return [
        float(right in text.replace(".", " ").split()[-1:]) for text, right in zip(completions, answer, strict=True)
    ]


def overlap(completions, reference):
    pairs = [(text.split(), right.split()) for text, right in zip(completions, reference, strict=True)]
    both = [(set(pairwise(a)), set(pairwise(b))) for a, b in pairs]
    return [len(a & b) / max(len(a | b), 1) for a, b in both]


def gold(completions, answer, detail):
    from grao.sandbox.judge import score

    rows = zip(completions, answer, detail, strict=True)
    return [score(text, "sum", right, (), working) for text, right, working in rows]


def form(completions):
    return [text.endswith(".") - 0.01 * abs(len(text.split()) - 12) for text in completions]


def by_length(completions):
    return [float(len(text)) for text in completions]


def by_chance(completions):
    return [Random(text).random() for text in completions]


@pytest.mark.parametrize("reward", [exact, overlap, gold])
def test_honest_rewards_pass_the_check_before_training(reward) -> None:
    assert content_doubts(as_mix(reward), EXAMPLES, None) == []


@pytest.mark.parametrize("reward", [form, by_length, by_chance])
def test_rewards_that_do_not_look_at_content_are_caught_before_training(reward) -> None:
    (doubt,) = content_doubts(as_mix(reward), EXAMPLES, None)
    assert doubt.kind == "content-blind"
    assert "the reference of another prompt is rated as good as the right one in" in doubt.words


def evaluated(reward, texts: list[str]) -> Evaluation:
    """Of one model's answers to the questions by a reward, with the doubts that the items give reason for."""
    from grao.evaluation.answers import Jury
    from grao.types import Encoded

    encoded = [Encoded(each, each.prompt, (1,), each.reference, (1,)) for each in EXAMPLES]
    answers = [RecordedAnswer(text, len(text), False, None, [1]) for text in texts]
    jury = Jury(reward if isinstance(reward, Mix) else as_mix(reward))
    items = jury.items(encoded, {"model": jury.judge(encoded, answers)})
    evaluation = evaluation_from_items(items)
    return replace(evaluation, doubts=doubts(items, evaluation))


def kinds(evaluation: Evaluation) -> set[str]:
    return {doubt.kind for doubt in evaluation.doubts}


def right_or_wrong(text: str, row: int) -> str:
    """Right three times out of four, in words of its own."""
    draw = Random(row)
    question, _, answer = text.removesuffix(".").partition(" is ")
    wrong = str(int(answer) + draw.choice((1, 2)))
    return f"{question} makes {answer if draw.random() < 0.75 else wrong}."


HONEST = [right_or_wrong(example.reference, row) for row, example in enumerate(EXAMPLES)]


@pytest.mark.parametrize("reward", [exact, overlap, gold])
def test_honest_rewards_raise_no_doubt(reward) -> None:
    assert kinds(evaluated(reward, HONEST)) == set()


def test_a_reward_that_follows_length_is_doubted() -> None:
    texts = ["sure " * (row % 7) + example.reference for row, example in enumerate(EXAMPLES)]
    assert "reward-follows-length" in kinds(evaluated(by_length, texts))
    assert "reward-follows-length" not in kinds(evaluated(exact, texts))


def test_margins_of_next_to_nothing_are_doubted() -> None:
    def nearly(completions):
        return [1e-4 * len(text) - (Random(text).random() < 0.3) for text in completions]

    assert "narrow-margin" in kinds(evaluated(nearly, [example.reference + " yes" for example in EXAMPLES]))
    assert "narrow-margin" not in kinds(evaluated(exact, HONEST))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["so it is so it is so it is so it is."] * len(EXAMPLES), "of their text is repeated"),
        (
            [f"{Random(row).getrandbits(60):x} is the {'qvz' * (row + 1)} of it" for row in range(len(EXAMPLES))],
            "nowhere",
        ),
        ([EXAMPLES[row - 7].reference for row in range(len(EXAMPLES))], "match their own prompt better than others"),
        ([f"{example.reference} \x15\N{REPLACEMENT CHARACTER}" for example in EXAMPLES], "contain invalid characters"),
    ],
)
def test_text_that_is_no_answer_is_doubted(texts: list[str], words: str) -> None:
    (doubt,) = [each for each in evaluated(form, texts).doubts if each.kind == "not-text"]
    assert words in doubt.words


def test_figures_of_texts_by_hand() -> None:
    assert repetition("a b c a b c") == 0.25  # abc, bca, cab, abc
    assert repetition("a b") == 0
    # qua stands nowhere else; red is in the prompt, it in the other reference
    assert unknown_words(["red qua it", "no no"], ["red?", "it no"], ["a", "it"]) == (1, 5)
    prompts = ["a cat", "a dog", "a hen"]
    assert follows(["I say cat", "I say dog", "none"], prompts, ["is it?"] * 3).value == 1
    assert follows(["I say dog", "I say hen", "so"], prompts, ["is it?"] * 3).value == 0
    assert follows(["dog", "hen", "cat"], prompts, ["it is one of the animals"] * 3) is None
    assert not broken("line\nbreak \N{GRINNING FACE}")
    assert broken("bell \a")


def test_few_prompts_are_underpowered_and_many_are_not() -> None:
    def items(n: int) -> list[Item]:
        values = [float(1 - 2 * (i % 2)) for i in range(n)]
        return [Item(str(i), "p", "r", {"m": RecordedAnswer("a", 1, False, v, [1])}) for i, v in enumerate(values)]

    for n, expected in ((30, {"underpowered"}), (1000, set())):
        evaluation = evaluation_from_items(items(n))
        found = doubts(items(n), evaluation)
        assert {doubt.kind for doubt in found} == expected
    assert (
        "Underpowered: 'm' and the references do not differ significantly"
        in doubts(items(30), evaluation_from_items(items(30)))[0].words
    )


def coin(asked: Asked) -> Told:
    return Told(Random(repr((asked.text_1, asked.text_2))).choice(("1 > 2", "1 < 2")))


def first(asked: Asked) -> Told:
    return Told("1 > 2")


def right(asked: Asked) -> Told:
    """Adds up, and prefers the right sum."""
    a, b = (int(word.strip("?")) for word in asked.context.split() if word.strip("?").isdecimal())
    one, other = (text.rstrip(".").split()[-1] == str(a + b) for text in (asked.text_1, asked.text_2))
    return Told("1 > 2" if one > other else "1 < 2" if one < other else "1 = 2")


@pytest.mark.parametrize(
    ("script", "before", "after"),
    [
        (coin, {"content-blind", "judge-contradicts-itself"}, {"judge-contradicts-itself"}),
        (first, {"content-blind", "judge-contradicts-itself"}, {"judge-contradicts-itself"}),
        (None, {"content-blind"}, {"reward-follows-length"}),  # the longer text
        (right, set(), set()),
    ],
)
def test_judges_that_cannot_be_believed(place: Path, server: JudgeServer, script, before: set, after: set) -> None:
    from grao.config.load import load_recipe
    from grao.rewards.mix import make_rewards

    server.script = script or server.script
    judge = {name: value for name, value in judged_by(server).items() if value}
    given = {"model.path": "m", "data.path": "d", "output": "out", **judge}
    mix = make_rewards(load_recipe(None, list(given.items())))
    assert {doubt.kind for doubt in content_doubts(mix, EXAMPLES, None)} == before
    texts = [text if row % 2 else text.rpartition(" ")[2] for row, text in enumerate(HONEST)]
    found = evaluated(mix, texts)
    assert after <= kinds(found)
    assert kinds(found) - after <= {"underpowered"}


def test_a_judge_asked_in_one_order_that_favours_a_place(place: Path, server: JudgeServer) -> None:
    from grao.config.load import load_recipe
    from grao.rewards.mix import make_rewards

    server.script = first
    judge = {name: value for name, value in judged_by(server, orders="one").items() if value}
    mix = make_rewards(load_recipe(None, [("model.path", "m"), ("data.path", "d"), ("output", "o"), *judge.items()]))
    assert "judge-favours-a-place" in kinds(evaluated(mix, HONEST))


def test_the_short_audit_warns_before_training_and_doubts_after(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = {"rewards.0.function": "rewards.py:form"}
    assert train(**blind, **{"audit.before_training": "warn"}) == 0
    said = capsys.readouterr().out
    assert said.index("warning: The reward may ignore content") < said.index("with the start model:")
    assert said.index("verdicts by function rewards.py:form") < said.index("DOUBT") < said.index("RAS, strict wins")
    found = read_evaluation(place / "run")
    assert [doubt.kind for doubt in found.doubts][:2] == ["content-blind", "training-reward-only"]
    assert train(**blind, output="skipped") == 0
    assert "warning: The reward may not" not in capsys.readouterr().out
    for one, other in zip(read_metrics(place / "run"), read_metrics(place / "skipped"), strict=True):
        assert {k: v for k, v in one.items() if "reward" in k and "sec" not in k} == {
            k: v for k, v in other.items() if "reward" in k and "sec" not in k
        }
    assert read_items(place / "skipped") == read_items(place / "run")  # looking changes nothing
    assert train(**blind, output="stopped", **{"audit.before_training": "stop"}) == 2
    assert "Set audit.before_training: warn to train anyway" in capsys.readouterr().err
    assert not (place / "stopped" / "model").exists()


def test_the_short_audit_of_a_judge_is_small_counted_and_asked_once(
    place: Path, server: JudgeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = {**judged_by(server), "audit.before_training": "warn"}
    assert train(**judge) == 0
    # 2 steps of 3 prompts and 4 samples, 3 comparisons on 10 held-out prompts, 3 wrong texts to 10 prompts; both orders
    most = 1 + 2 * (2 * 3 * 4 + 3 * 10 + 3 * 10)
    assert f"judge helpful: up to {most} questions" in capsys.readouterr().out
    counted = len(server.asked)
    assert counted <= most
    assert train(**judge, output="again") == 0
    assert len(server.asked) == counted


# Whole command on simulated data; larger in benchmarks/evaluation_coverage.py


def test_intervals_and_tests_hold_what_they_promise_through_the_command(tmp_path: Path) -> None:
    repeated, unequal = WORLDS[2], WORLDS[3]
    assert (repeated.repeats, unequal.strengths) == (3, (1.0, 0.4))
    found, rejected = coverage(repeated, draws=12, prompts=90)
    assert min(found.values()) >= 0.75
    assert rejected <= 0.25
    assert rejects(simulated(unequal, 200, 0, tmp_path / "world"))
