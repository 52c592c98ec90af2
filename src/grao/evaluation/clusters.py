"""Confidence intervals for prompts that were answered several times, by runs of different seeds or as several samples.

Two answers to the same prompt carry less information than answers to two prompts, so N prompts times R runs are not
N * R independent trials. Three questions are kept apart:

- `over_prompts`: new prompts for the same trained runs. Prompts are random, runs are fixed. More runs narrow the
  interval only down to what the number of prompts allows.
- `over_seeds`: new training runs on the same prompts (`inference.mean` for one number per seed). Runs are random,
  prompts are fixed.
- `over_both`: new prompts and new training runs, the question of practical interest.

`over_prompts` is the score interval of `inference.py` for an effective number of answers, all answers / design effect
(Kish, Survey Sampling, 1965; Dean & Pagano, Journal of Survey Statistics and Methodology 3, 2015, compare such
intervals). The design effect is the variance between prompts relative to that of independent answers. `over_seeds` is
Student's t. `over_both` adds the squared distances of the two other intervals (Zou & Donner, Statistics in Medicine 27,
2008). Both distances contain the sampling noise of single answers, so `over_both` is conservative. It was chosen by
measured coverage: at least 93 % for 300 prompts and 3, 5 or 8 seeds, most if seeds do not differ. Coverage of the
crossed bootstrap (Owen, Annals of Applied Statistics 1, 2007) falls to 78 %, that of the two-way variance with
Satterthwaite's degrees of freedom to 89 % (`benchmarks/crossed_coverage.py`): three seeds that differ say too little
about their variance.

`over_prompts` and `over_seeds` fail for rare events. Each has a refinement that keeps coverage above 92 % everywhere
(`benchmarks/interval_coverage.py`; without it, coverage falls to 87 % and 17 %, respectively):

- If failures are rare, the few seen cannot show how alike the runs' answers to one prompt are. So with fewer than
  `ENOUGH_PROMPTS` prompts that have an answer other than the most common one, the design effect is shrunk towards its
  maximum, the number of runs.
- Runs that agree by chance have no spread. So with fewer than `ENOUGH_ANSWERS` answers other than the most common one,
  the interval over seeds is at least as wide as the score interval of all answers.

Left out: weights; every known answer counts the same.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import stdtrit

from grao.errors import InputError
from grao.evaluation.inference import critical_value, mean, net_limits, share_limits
from grao.records.numbers import Estimate

ENOUGH_PROMPTS = 20
"""Number of prompts with an uncommon answer from which the estimated design effect is used without shrinkage."""
ENOUGH_ANSWERS = 40
"""Number of uncommon answers from which the spread over seeds is used alone."""
_LEAST, _TINY = 1e-9, 1e-12
"""Smallest p-value, and smallest variance of a mean."""


@dataclass(frozen=True)
class Quantity:
    """A quantity to estimate: the mean of outcomes that take one of a few values."""

    outcomes: tuple[int, ...]
    """Possible values."""
    limits: Callable[..., tuple[float, float]]
    """Score interval of independent outcomes, called with their counts (ordered as `outcomes`) and the confidence."""


SHARE = Quantity((1, 0), share_limits)
"""Share of successes: 1 is a success, 0 is none. For a single run, `over_prompts` equals `proportion`."""
NET = Quantity((1, -1, 0), net_limits)
"""(wins - losses) / all: 1 is a win, 0 a tie, -1 a loss. For a single run, `over_prompts` equals `net_share`."""


def over_prompts(outcomes: ArrayLike, kind: Quantity = SHARE, confidence: float = 0.95) -> Estimate:
    """Estimate the mean of all outcomes, with an interval over prompts.

    The interval covers new prompts of the same kind for the same trained runs; it does not say whether one arm beats
    another when both are trained again. Runs that agree on every prompt count as a single run.

    Args:
        outcomes: (N prompts, R runs or samples) values of the kind; NaN is missing.
        kind: `SHARE` or `NET`; use `NET` for the result of `difference`.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if every outcome is missing.
        ValueError: if the table is not two-dimensional or has other values.
    """
    table, counts = _known(outcomes, kind)
    scale = effective(table, confidence)
    limits = kind.limits(*(scale * count for count in counts), confidence)
    return Estimate(float(np.nansum(table)) / sum(counts), *limits, len(table))


def over_seeds(outcomes: ArrayLike, kind: Quantity = SHARE, confidence: float = 0.95) -> Estimate:
    """Estimate the mean over runs of each run's mean, with an interval over seeds; `n` is the number of runs.

    The interval covers new training runs (for two arms: with shared seeds), evaluated on the same prompts. For a single
    run it has width 0, because nothing is known about the spread. With few uncommon answers, it is at least as wide as
    the score interval of all answers.

    Args:
        outcomes: (N prompts, R runs) values of the kind; NaN is missing. Runs without outcomes are excluded.
        kind: `SHARE` or `NET`; use `NET` for the result of `difference`.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if every outcome is missing.
        ValueError: if the table is not two-dimensional or has other values.
    """
    table, counts = _known(outcomes, kind)
    runs = table[:, ~np.isnan(table).all(axis=0)]
    estimate = mean(np.nanmean(runs, axis=0).tolist(), confidence)
    if estimate.n == 1 or _uncommon(runs).sum() >= ENOUGH_ANSWERS:
        return estimate
    low, high = kind.limits(*counts, confidence)
    return replace(estimate, low=min(estimate.low, low), high=max(estimate.high, high))


def over_both(prompts: Estimate, seeds: Estimate, kind: Quantity = SHARE) -> Estimate:
    """Combine two intervals of the same mean into one for new prompts and new training runs.

    Args:
        prompts: result of `over_prompts`.
        seeds: result of `over_seeds` for the same table with at least two runs, at the same confidence.
        kind: of both; the interval is limited to the range of its values.

    Example: 0.2 with 0.16 to 0.24 over prompts and 0.17 to 0.23 over seeds: 0.15 to 0.25.
    """
    value = prompts.value
    down = math.hypot(value - prompts.low, seeds.value - seeds.low)
    up = math.hypot(prompts.high - value, seeds.high - seeds.value)
    low, high = max(value - down, min(kind.outcomes)), min(value + up, max(kind.outcomes))
    return Estimate(value, low, high, prompts.n)


def both_test(differences: ArrayLike, estimate: Estimate, confidence: float = 0.95) -> float:
    """Two-sided p-value of a mean difference of 0, for new prompts and new training runs.

    The test inverts the interval: the p-value is the alpha at which the interval would just reach 0, if its present
    width is rescaled with Student's t of N - 1 and R - 1 degrees of freedom. So the p-value is below 1 - confidence
    exactly if the interval excludes 0.

    Args:
        differences: (N prompts, R runs) of 1, 0 and -1, R at least 2, as returned by `difference`.
        estimate: result of `over_both`.
        confidence: of that interval.
    """
    table, _ = _known(differences, NET)
    centres = [np.nanmean(rows, axis=1) for rows in (table, table.T[~np.isnan(table).all(axis=0)])]
    variances = [max(float(means.var(ddof=1)) / len(means), _TINY) if len(means) > 1 else 0.0 for means in centres]

    def reach(alpha: float) -> float:
        quantiles = (float(stdtrit(max(len(means) - 1, 1), alpha / 2)) for means in centres)
        return math.sqrt(sum(t * t * variance for t, variance in zip(quantiles, variances, strict=True)))

    nearer = estimate.value - estimate.low if estimate.value > 0 else estimate.high - estimate.value
    distance = abs(estimate.value) * reach(1 - confidence) / nearer if nearer else 0.0
    if not distance:
        return 1.0
    if reach(_LEAST) <= distance:
        return _LEAST
    return float(brentq(lambda alpha: reach(alpha) - distance, _LEAST, 1.0, xtol=_LEAST, rtol=1e-9))


def difference(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Paired differences of the successes of two arms on the same prompts.

    Args:
        first: (N prompts, R runs), 1 is a success, 0 is none, NaN is missing.
        second: the same for the other arm, with prompts and seeds in the same order.

    Returns:
        (N, R) of 1, 0 and -1: first minus second; NaN where either is missing.

    Raises:
        ValueError: if the shapes differ, or a table has other values.
    """
    left, right = _checked(first, SHARE), _checked(second, SHARE)
    if left.shape != right.shape:
        raise ValueError(f"both arms need the same prompts and runs, got {left.shape} and {right.shape}")
    return np.asarray(left - right)


