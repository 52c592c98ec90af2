"""Intervals of several answers to each prompt: by hand, against `inference.py`, and their coverage."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.special import stdtrit
from scipy.stats import ttest_1samp

from grao.errors import InputError
from grao.evaluation.clusters import ENOUGH_PROMPTS, NET, difference, over_prompts, over_seeds
from grao.evaluation.inference import mean, net_share, proportion, share_limits
from grao.records.run import Estimate

Z = 1.959963984540054


def limits(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.low, estimate.value, estimate.high


def paired(first: ArrayLike, second: ArrayLike) -> Estimate:
    return over_prompts(difference(first, second), NET)


def drawn(n: int, runs: int, share: float, correlation: float, seed: int = 0) -> np.ndarray:
    """Outcomes whose chance of success differs between prompts (beta), correlated as told within a prompt."""
    rng = np.random.default_rng(seed)
    spread = 1 / max(correlation, 1e-6) - 1
    chance = rng.beta(share * spread, (1 - share) * spread, n)
    return (rng.random((n, runs)) < chance[:, None]).astype(float)


def test_design_effect_by_hand() -> None:
    # Two runs over ten prompts: 4 won by both, 2 by one, 4 by none, so 10 of 20. Distances from 2 * 0.5 within prompts
    # are 1 (eight times) and 0: between 8 * 10 / 9, independent 20 / 4 = 5, design effect 80 / 45 = 1.778; times
    # (t of 9 degrees / z)^2 = (2.262157 / 1.959964)^2 it is above 2, the number of runs, so 2 it is: 5 of 10.
    table = [[1, 1]] * 4 + [[1, 0], [0, 1]] + [[0, 0]] * 4
    assert limits(over_prompts(table)) == pytest.approx(limits(proportion(5, 10)))


def test_effective_answers_by_hand() -> None:
    # 60 prompts: 15 won by both runs, 30 by one, 15 by none. Between 30 * 60 / 59, independent 30: a design effect of
    # 60 / 59, times (2.000995 / 1.959964)^2; so 120 / 1.0600 answers, half of them successes, in Wilson's formula.
    table = [[1, 1]] * 15 + [[1, 0]] * 15 + [[0, 1]] * 15 + [[0, 0]] * 15
    n = 120 / (60 / 59 * (float(stdtrit(59, 0.975)) / Z) ** 2)
    reach = Z / (n + Z * Z) * math.sqrt(n / 4 + Z * Z / 4)
    estimate = over_prompts(table)
    assert limits(estimate) == pytest.approx((0.5 - reach, 0.5, 0.5 + reach), abs=1e-9)
    assert estimate.n == 60


def test_a_single_run_has_the_plain_intervals() -> None:
    verdicts = np.array([1] * 12 + [0] * 20 + [-1] * 8, dtype=float)[:, None]
    assert limits(over_prompts(verdicts, NET)) == pytest.approx(limits(net_share(12, 8, 40)))
    assert limits(over_prompts(verdicts == 1)) == pytest.approx(limits(proportion(12, 40)))


def test_runs_that_always_agree_are_one_run() -> None:
    verdicts = np.array([1] * 12 + [0] * 20 + [-1] * 8, dtype=float)[:, None].repeat(5, axis=1)
    assert limits(over_prompts(verdicts, NET)) == pytest.approx(limits(net_share(12, 8, 40)))
    assert limits(over_prompts(verdicts == 1)) == pytest.approx(limits(proportion(12, 40)))


@pytest.mark.parametrize("value", [0, 1])
def test_where_nothing_varies_prompts_are_what_counts(value: int) -> None:
    table = np.full((30, 8), float(value))
    assert limits(over_prompts(table)) == pytest.approx(limits(proportion(30 * value, 30)))
    assert limits(over_prompts(-table, NET)) == pytest.approx(limits(net_share(0, 30 * value, 30)))


def test_independent_answers_narrow_the_interval_and_correlated_ones_do_not() -> None:
    def width(runs: int, correlation: float) -> float:
        estimate = over_prompts(drawn(2000, runs, 0.4, correlation))
        return estimate.high - estimate.low

    one = width(1, 0.0)
    assert width(4, 0.0) == pytest.approx(one / 2, rel=0.05)
    # Design effect 1 + 3 * 0.5 = 2.5 of four answers.
    assert width(4, 0.5) == pytest.approx(one * math.sqrt(2.5 / 4), rel=0.05)


def test_order_of_prompts_and_runs_does_not_matter() -> None:
    table = drawn(40, 3, 0.3, 0.3)
    rng = np.random.default_rng(1)
    shuffled = rng.permutation(rng.permutation(table, axis=0), axis=1)
    assert limits(over_prompts(shuffled)) == pytest.approx(limits(over_prompts(table)))


def test_failures_mirror_successes_and_losses_mirror_wins() -> None:
    table, other = drawn(40, 3, 0.2, 0.3), drawn(40, 3, 0.4, 0.3, seed=1)
    there, back = limits(over_prompts(table)), limits(over_prompts(1 - table))
    assert there == pytest.approx(tuple(1 - x for x in back[::-1]))
    there, back = limits(paired(table, other)), limits(paired(other, table))
    assert there == pytest.approx(tuple(-x for x in back[::-1]))


def test_missing_outcomes_are_left_out() -> None:
    table = drawn(40, 3, 0.3, 0.3)
    padded = np.concatenate([table, np.full((5, 3), np.nan)])
    wide = np.concatenate([padded, np.full((45, 1), np.nan)], axis=1)
    assert over_prompts(wide) == over_prompts(table)
    table[0, 0] = np.nan
    estimate = over_prompts(table)
    assert (estimate.value, estimate.n) == (pytest.approx(np.nanmean(table)), 40)


def test_unequal_numbers_of_answers_by_hand() -> None:
    # Sizes 4, 1, 1 whose answers agree: as if sum m^2 / sum m = 18 / 6 = 3 answers came from each prompt, so 2 prompts.
    table = [[1, 1, 1, 1], [0, math.nan, math.nan, math.nan], [0, math.nan, math.nan, math.nan]]
    estimate = over_prompts(table)
    low, value, high = limits(estimate)
    centre = (4 / 3 + Z * Z / 2) / (2 + Z * Z)
    assert value == pytest.approx(4 / 6)
    assert high <= 1
    assert low < centre < high


def test_paired_difference_pairs_prompt_by_prompt() -> None:
    first, second = drawn(60, 2, 0.5, 0.4), drawn(60, 2, 0.3, 0.4, seed=5)
    estimate = paired(first, second)
    assert estimate.value == pytest.approx(first.mean() - second.mean())
    assert limits(estimate) == pytest.approx(limits(over_prompts(first - second, NET)))
    first[3, 1], second[7, 0] = np.nan, np.nan
    known = ~np.isnan(first + second)
    assert paired(first, second).value == pytest.approx(first[known].mean() - second[known].mean())


def test_arms_that_fare_alike_on_every_prompt_differ_little() -> None:
    table = drawn(100, 3, 0.4, 0.6)
    same, other = paired(table, table), paired(table, drawn(100, 3, 0.4, 0.6, seed=9))
    assert same.value == 0
    assert same.high - same.low < (other.high - other.low) / 2


def test_over_seeds_is_students_interval() -> None:
    values = [0.31, 0.35, 0.28, 0.4]
    estimate, oracle = mean(values), ttest_1samp(values, 0).confidence_interval(0.95)
    assert limits(estimate) == pytest.approx((oracle.low, np.mean(values), oracle.high))
    assert estimate.n == 4


def test_few_prompts_that_fail_once_are_taken_for_more() -> None:
    # One success of 8 answers to one of 100 prompts. Distances of the prompts' sums: 0.99, and 99 times -0.01, so the
    # design effect is 0.99 * (100 / 99) / (800 * 1 / 800 * 799 / 800) = 1 / 0.99875; it is trusted a 20th, 8 the rest.
    table = np.zeros((100, 8))
    table[3, 5] = 1
    effect = 0.05 / 0.99875 * (float(stdtrit(99, 0.975)) / Z) ** 2 + 0.95 * 8
    x, n = 1 / effect, 800 / effect
    high = (x + Z * Z / 2 + Z * math.sqrt(x * (n - x) / n + Z * Z / 4)) / (n + Z * Z)
    assert over_prompts(table).high == pytest.approx(high)
    assert high > proportion(0, 100).high


def test_enough_prompts_are_taken_as_they_are() -> None:
    table = np.zeros((400, 8))
    table[np.arange(ENOUGH_PROMPTS), 0] = 1
    scale = 1 / (float(stdtrit(399, 0.975)) / Z) ** 2
    assert over_prompts(table).high == pytest.approx(share_limits(scale * 20, scale * 3180)[1])


def test_over_seeds_takes_the_means_of_runs() -> None:
    table, other = drawn(50, 4, 0.4, 0.2), drawn(50, 4, 0.5, 0.2, seed=3)
    assert over_seeds(table) == mean(table.mean(axis=0).tolist())
    assert over_seeds(difference(table, other), NET) == mean((table - other).mean(axis=0).tolist())
    assert over_seeds(table - other, NET) == over_seeds(difference(table, other), NET)
    table[0, 0], table[1, 2] = np.nan, np.nan
    assert over_seeds(table) == mean(np.nanmean(table, axis=0).tolist())
    gone = np.concatenate([table, np.full((50, 1), np.nan)], axis=1)
    assert over_seeds(gone) == over_seeds(table)


def test_seeds_that_agree_on_rare_events_leave_room() -> None:
    # No success in 3 runs of 100 prompts: no spread, yet as far as Wilson's limit of 0 of 300. One run says nothing.
    assert over_seeds(np.zeros((100, 3))).high == pytest.approx(proportion(0, 300).high)
    assert over_seeds(np.zeros((100, 3)), NET).low == pytest.approx(net_share(0, 0, 300).low)
    assert over_seeds(np.zeros((100, 1))).high == 0
    often = np.zeros((100, 3))
    often[:14] = 1  # 42 successes: enough
    assert over_seeds(often).high == pytest.approx(0.14)


@pytest.mark.parametrize("interval", [over_prompts, lambda x: over_prompts(x, NET), lambda x: paired(x, x)])
def test_nothing_known_is_refused(interval: Callable[[object], Estimate]) -> None:
    with pytest.raises(InputError, match="all outcomes are missing"):
        interval(np.full((3, 2), np.nan))


def test_other_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outcomes among \[0, 1\]"):
        over_prompts([[0.5, 1]])
    with pytest.raises(ValueError, match=r"outcomes among \[-1, 0, 1\]"):
        over_prompts([[2, 1]], NET)
    with pytest.raises(ValueError, match="table of prompts and runs"):
        over_prompts([0, 1])
    with pytest.raises(ValueError, match="same prompts and runs"):
        paired([[0, 1]], [[0], [1]])


@pytest.mark.parametrize(("share", "runs", "correlation"), [(0.03, 3, 0.6), (0.2, 8, 0.3), (0.5, 3, 0.0)])
def test_coverage_over_prompts(share: float, runs: int, correlation: float) -> None:
    estimates = [over_prompts(drawn(100, runs, share, correlation, seed)) for seed in range(1500)]
    covered = np.mean([e.low <= share <= e.high for e in estimates])
    assert covered >= 0.92
    assert share < 0.2 or covered <= 0.97


@pytest.mark.parametrize(("first", "second", "correlation"), [(0.02, 0.01, 0.3), (0.5, 0.3, 0.6)])
def test_coverage_of_a_paired_difference(first: float, second: float, correlation: float) -> None:
    estimates = [
        paired(drawn(100, 3, first, correlation, seed), drawn(100, 3, second, correlation, seed + 10_000))
        for seed in range(1000)
    ]
    covered = np.mean([e.low <= first - second <= e.high for e in estimates])
    assert covered >= 0.92
    assert second < 0.2 or covered <= 0.97


@pytest.mark.parametrize("runs", [2, 3, 8])
@pytest.mark.parametrize(("share", "spread"), [(0.005, 0.0), (0.1, 0.05), (0.4, 0.0)])
def test_coverage_over_seeds(share: float, spread: float, runs: int) -> None:
    rng = np.random.default_rng(0)
    own = np.clip(rng.normal(share, spread, (1000, runs)), 0, 1)
    estimates = [over_seeds((rng.random((100, runs)) < chances).astype(float)) for chances in own]
    covered = np.mean([e.low <= share <= e.high for e in estimates])
    assert covered >= 0.92
    assert share < 0.2 or covered <= 0.97
