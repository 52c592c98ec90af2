"""Intervals where the same prompts were answered several times, by runs of different seeds or as several samples.

Two answers to one prompt say less than answers to two prompts, so N prompts times R runs are not N * R independent
trials; and "will this hold again?" has two meanings, which are never mixed here:

- again on other prompts, with these very runs (`clustered_share`, `clustered_net_share`, `paired_difference`): prompts
  are what is drawn, runs are fixed. More runs narrow the interval only down to what the number of prompts allows.
- again with other seeds, on these very prompts (`over_seeds`, `share_over_seeds`, `net_share_over_seeds`,
  `difference_over_seeds`): training runs are what is drawn, prompts are fixed.

The first kind is the score interval of `intervals.py` at an effective number of answers, all answers / design effect
(Kish, Survey Sampling, 1965; Dean & Pagano, Journal of Survey Statistics and Methodology 3, 2015, compare such
intervals). The design effect is the variance between prompts over that of independent answers. The second is
Student's t.

Both fail where an event is rare, and each has one refinement that keeps coverage above 92 % everywhere
(`benchmarks/interval_coverage.py`; without it 87 % and 17 %):

- A few prompts that fail once cannot tell that others would fail every time. With fewer than `ENOUGH_PROMPTS` that have
  any answer but the commonest, the design effect is drawn towards its greatest possible value, the number of runs.
- Runs that happen to agree have no spread at all. With fewer than `ENOUGH_ANSWERS` but the commonest, the interval over
  seeds reaches at least as far as the score interval of all answers.

Left out: one interval over prompts and seeds at once, and weights; every known answer counts the same.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from grao.errors import InputError
from grao.evaluation.intervals import critical_value, mean, net_limits, share_limits
from grao.records.evaluation import Estimate

ENOUGH_PROMPTS = 20
"""Prompts with an uncommon answer from which on the estimated design effect stands by itself."""
ENOUGH_ANSWERS = 40
"""Uncommon answers from which on the spread over seeds stands by itself."""


def clustered_share(outcomes: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The share of successes of these runs, with an interval over prompts.

    Speaks about other prompts of the same kind, answered by the very runs that are given.
    With one run it is `proportion`; so it is if all runs agree on every prompt, whatever their number.

    Args:
        outcomes: (N prompts, R runs or samples), 1 is a success, 0 is none, NaN is missing.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if every outcome is missing.
    """
    table = _known(outcomes, (0, 1))
    scale = _effective(table, confidence)
    successes, failures = _count(table, 1), _count(table, 0)
    low, high = share_limits(scale * successes, scale * failures, confidence)
    return Estimate(successes / (successes + failures), low, high, len(table))


def clustered_net_share(verdicts: ArrayLike, confidence: float = 0.95) -> Estimate:
    """(wins - losses) / all of these runs, with an interval over prompts.

    Speaks about other prompts of the same kind, answered by the very runs that are given. With one run: `net_share`.

    Args:
        verdicts: (N prompts, R runs or samples), 1 is won, 0 a tie, -1 lost, NaN is missing.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if every verdict is missing.
    """
    table = _known(verdicts, (-1, 0, 1))
    scale = _effective(table, confidence)
    wins, losses, ties = _count(table, 1), _count(table, -1), _count(table, 0)
    low, high = net_limits(scale * wins, scale * losses, scale * ties, confidence)
    return Estimate((wins - losses) / (wins + losses + ties), low, high, len(table))


