"""Intervals where the same prompts were answered several times, by runs of different seeds or as several samples.

Two answers to one prompt say less than answers to two prompts, so N prompts times R runs are not N * R independent
trials; and "will this hold again?" has three meanings, which are never mixed here:

- again on other prompts, with these very runs (`over_prompts`): prompts are what is drawn, runs are fixed. More runs
  narrow the interval only down to what the number of prompts allows.
- again with other seeds, on these very prompts (`over_seeds`; for one number a seed `inference.mean`): training runs
  are what is drawn, prompts are fixed.
- again for new prompts and new trainings at once (`over_both`): the question that a practitioner has.

The first kind is the score interval of `inference.py` at an effective number of answers, all answers / design effect
(Kish, Survey Sampling, 1965; Dean & Pagano, Journal of Survey Statistics and Methodology 3, 2015, compare such
intervals). The design effect is the variance between prompts over that of independent answers. The second is
Student's t. The third reaches as far as the other two do, added as squares (Zou & Donner, Statistics in Medicine 27,
2008): the chance of an answer is in both of them, so it errs on the safe side. It was chosen by measured coverage, at
300 prompts and 3, 5 and 8 seeds 94 to 100 %, with most where seeds do not differ. The crossed bootstrap (Owen, Annals
of Applied Statistics 1, 2007) has 87 to 100 %, the two-way variance with Satterthwaite's degrees of freedom 90 to 100 %
(`benchmarks/crossed_coverage.py`): where seeds differ, three of them say too little about how much.

The first two fail where an event is rare, and each has one refinement that keeps coverage above 92 % everywhere
(`benchmarks/interval_coverage.py`; without it 87 % and 17 %):

- A few prompts that fail once cannot tell that others would fail every time. With fewer than `ENOUGH_PROMPTS` that have
  any answer but the commonest, the design effect is drawn towards its greatest possible value, the number of runs.
- Runs that happen to agree have no spread at all. With fewer than `ENOUGH_ANSWERS` but the commonest, the interval over
  seeds reaches at least as far as the score interval of all answers.

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
"""Prompts with an uncommon answer from which on the estimated design effect stands by itself."""
ENOUGH_ANSWERS = 40
"""Uncommon answers from which on the spread over seeds stands by itself."""
_LEAST, _TINY = 1e-9, 1e-12
"""The least p-value, and the least variance of a mean."""


@dataclass(frozen=True)
class Kind:
    """What is estimated: the mean of answers that take one of a few values."""

    outcomes: tuple[int, ...]
    """These values."""
    limits: Callable[..., tuple[float, float]]
    """Score interval of independent answers, from their counts in the order of `outcomes`, and the confidence."""


SHARE = Kind((1, 0), share_limits)
"""Share of successes: 1 is a success, 0 is none. Of one run over prompts: `proportion`."""
NET = Kind((1, -1, 0), net_limits)
"""(wins - losses) / all: 1 is won, 0 a tie, -1 lost. Of one run over prompts: `net_share`."""


def over_prompts(outcomes: ArrayLike, kind: Kind = SHARE, confidence: float = 0.95) -> Estimate:
    """The mean of all answers, with an interval over prompts.

    Speaks about other prompts of the same kind, answered by the very runs that are given; so of two arms it does not
    say whether one beats the other when both are trained again. Runs that agree on every prompt count as one run,
    whatever their number.

    Args:
        outcomes: (N prompts, R runs or samples), values of the kind, NaN is missing.
        kind: `SHARE` or `NET`; `NET` of what `difference` gives.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if every outcome is missing.
    """
    table, counts = _known(outcomes, kind)
    scale = effective(table, confidence)
    limits = kind.limits(*(scale * count for count in counts), confidence)
    return Estimate(float(np.nansum(table)) / sum(counts), *limits, len(table))


def over_seeds(outcomes: ArrayLike, kind: Kind = SHARE, confidence: float = 0.95) -> Estimate:
    """The mean over runs of each run's mean, with an interval over seeds; its n is the number of runs.

    Speaks about training again with other seeds (of two arms: seeds that they share), evaluated on these very prompts.
    Of a single run the interval has no width: nothing is known. Where uncommon answers are few, it is at least as wide
    as the score interval of all answers.

    Args:
        outcomes: (N prompts, R runs), values of the kind, NaN is missing; runs without any are left out.
        kind: `SHARE` or `NET`; `NET` of what `difference` gives.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if every outcome is missing.
    """
    table, counts = _known(outcomes, kind)
    runs = table[:, ~np.isnan(table).all(axis=0)]
    estimate = mean(np.nanmean(runs, axis=0).tolist(), confidence)
    if estimate.n == 1 or _uncommon(runs).sum() >= ENOUGH_ANSWERS:
        return estimate
    low, high = kind.limits(*counts, confidence)
    return replace(estimate, low=min(estimate.low, low), high=max(estimate.high, high))


def over_both(prompts: Estimate, seeds: Estimate, kind: Kind = SHARE) -> Estimate:
    """The same mean with an interval for new prompts and new trainings at once, from its two other intervals.

    Args:
        prompts: of `over_prompts`.
        seeds: of `over_seeds`, of at least two runs of the same table with the same confidence.
        kind: of both; the interval ends where its values end.

    Example: 0.2 with 0.16 to 0.24 over prompts and 0.17 to 0.23 over seeds: 0.15 to 0.25.
    """
    value = prompts.value
    down = math.hypot(value - prompts.low, seeds.value - seeds.low)
    up = math.hypot(prompts.high - value, seeds.high - seeds.value)
    low, high = max(value - down, min(kind.outcomes)), min(value + up, max(kind.outcomes))
    return Estimate(value, low, high, prompts.n)


def both_test(differences: ArrayLike, estimate: Estimate, confidence: float = 0.95) -> float:
    """Is the mean difference 0, for new prompts and new trainings at once? Two-sided p-value.

    The confidence at which the interval would end at 0, if it grew with Student's t of N - 1 and of R - 1 degrees of
    freedom from where it is now. So it is below 1 - confidence exactly where the interval leaves out 0.

    Args:
        differences: (N prompts, R runs), R at least 2, of 1, 0 and -1, as `difference` gives them.
        estimate: of `over_both`.
        confidence: of that interval.
    """
    table, _ = _known(differences, NET)
    centres = [np.nanmean(each, axis=1) for each in (table, table.T[~np.isnan(table).all(axis=0)])]
    variances = [max(float(of.var(ddof=1)) / len(of), _TINY) if len(of) > 1 else 0.0 for of in centres]

    def reach(alpha: float) -> float:
        quantiles = (float(stdtrit(max(len(of) - 1, 1), alpha / 2)) for of in centres)
        return math.sqrt(sum(t * t * variance for t, variance in zip(quantiles, variances, strict=True)))

    nearer = estimate.value - estimate.low if estimate.value > 0 else estimate.high - estimate.value
    distance = abs(estimate.value) * reach(1 - confidence) / nearer if nearer else 0.0
    if not distance:
        return 1.0
    if reach(_LEAST) <= distance:
        return _LEAST
    return float(brentq(lambda alpha: reach(alpha) - distance, _LEAST, 1.0, xtol=_LEAST, rtol=1e-9))


def difference(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Successes of the first arm less those of the second on the same prompts, pair by pair: (N, R) of 1, 0 and -1.

    A prompt on which both fare alike adds no uncertainty.

    Args:
        first: (N prompts, R runs), 1 is a success, 0 is none, NaN is missing.
        second: the other arm's, prompts and seeds in the same order; column r of the one is set against column r of
            the other, and where either is missing both are left out.
    """
    left, right = _checked(first, SHARE), _checked(second, SHARE)
    if left.shape != right.shape:
        raise ValueError(f"both arms need the same prompts and runs, got {left.shape} and {right.shape}")
    return np.asarray(left - right)


