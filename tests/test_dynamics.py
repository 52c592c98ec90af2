"""Sample efficiency and falls of a curve, against numbers by hand."""

import math

import pytest

from grao.evaluation.study import reached_at, share_falling


def test_reach_interpolates_between_evaluations() -> None:
    assert reached_at([0, 100, 200], [0.0, 0.2, 0.4]) == pytest.approx(190)
    assert reached_at([0, 100, 200], [0.0, 0.2, 0.4], share=0.25) == pytest.approx(50)


def test_reach_takes_the_first_time_also_if_the_curve_falls_later() -> None:
    # 0.95 * 0.4 = 0.38 is met on the way from 0.1 to 0.4.
    assert reached_at([0, 10, 20, 30], [0.2, 0.1, 0.4, 0.05]) == pytest.approx(10 + 10 * 0.28 / 0.3)


def test_reach_starts_at_the_first_evaluation() -> None:
    assert reached_at([5, 10], [0.5, 0.5]) == 5
    assert reached_at([5], [0.5]) == 5


def test_reach_on_a_score_that_is_met_exactly() -> None:
    assert reached_at([0, 10, 20], [0.1, 0.5, 1.0], share=0.5) == 10


def test_reach_of_another_best() -> None:
    assert reached_at([0, 100], [0.0, 0.5], best=1.0) is None
    assert reached_at([0, 100], [0.0, 0.5], share=0.25, best=1.0) == pytest.approx(50)


@pytest.mark.parametrize("y", [[0.0, 0.0], [-0.5, -0.1]])
def test_nothing_is_reached_where_no_score_is_above_zero(y: list[float]) -> None:
    assert reached_at([0, 1], y) is None


def test_reach_scales_with_x_and_not_with_y() -> None:
    x, y = [0, 3, 7, 9], [0.05, 0.3, 0.2, 0.6]
    there = reached_at(x, y)
    assert there is not None
    assert reached_at([10 * at for at in x], [score / 2 for score in y]) == pytest.approx(10 * there)


def test_share_falling() -> None:
    assert share_falling([0.1, 0.2, 0.2, 0.1, 0.3]) == 0.25
    assert share_falling([3, 2, 1]) == 1
    assert share_falling([1, 1, 2]) == 0
    assert share_falling([0.4]) is None


@pytest.mark.parametrize(("x", "y"), [([1, 0], [1, 2]), ([0], [1, 2])])
def test_x_must_not_fall(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="x must be non-decreasing"):
        reached_at(x, y)


@pytest.mark.parametrize("y", [[], [math.nan, 0.1]])
def test_scores_must_be_there(y: list[float]) -> None:
    with pytest.raises(ValueError, match="finite score"):
        share_falling(y)


def test_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="share must lie"):
        reached_at([0], [1], share=95)