def paired_difference(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Share of successes of the first arm less that of the second, both over the same prompts and as many runs.

    Speaks about other prompts of the same kind, answered by the very runs that are given; so it does not say whether
    one method beats another when both are trained again. A prompt on which both fare alike adds no uncertainty.

    Args:
        first: (N prompts, R runs), 1 is a success, 0 is none, NaN is missing.
        second: the other arm's, prompts in the same order; column r of the one is set against column r of the other,
            and where either is missing both are left out.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if no prompt has an outcome of both arms.
    """
    return clustered_net_share(_difference(first, second), confidence)


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of one number per seed, with Student's t interval over seeds; its n is the number of seeds.

    Speaks about training again with other seeds, evaluated on these very prompts. Of a single seed the interval has no
    width: nothing is known. For shares of rare events take `share_over_seeds`.

    Args:
        values: one per training run: a mean reward, a count of steps, the difference of two arms that share the seed.
        confidence: nominal coverage of the interval.
    """
    return mean(values, confidence)


def share_over_seeds(outcomes: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The mean over runs of their share of successes, with an interval over seeds.

    Speaks about training again with other seeds, evaluated on these very prompts. Of a single run it has no width.

    Args:
        outcomes: (N prompts, R runs), 1 is a success, 0 is none, NaN is missing; runs without any are left out.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if every outcome is missing.
    """
    table = _known(outcomes, (0, 1))
    return _over_runs(table, share_limits(_count(table, 1), _count(table, 0), confidence), confidence)


def net_share_over_seeds(verdicts: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The mean over runs of (wins - losses) / N, with an interval over seeds.

    Speaks about training again with other seeds, evaluated on these very prompts. Of a single run it has no width.

    Args:
        verdicts: (N prompts, R runs), 1 is won, 0 a tie, -1 lost, NaN is missing; runs without any are left out.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if every verdict is missing.
    """
    table = _known(verdicts, (-1, 0, 1))
    limits = net_limits(_count(table, 1), _count(table, -1), _count(table, 0), confidence)
    return _over_runs(table, limits, confidence)


def difference_over_seeds(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Share of successes of the first arm less that of the second, with an interval over seeds.

    Speaks about training both arms again with other seeds that they share, evaluated on these very prompts.

    Args:
        first: (N prompts, R runs), 1 is a success, 0 is none, NaN is missing.
        second: the other arm's, prompts and seeds in the same order; where either is missing both are left out.
        confidence: nominal coverage of the interval.

    Raises:
        InputError: if no prompt has an outcome of both arms.
    """
    return net_share_over_seeds(_difference(first, second), confidence)


def _over_runs(table: np.ndarray, pooled: tuple[float, float], confidence: float) -> Estimate:
    """t over the columns' means; where uncommon answers are few, at least as wide as the limits of all answers."""
    table = table[:, ~np.isnan(table).all(axis=0)]
    estimate = over_seeds(np.nanmean(table, axis=0).tolist(), confidence)
    if estimate.n == 1 or _uncommon(table).sum() >= ENOUGH_ANSWERS:
        return estimate
    low, high = min(estimate.low, pooled[0]), max(estimate.high, pooled[1])
    return Estimate(estimate.value, low, high, estimate.n)


def _difference(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """(N, R) of 1, 0 and -1."""
    one, other = _checked(first, (0, 1)), _checked(second, (0, 1))
    if one.shape != other.shape:
        raise ValueError(f"both arms need the same prompts and runs, got {one.shape} and {other.shape}")
    return np.asarray(one - other)


def _checked(values: ArrayLike, allowed: Collection[int]) -> np.ndarray:
    """The table (N, R) as floats, once it is known to hold nothing else."""
    table = np.asarray(values, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"expected a table of prompts and runs, got the shape {table.shape}")
    if not (np.isnan(table) | np.isin(table, list(allowed))).all():
        raise ValueError(f"expected outcomes among {sorted(allowed)} and NaN")
    return table


def _known(values: ArrayLike, allowed: Collection[int]) -> np.ndarray:
    """The rows of the table that have any outcome."""
    table = _checked(values, allowed)
    known = ~np.isnan(table).all(axis=1)
    if not known.any():
        raise InputError("all outcomes are missing, so nothing can be estimated; check the reward and evaluate again")
    return np.asarray(table[known])


def _count(table: np.ndarray, value: int) -> int:
    return int((table == value).sum())


def _effective(table: np.ndarray, confidence: float) -> float:
    """How many independent answers each answer is worth, between 1 / its prompt's answers and 1.

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