def by_prompt(values: Sequence[float], prompts: Sequence[Hashable]) -> np.ndarray:
    """(N prompts, R answers): the values of the same prompt in a row, NaN where it has fewer than others."""
    rows: dict[Hashable, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        rows.setdefault(prompt, []).append(value)
    table = np.full((len(rows), max(map(len, rows.values()))), np.nan)
    for row, of_prompt in zip(table, rows.values(), strict=True):
        row[: len(of_prompt)] = of_prompt
    return table


def _checked(values: ArrayLike, kind: Kind) -> np.ndarray:
    """The table (N, R) as floats, once it is known to hold nothing else."""
    table = np.asarray(values, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"expected a table of prompts and runs, got the shape {table.shape}")
    if not (np.isnan(table) | np.isin(table, kind.outcomes)).all():
        raise ValueError(f"expected outcomes among {sorted(kind.outcomes)} and NaN")
    return table


def _known(values: ArrayLike, kind: Kind) -> tuple[np.ndarray, list[int]]:
    """The rows of the table that have any outcome, and how often each outcome occurs."""
    table = _checked(values, kind)
    known = table[~np.isnan(table).all(axis=1)]
    if not len(known):
        raise InputError("all outcomes are missing, so nothing can be estimated; check the reward and evaluate again")
    return known, [int((known == outcome).sum()) for outcome in kind.outcomes]


def effective(table: np.ndarray, confidence: float) -> float:
    """How many independent answers each answer (N, R) is worth, between 1 / its prompt's answers and 1.

    The design effect is estimated between N prompts (linearised variance of a ratio, with N / (N - 1)), hence t with
    N - 1 degrees of freedom in place of z (Korn & Graubard, Survey Methodology 24, 1998). It is kept between 1 and the
    value that it has if all answers to a prompt agree, which is also taken where nothing varies at all; and drawn
    towards that value where few prompts have an uncommon answer (top of this file).
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
    """(N, R) bool: known answers other than the commonest of the whole table."""
    known = ~np.isnan(table)
    values, counts = np.unique(table[known], return_counts=True)
    return np.asarray(known & (table != values[counts.argmax()]))
