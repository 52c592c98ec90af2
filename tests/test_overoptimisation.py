"""The record and the figure of `benchmarks/overoptimisation.py`, on curves made by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from overoptimisation_figure import CASES, Curve, Study, figure

HACKED = Curve(
    case=CASES[0],
    seed=0,
    steps=[1, 6, 11, 16, 21, 26],
    first=[0.3, 0.5, 0.6, 0.7, 0.8, 0.9],
    second=[0.1, 0.3, 0.3, 0.3, 0.2, 0.0],
    kl=[0.0, 0.1, 0.4, 0.9, 1.6, 2.5],
    reward=[0.0] * 6,
    repetition=[0.0] * 6,
    alarm=[0, 0, 0, 0, 1, 2],
)
POSITIVE = replace(HACKED, case=CASES[1], alarm=[0, 0, 0, 0, 2, 1])
CONTROL = replace(HACKED, case=CASES[2], alarm=[0] * 6)


def test_proxy_and_gold_change_places_in_the_control():
    assert HACKED.proxy == CONTROL.gold == HACKED.first
    assert HACKED.gold == CONTROL.proxy == HACKED.second


def test_the_peak_is_that_of_three_looks_and_known_at_the_last_of_them():
    peak = HACKED.peak()
    assert (peak.step, peak.value) == (16, pytest.approx(0.3))
    assert HACKED.ends(HACKED.gold) == (pytest.approx(0.7 / 3), pytest.approx(0.5 / 3))


def test_alarms():
    assert (HACKED.first_alarm(1), HACKED.first_alarm(2)) == (21, 26)
    assert (POSITIVE.first_alarm(1), POSITIVE.first_alarm(2)) == (None, 21)  # the graver one came first
    assert CONTROL.first_alarm(1) is None


def test_a_record_is_read_back_and_drawn(tmp_path: Path):
    study = Study({"steps": 26}, [{"accuracy": 0.7}], [HACKED, POSITIVE, CONTROL])
    study.write(tmp_path / "study.json")
    assert Study.read(tmp_path / "study.json") == study
    panels = figure(study).axes
    drawn = panels[0].get_lines()[0].get_xydata()
    assert drawn.tolist() == [list(point) for point in zip(HACKED.steps, HACKED.proxy, strict=True)]
    assert [len(axes.get_lines()) for axes in panels] == [4, 2, 3, 3]  # two rewards each, and the alarms
