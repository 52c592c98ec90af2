"""Warnings of collapse: they fire on constructed collapses, once, and are silent where a run is only learning."""

import json
import re
import warnings
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState

from grao.records.collapse import CollapseWatch, collapses
from grao.records.run import read_metrics
from grao.reports.run import RunRecords, _notices
from grao.training.callbacks import MetricsCallback

HONEST = {
    "entropy": (1.2, 0.3),
    "completion/tokens": (25.0, 14.0),
    "reference/tokens": (12.0, 12.0),
    "completion/truncated": (0.4, 0.0),
    "completion/repeats": (0.3, 0.05),
    "update_share/reference": (0.72, 0.3),
}
"""Name -> value at the start and at the end."""


def run(steps: int = 60, **changed: tuple[float, float]) -> list[dict[str, float]]:
    """A run whose numbers go in a straight line from start to end."""
    ends = HONEST | {name.replace("__", "/"): value for name, value in changed.items()}
    share = [step / (steps - 1) for step in range(steps)]
    lines = [{name: a + (b - a) * x for name, (a, b) in ends.items()} for x in share]
    return [{"step": step + 1.0, "loss": 0.1, "learning_rate": 1e-3, **line} for step, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"entropy": (0.6, -0.02)}, "entropy has fallen from 0.55 to 0.0"),
        ({"completion__tokens": (30.0, 0.0)}, r"answers have shrunk from 28 to \d\.\d tokens; references have 12"),
        (
            {"completion__tokens": (30.0, 90.0), "completion__truncated": (0.0, 1.0)},
            r"answers have grown from 35 to \d\d tokens, and \d\d% are truncated",
        ),
        ({"completion__repeats": (0.0, 1.0)}, r"5\d% of the answers repeat themselves \(8% at the start\)"),
        ({"update_share__reference": (0.6, 1.1)}, r"references have 9\d% of the update's weight \(64% at the start\)"),
    ],
)
def test_each_kind_is_told_once_with_its_step(changed, words: str):
    lines = run(**changed)
    (told,) = collapses([*lines, *lines[-5:]])
    step, _, said = told.partition(": ")
    assert re.match(words, said)
    assert 20 <= int(step.removeprefix("step ")) <= 60


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"entropy": (0.04, 0.01)},  # decided from the start
        {"completion__tokens": (90.0, 4.0)},  # short, as the task may want it
        {"completion__tokens": (400.0, 12.0)},  # from rambling to what the references are like
        {"completion__tokens": (30.0, 90.0)},  # longer, but ending by themselves
        {"completion__tokens": (30.0, 39.0), "completion__truncated": (0.4, 0.8)},
        {"completion__repeats": (0.7, 0.9)},  # always did
        {"update_share__reference": (0.9, 0.99)},  # samples never counted
    ],
)
def test_learning_is_no_collapse(changed):
    assert collapses(run(**changed)) == []


@pytest.mark.parametrize("method", ["grao", "grpo"])
def test_recorded_runs_are_no_collapse(method: str):
    """100 steps of the weak embedded world each, 16 prompts a step, learning rate 5e-4."""
    recorded = json.loads((Path(__file__).parent / "honest_runs.json").read_text())[method]
    lines = [dict(zip(recorded, values, strict=True)) for values in zip(*recorded.values(), strict=True)]
    assert len(lines) == 100
    assert collapses({"step": step, **line} for step, line in enumerate(lines, start=1)) == []


def test_the_limits_by_hand():
    start = {"step": 1.0, "completion/repeats": 0.2}
    at = [dict(start) for _ in range(10)] + [{"step": 2.0, "completion/repeats": value} for value in [0.5] * 9 + [0.51]]
    assert collapses(at) == ["step 2: 50% of the answers repeat themselves (20% at the start)"]  # 0.501 > 0.5
    at[-1]["completion/repeats"] = 0.5
    assert collapses(at) == []
    assert collapses(at[:10] + [{"step": 3.0, "completion/repeats": 0.9}] * 9) == []  # too few to tell


def test_what_is_not_logged_is_not_judged():
    lines = [{"step": float(step), "loss": 1.0} for step in range(40)]
    assert collapses(lines) == []
    lines = run(entropy=(0.6, -0.02))
    assert collapses([{"step": line["step"], "entropy": line["entropy"]} for line in lines]) == []  # nothing is sampled
    lines[55]["entropy"] = float("nan")
    del lines[54]["entropy"]
    assert collapses(lines) == []


def logged(callback: MetricsCallback, lines: list[dict[str, float]], history: list[dict[str, float]]) -> list[str]:
    """What is warned of while these lines are logged."""
    state = TrainerState(log_history=history, global_step=len(history))
    callback.on_train_begin(None, state, TrainerControl())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for line in lines:
            state.global_step = int(line["step"])
            callback.on_log(None, state, TrainerControl(), {name: line[name] for name in line if name != "step"})
            callback.on_log(None, state, TrainerControl(), {"eval_reward": 0.0})
    return [str(warning.message) for warning in told]


def test_it_is_said_while_training_once_also_after_a_resume_and_on_the_page(tmp_path: Path):
    lines = run(completion__repeats=(0.0, 1.0))
    expected = collapses(lines)
    assert logged(MetricsCallback(tmp_path / "whole"), lines, []) == expected
    first = logged(MetricsCallback(tmp_path / "run"), lines[:30], [])
    second = logged(MetricsCallback(tmp_path / "run"), lines[30:], lines[:30])
    assert first + second == expected
    third = logged(MetricsCallback(tmp_path / "again"), lines[50:], lines[:50])
    assert third == (expected if int(expected[0].split()[1][:-1]) > 50 else [])

    recorded = RunRecords("run", None, read_metrics(tmp_path / "whole"), None, [])
    assert f"The policy may have collapsed at {expected[0]}." in list(_notices(recorded, ""))


def test_a_watch_keeps_little():
    watch = CollapseWatch()
    for line in run(steps=500):
        assert watch.look(line) == []
    assert len(watch._first) == len(watch._last) == 10
