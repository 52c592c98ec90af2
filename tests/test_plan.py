"""`grao train --dry-run`: what it says is what the run that follows does, and it leaves nothing behind."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from grao.cli.main import main
from grao.records.run import read_manifest, read_metrics
from judge_server import JudgeServer
from tiny import option_words, saved_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

WORDS = [f"{one} {two}" for one in ("red", "blue", "green", "grey") for two in ("cat", "dog", "hen", "cow", "bee")]


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer().running() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model and data, as working directory; one prompt is too long, wherever it goes."""
    saved_model(tmp_path / "model")
    rows = [{"prompt": f"say {word}", "reference": f"a {word}{' it is' * (n % 3)}."} for n, word in enumerate(WORDS)]
    rows.append({"prompt": "say " * 20, "reference": "say."})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({**row, "worse": "no"}) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(**changes: str) -> list[str]:
    settings = {
        "model.path": "model",
        "data.path": "data.jsonl",
        "data.held_out": "6",
        "data.max_prompt_tokens": "24",
        "rollout.group_size": "4",
        "rollout.temperature": "1.0",
        "rollout.max_new_tokens": "10",
        "training.prompts_per_step": "4",
        "training.trainer.use_cpu": "true",
        "output": "run",
        **changes,
    }
    return option_words(settings)


def planned(capsys: pytest.CaptureFixture[str], words: list[str], *more: str) -> str:
    assert main(["train", "--dry-run", *more, *words]) == 0
    return " ".join(capsys.readouterr().out.split())


def number(pattern: str, said: str) -> int:
    (found,) = re.findall(pattern.replace("N", r"([\d,]+)"), said)
    return int(found.replace(",", ""))


def summed(place: Path, name: str) -> float:
    return sum(step.get(name, 0.0) for step in read_metrics(place / "run"))


def test_a_dry_run_counts_what_the_run_does(place: Path, server: JudgeServer, capsys: pytest.CaptureFixture[str]):
    judge = {"model": "judge", "base_url": server.url, "api_key_env": None}
    evaluations = {"training.trainer.eval_strategy": "steps", "training.trainer.eval_steps": "3"}
    words = options(**{"rewards.0": json.dumps({"judge": judge}), "training.steps": "5", **evaluations})
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    said = planned(capsys, words)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    assert server.asked == []
    assert "not in this time: judge helpful" in said
    asked = planned(capsys, words, "--ask-judges")
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    assert f"was asked {len(server.asked) - 1} questions, to time it" in asked  # and one to see that it is there
    server.asked.clear()

    assert main(["train", *words]) == 0
    capsys.readouterr()
    run, steps = read_manifest(place / "run"), read_metrics(place / "run")
    assert run
    assert number("N steps of 4 prompts, 4 completions each", said) == run.steps == len(steps) == 5
    assert number("4 completions each: N completions", said) == 5 * 4 * 4
    assert f"{run.data.prompts} prompts, {run.data.held_out} held out" in said
    assert f"left out: {run.data.left_out['prompt too long']} rows, prompt too long" in said
    assert main(["data", "check", "--config", "run/recipe.yaml"]) == 0
    checked = " ".join(capsys.readouterr().out.split())
    assert f"{run.data.prompts} rows to train on, {run.data.held_out} held out for evaluation" in checked
    assert "left out: 1 row, prompt too long" in checked
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert number("while training: N answers", said) == 6 * (2 + sum("eval/reward" in line for line in lines)) == 6 * 4
    assert number("prompts, N of references", said) == pytest.approx(4 * summed(place, "reference/tokens"))
    assert summed(place, "tokens/sampled") <= number("N of them in training", said) == 5 * 4 * 4 * 10
    assert summed(place, "tokens/trained") <= number("trained on: at most N tokens", said)

    rows = [json.loads(line) for line in (place / "data.jsonl").read_text().splitlines()]
    texts = [" ".join(sorted(row[name].split())) for row in rows for name in ("prompt", "reference")]
    known = [
        each
        for each in server.asked
        if all(" ".join(sorted(text.split())) in texts for text in (each.text_1, each.text_2))
    ]
    certain = number(r"questions \(N of them before anything", said)
    assert len(known) + 1 == certain  # and the question whether it is there
    most = number("judge helpful: up to N questions", said)
    assert most == certain + 2 * (5 * 4 * 4 + 6 * 4 + 6)
    assert 0.7 * most < len(server.asked) <= most  # equal answers are one question


def test_what_is_not_sampled_is_counted_exactly(place: Path, capsys: pytest.CaptureFixture[str]):
    (place / "rewards.py").write_text("def length(completions, **columns):\n    return [len(c) for c in completions]\n")
    more = {"rewards.0.function": "rewards.py:length", "data.rejected": "worse", "evaluation.enabled": "false"}
    more |= {"method.name": "dpo", "training.steps": "9", "audit.before_training": "skip"}
    words = options(**more, **{"rollout.max_new_tokens": "30"})
    said = planned(capsys, words)
    assert main(["train", *words]) == 0
    assert number("trained on: N tokens", said) == summed(place, "tokens/trained")
    assert number("N of rejected answers", said) == 9 * 4 * 3
    assert "sampled" not in said
    assert "while training" not in said
    assert re.search("time: about .* here", said)
    for remark in ("repeated:", "longer than", "only repeat", "at most half", "are cut"):
        assert remark not in said


def test_data_are_looked_at_before_a_training(place: Path, capsys: pytest.CaptureFixture[str]):
    rows = [json.loads(line) for line in (place / "data.jsonl").read_text().splitlines()]
    rows += [{**rows[0], "worse": rows[0]["reference"]}, {**rows[1], "reference": rows[1]["prompt"]}]
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.long_prompts": "truncate", "data.rejected": "worse", "data.held_out": "300"}
    said = planned(capsys, options(**{"rewards.0.rule.exact.ignore_case": "true", **changes}), "--card", "24GiB")
    for remark in (
        "repeated: 2 prompts occur in 4 rows, 1 of them with different references",
        "1 references only repeat their prompt",
        "1 rejected answers equal the reference",
        "1 prompts are truncated on the left (data.max_prompt_tokens is 24)",
        "10 of 21 prompts are held out for evaluation: at most half can be; data.held_out asks for 300",
        "of 23 references are longer than rollout.max_new_tokens (10), where completions are cut",
    ):
        assert remark in said
