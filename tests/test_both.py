"""Intervals and tests for new prompts and new trainings at once: by hand, and their coverage."""

import math

import numpy as np
import pytest
from scipy.special import ndtri, stdtrit

from grao.evaluation.clusters import NET, SHARE, Quantity, both_test, over_both, over_prompts, over_seeds
from grao.records.numbers import Estimate


def at_once(table: np.ndarray, kind: Quantity = NET, confidence: float = 0.95) -> Estimate:
    return over_both(over_prompts(table, kind, confidence), over_seeds(table, kind, confidence), kind)


def drawn(rng: np.random.Generator, shares: tuple[float, ...], runs: int, of_runs: float) -> np.ndarray:
    """(300, R) of one arm, or the difference of two: what is hard for one is hard for the other, runs differ."""
    hard, arms = math.sqrt(0.4) * rng.normal(size=(300, 1)), []
    for share in shares:
        own = math.sqrt(of_runs) * rng.normal(size=(1, runs))
        chance = math.sqrt(0.6 - of_runs) * rng.normal(size=(300, runs))
        arms.append((hard + own + chance < ndtri(share)).astype(float))
    return arms[0] if len(arms) == 1 else arms[0] - arms[1]


def test_squares_of_both_reaches_are_added() -> None:
    both = over_both(Estimate(0.2, 0.16, 0.24, 300), Estimate(0.2, 0.17, 0.23, 3))
    assert (both.low, both.value, both.high, both.n) == (pytest.approx(0.15), 0.2, pytest.approx(0.25), 300)
    assert over_both(Estimate(0.02, 0.0, 0.06, 300), Estimate(0.02, 0.01, 0.03, 3)).low == 0
    assert over_both(Estimate(-0.9, -1.0, -0.8, 9), Estimate(-0.9, -1.0, -0.8, 3), NET).low == -1


def test_the_test_and_the_interval_agree() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.03, 0.06, 0.09):
        table = drawn(rng, (0.2 + shift, 0.2), 4, 0.004)
        estimate = at_once(table)
        assert (both_test(table, estimate) < 0.05) == (estimate.low > 0 or estimate.high < 0)
        assert both_test(-table, at_once(-table)) == pytest.approx(both_test(table, estimate))


def test_the_p_value_by_hand() -> None:
    # Means of prompts and of runs as they fall; at p the reach, scaled to the interval's, is the distance from 0.
    table = drawn(np.random.default_rng(3), (0.25, 0.2), 5, 0.004)
    estimate = at_once(table)
    p = both_test(table, estimate)
    variances = [table.mean(axis=1).var(ddof=1) / 300, table.mean(axis=0).var(ddof=1) / 5]

    def reach(alpha: float) -> float:
        quantiles = stdtrit(299, 1 - alpha / 2), stdtrit(4, 1 - alpha / 2)
        return math.hypot(*(t * math.sqrt(v) for t, v in zip(quantiles, variances, strict=True)))

    assert estimate.value > 0
    assert estimate.value / (estimate.value - estimate.low) == pytest.approx(reach(p) / reach(0.05))
    assert both_test(np.zeros((9, 3)), at_once(np.zeros((9, 3)))) == 1


@pytest.mark.parametrize(("shares", "runs", "of_runs"), [((0.2,), 3, 0.004), ((0.1,), 5, 0.03), ((0.5, 0.45), 3, 0.03)])
def test_coverage(shares: tuple[float, ...], runs: int, of_runs: float) -> None:
    rng, kind = np.random.default_rng(1), SHARE if len(shares) == 1 else NET
    truth = shares[0] - sum(shares[1:])
    estimates = [at_once(drawn(rng, shares, runs, of_runs), kind) for _ in range(250)]
    assert np.mean([each.low <= truth <= each.high for each in estimates]) >= 0.92


def test_all_points_of_a_sweep_hold_at_once() -> None:
    rng, points, held = np.random.default_rng(2), 6, 0
    for _ in range(60):
        tables = [drawn(rng, (0.2, 0.2), 5, 0.004) for _ in range(points)]
        each = [at_once(table, confidence=1 - 0.05 / points) for table in tables]
        held += all(estimate.low <= 0 <= estimate.high for estimate in each)
    assert held / 60 >= 0.92
