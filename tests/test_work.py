"""Counted work: the same on any machine, and what ends the runs of a study whose budget it is."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from grao.errors import InputError
from grao.records.study import read_cells, read_study
from grao.records.work import WorkRates
from grao.studies import work
from grao.studies.study import run_study
from grao.training.stages import Spent
from test_compare import REWARD, STUDY, Screen, done, study
from tiny import study_folder

RATES = WorkRates(steps=1.0, sampled=0.01, forwarded=0.001, backwarded=0.002)
_ = done  # a fixture
ARMS = """arms:
  grao: {}
  staged: {stages: [{method: {name: sft}, until: {steps: 3}}, {method: {name: grpo}}]}
  auto: {method.imitation: {every: 2, prompts: 6, samples: 2}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study of three arms whose budget is work."""
    monkeypatch.chdir(tmp_path)
    arms = STUDY[: STUDY.index("arms:")] + ARMS + STUDY[STUDY.index("budget:") :]
    text = arms.replace("budget: {steps: 3}", "budget: {work: 9.0}\nevaluate_every: 1").replace("[0, 1]", "[0]")
    study_folder(tmp_path, text, REWARD)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "work.json").write_text(json.dumps(vars(RATES)))
    return tmp_path


def test_work_is_steps_and_tokens_times_what_each_takes():
    assert work.work(RATES, Spent(steps=2, sampled=300, forwarded=1000, backwarded=500)) == 2 + 3 + 1 + 1


def test_the_rates_come_out_of_three_trainings(monkeypatch: pytest.MonkeyPatch):
    true = WorkRates(steps=0.05, sampled=3e-4, forwarded=2e-5, backwarded=7e-5)

    def step(recipe, split, method):
        sampled = 0 if method.name == "sft" else 1000
        backwarded = {"sft": 400, "grao": 1500, "grpo": 1300}[method.name]
        forwards = 1300 * (method.name == "grpo")
        update = true.steps + true.backwarded * backwarded + true.forwarded * forwards
        return SimpleNamespace(spent=Spent(1, sampled, 0, backwarded), rollout=true.sampled * sampled, update=update)

    monkeypatch.setattr(work, "_median_step", step)
    measured = vars(work.measure(None, None)) | {"measured": ""}
    assert measured == pytest.approx(vars(true) | {"measured": ""})


def test_runs_end_when_their_work_is_done_and_are_the_same_again(place: Path, done: list[str]):
    run_study(study(), Screen())
    cells = read_cells(place / "study")
    for record in cells.values():
        *_, last, end = record.curve
        assert last.work < 9.0 <= end.work == record.cost.work, record.key.name
        assert record.cost.steps == end.step
    by_arm = {record.key.arm: record for record in cells.values()}
    assert by_arm["staged"].cost.stages == [3]
    first = {arm: record.curve[1].work for arm, record in by_arm.items()}
    assert first["auto"] > first["staged"]  # the look at the start is work too
    assert by_arm["staged"].cost.steps > by_arm["grao"].cost.steps
    result = read_study(place / "study")
    assert result.budget == "9 s of counted work"
    assert [band.points[-1].work >= 9.0 for band in result.curves] == [True] * 3
    page = (place / "study" / "study.html").read_text()
    rates = "10 ms per token (sampled), 1 ms per token (forward), 2 ms per token (forward and backward)"
    assert f"1,000 ms per step, {rates}" in page
    run_study(study(), Screen())
    assert len(done) == 3  # no run was done a second time
    for file in (place / "study" / "cells").iterdir():
        file.unlink()
    run_study(study(), Screen())
    for key, record in read_cells(place / "study").items():
        assert record.outcomes == cells[key].outcomes
        assert [point.work for point in record.curve] == [point.work for point in cells[key].curve]
    (place / "study" / "work.json").write_text(json.dumps(vars(RATES) | {"steps": 2.0}))
    run_study(study(), Screen())
    assert len(done) == 9  # other rates, other budgets


def test_steps_of_all_stages_count_in_a_budget_of_steps(place: Path):
    run_study(study(("budget", "{steps: 5}"), ("output", "other")), Screen())
    assert {record.cost.steps for record in read_cells(place / "other").values()} == {5}


def test_a_schedule_that_needs_the_number_of_steps_is_refused(place: Path):
    with pytest.raises(InputError, match="must be constant: the budget is 9 s of counted work"):
        run_study(study(("base.training.schedule", "linear")), Screen())