def by_prompt(values: Sequence[float], prompts: Sequence[Hashable]) -> np.ndarray:
    """Arrange values into rows by prompt.

    Args:
        values: M values.
        prompts: M keys; values of the same prompt have equal keys.

    Returns:
        (N prompts, R answers), with NaN in the rows of prompts that have fewer than R values.
    """
    rows: dict[Hashable, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        rows.setdefault(prompt, []).append(value)
    table = np.full((len(rows), max(map(len, rows.values()))), np.nan)
    for row, of_prompt in zip(table, rows.values(), strict=True):
        row[: len(of_prompt)] = of_prompt
    return table


def _checked(values: ArrayLike, kind: Quantity) -> np.ndarray:
    """The table (N, R) as floats, after checking its shape and values."""
    table = np.asarray(values, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"expected a table of prompts and runs, got the shape {table.shape}")
    if not (np.isnan(table) | np.isin(table, kind.outcomes)).all():
        raise ValueError(f"expected outcomes among {sorted(kind.outcomes)} and NaN")
    return table


def _known(values: ArrayLike, kind: Quantity) -> tuple[np.ndarray, list[int]]:
    """The rows of the table with at least one outcome, and the count of each outcome."""
    table = _checked(values, kind)
    known = table[~np.isnan(table).all(axis=1)]
    if not len(known):
        raise InputError("all outcomes are missing, so nothing can be estimated; check the reward and evaluate again")
    return known, [int((known == outcome).sum()) for outcome in kind.outcomes]


def effective(table: np.ndarray, confidence: float) -> float:
    """Effective number of independent answers per answer, 1 / design effect.

    The design effect is estimated from the variance between N prompts (linearised variance of a ratio, with
    N / (N - 1)), hence with t of N - 1 degrees of freedom in place of z (Korn & Graubard, Survey Methodology 24, 1998).
    It is at least 1 and at most its value if all answers to a prompt agree; that maximum is used if nothing varies at
    all. If few prompts have an uncommon answer, the estimate is shrunk towards the maximum (top of this file).

    Args:
        table: (N prompts, R answers); NaN is missing.
        confidence: nominal coverage of the interval that uses the result.
    """
    sizes = (~np.isnan(table)).sum(axis=1)
    answers, prompts = int(sizes.sum()), len(table)
    greatest = float((sizes**2).sum()) / answers
    distances = np.nan_to_num(table - np.nansum(table) / answers)
    independent = float((distances**2).sum())
    if prompts == 1 or independent == 0:
        return 1 / greatest
    between = float((distances.sum(axis=1) ** 2).sum()) * prompts / (prompts - 1)
    uncertain = float(stdtrit(prompts - 1, (1 + confidence) / 2)) / critical_value(confidence)
    effect = min(max(between / independent, 1.0) * uncertain**2, greatest)
    trusted = min(int(_uncommon(table).any(axis=1).sum()) / ENOUGH_PROMPTS, 1.0)
    return 1 / (trusted * effect + (1 - trusted) * greatest)


def _uncommon(table: np.ndarray) -> np.ndarray:
    """(N, R) bool: known answers other than the most common one of the whole table."""
    known = ~np.isnan(table)
    values, counts = np.unique(table[known], return_counts=True)
    return np.asarray(known & (table != values[counts.argmax()]))
