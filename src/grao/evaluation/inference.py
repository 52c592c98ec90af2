"""Confidence intervals, as `Estimate`, and tests of shares, their differences, relative gains and means over prompts.

All intervals are score intervals: they contain the values that a score test, with the variance implied by the value
itself, does not reject. Unlike estimate +- z * standard error, they stay within the possible range and keep their
coverage at its ends, for 0 of n and n of n events.

There is one refinement. For at least one but at most z^2 events (three at 95 %), a score limit is too close to the
estimate, and coverage falls to 84 %. There, the exact one-sided limit replaces it if that is wider (Brown, Cai &
DasGupta, Statistical Science 16, 2001, section 4.1.1, with binomial instead of Poisson limits). Coverage then stays
above 92 % everywhere (`benchmarks/interval_coverage.py`).

The tests return two-sided p-values without a normal approximation: the null distribution is exact or simulated. At 5 %,
the size of McNemar's test never exceeds 5 %, and is above 4 % for at least 501 discordant pairs
(`benchmarks/interval_coverage.py`).

Left out: continuity corrections, one-sided tests, and tests of interval limits. Report the interval of a difference
together with its p-value. All prompts count as independent; for several answers per prompt see `clusters.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit
from scipy.stats import binomtest, permutation_test

from grao.records.numbers import Estimate

_BISECTIONS = 60
"""Number of interval halvings, enough for double precision."""
ENUMERATED = 16
"""Largest number of differences for which all 2^n sign patterns are enumerated (65,536), so that p is exact."""
DRAWS = 20_000
"""Random sign patterns for more differences; the standard error of a p-value of 0.05 is 0.0015."""
_BATCH = 4096
"""Sign patterns held in memory at a time."""


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Estimate successes / n with its Wilson score interval (Wilson, JASA 22, 1927).

    `scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")` lacks the refinement for rare events (top of
    this file): its coverage falls to 84 %, while this interval stays above 92 % (`benchmarks/interval_coverage.py`).

    Args:
        successes: number of successes, 0 to n.
        n: number of prompts, at least 1.
        confidence: nominal coverage of the interval.

    Raises:
        ValueError: if the counts are impossible.

    Example: 15 of 148 gives 0.1014 with the interval 0.0624 to 0.1605 (Newcombe, Statistics in Medicine 17,
    1998, pages 857-872, table I).
    """
    limits = share_limits(successes, _remainder(n, successes), confidence)
    return Estimate(successes / n, *limits, n)


def share_of(holds: Sequence[bool], confidence: float = 0.95) -> Estimate | None:
    """Estimate the share of True values.

    Args:
        holds: one value per prompt.
        confidence: nominal coverage of the interval.

    Returns:
        As `proportion`; None for an empty sequence.
    """
    return proportion(sum(holds), len(holds), confidence) if holds else None


def share_limits(successes: float, failures: float, confidence: float = 0.95) -> tuple[float, float]:
    """Limits (low, high) of `proportion` for counts that need not be integers, such as effective counts.

    Args:
        successes: at least 0, and exactly 0 if there was no success.
        failures: the same for failures; the sum of both is positive.
        confidence: nominal coverage of the interval.
    """
    z, n = critical_value(confidence), successes + failures
    centre = (successes + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * math.sqrt(successes * failures / n + z * z / 4)
    low = min(centre - reach, _rare_limit(successes, n, confidence)) if successes else 0.0
    high = max(centre + reach, 1 - _rare_limit(failures, n, confidence)) if failures else 1.0
    return low, high


def net_share(wins: int, losses: int, n: int, confidence: float = 0.95) -> Estimate:
    """Estimate (wins - losses) / n with the score interval of Tango (Statistics in Medicine 17, 1998).

    Wins, losses and ties are multinomial, so this is the difference of two paired proportions. With neither wins nor
    losses, the interval is 0 +- z^2 / (n + z^2); without ties, it is that of `proportion`, rescaled.

    Args:
        wins: prompts won.
        losses: prompts lost; wins + losses is at most n, the rest are ties.
        n: number of prompts, at least 1.
        confidence: nominal coverage of the interval.

    Raises:
        ValueError: if the counts are impossible.
    """
    limits = net_limits(wins, losses, _remainder(n, wins, losses), confidence)
    return Estimate((wins - losses) / n, *limits, n)


def net_limits(wins: float, losses: float, ties: float, confidence: float = 0.95) -> tuple[float, float]:
    """Limits (low, high) of `net_share` for counts that need not be integers, such as effective counts.

    Args:
        wins: at least 0, and exactly 0 if there was no win.
        losses: the same for losses.
        ties: the same for ties; the sum of all three is positive.
        confidence: nominal coverage of the interval.
    """
    z, n = critical_value(confidence), wins + losses + ties
    value = (wins - losses) / n

    def rejected(net: float) -> bool:
        return (wins - losses - n * net) ** 2 > z * z * _net_variance(wins, losses, n, net)

    # The net share is below 1 by 1/n per tie and 2/n per loss, and above -1 by 1/n per tie and 2/n per win. So `below`
    # is the mean distance that a prompt not won adds, and `above` the same for a prompt not lost.
    not_won, not_lost = ties + losses, ties + wins
    below = (ties + 2 * losses) / not_won if not_won else 0.0
    above = (ties + 2 * wins) / not_lost if not_lost else 0.0
    low = min(_score_limit(value, -1.0, rejected), above * _rare_limit(not_lost, n, confidence) - 1)
    high = max(_score_limit(value, 1.0, rejected), 1 - below * _rare_limit(not_won, n, confidence))
    return low, high


def half_tie_share(wins: int, ties: int, n: int, confidence: float = 0.95) -> Estimate:
    """Estimate (wins + ties / 2) / n = (1 + net share) / 2, with the interval of `net_share` transformed likewise.

    Args:
        wins: prompts won.
        ties: prompts tied; wins + ties is at most n.
        n: number of prompts, at least 1.
        confidence: nominal coverage of the interval.

    Raises:
        ValueError: if the counts are impossible.
    """
    net = net_share(wins, _remainder(n, wins, ties), n, confidence)
    return Estimate(value=(wins + ties / 2) / n, low=(1 + net.low) / 2, high=(1 + net.high) / 2, n=n)


def relative_gain(
    both: int, only_model: int, only_baseline: int, neither: int, confidence: float = 0.95, worth: float = 1.0
) -> Estimate | None:
    """Estimate (win rate of a model) / (win rate of a baseline) - 1 on the same prompts, from the paired table.

    Score interval for a ratio of paired proportions (Nam & Blackwelder, Statistics in Medicine 21, 2002; Tang,
    Tang & Chan, ibid. 22, 2003). Prompts on which neither wins have no effect. Both limits are finite.

    Args:
        both: prompts on which both models win.
        only_model: prompts on which only the model wins.
        only_baseline: prompts on which only the baseline wins.
        neither: prompts on which neither wins.
        confidence: nominal coverage of the interval.
        worth: number of independent prompts that each prompt counts for (`clusters.effective`).

    Returns:
        None if the baseline never wins: the ratio is then undefined and has no upper limit.

    Raises:
        ValueError: if the counts are impossible.
    """
    z, n = critical_value(confidence), both + only_model + only_baseline + neither
    _remainder(n, both, only_model, only_baseline)
    counts = worth * both, worth * only_model, worth * only_baseline
    model, baseline = counts[0] + counts[1], counts[0] + counts[2]
    if baseline == 0:
        return None
    total = model + baseline
    share = model / total

    def rejected(share: float) -> bool:
        gap = model * (1 - share) - baseline * share
        return gap**2 > z * z * _ratio_variance(*counts, share)

    low = min(_score_limit(share, 0.0, rejected), _rare_limit(model, total, confidence)) if model else 0.0
    high = max(_score_limit(share, 1.0, rejected), 1 - _rare_limit(baseline, total, confidence))
    return Estimate(value=model / baseline - 1, low=low / (1 - low) - 1, high=high / (1 - high) - 1, n=n)


def share_difference(first: Estimate, second: Estimate) -> Estimate:
    """Estimate the difference of two independent shares, with Newcombe's hybrid score interval.

    Statistics in Medicine 17 (1998), pages 873-890, method 10: each limit's distance from the estimate is the root of
    the sum of squares of the corresponding distances of the two single intervals.

    Args:
        first: a share with its interval, as returned by `proportion`.
        second: the share that is subtracted, from other prompts.

    Example: 56 of 70 minus 48 of 80: 0.2 with the interval 0.0524 to 0.3339 (table II of the paper).
    """
    value = first.value - second.value
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - down, value + up, first.n + second.n)


def mean(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Estimate a mean over independent units with Student's t interval; for a single value it has width 0.

    Units are prompts or seeds. An interval over seeds covers new training runs evaluated on the same prompts. For
    shares of rare events over seeds use `clusters.over_seeds`.

    Args:
        values: one value per unit, at least one, such as each seed's mean reward or its difference between two arms.
        confidence: nominal coverage of the interval.
    """
    n, value = len(values), float(np.mean(values))
    reach = float(stdtrit(n - 1, (1 + confidence) / 2) * np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return Estimate(value, value - reach, value + reach, n)


def mean_share(shares: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Estimate the mean over prompts of a share within each prompt, as `mean` but limited to 0 to 1.

    If all shares are 0 or all are 1, the interval is that of `proportion`, because Student's t would have width 0.

    Args:
        shares: one share per prompt, at least one.
        confidence: nominal coverage of the interval.
    """
    if set(shares) in ({0.0}, {1.0}):
        return proportion(int(sum(shares)), len(shares), confidence)
    estimate = mean(shares, confidence)
    return replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided p-value of McNemar's exact test: does one of two models succeed on more of the same prompts?

    Only discordant pairs count (one model succeeds, the other does not); under the null hypothesis each is a coin flip.
    The test is exact rather than mid-p, because mid-p exceeds its nominal size: at 5 % with n discordant pairs, it
    rejects up to 7.7 % of true hypotheses (n = 16), and more than 6 % at 14 values of n up to 93. (Averaged over the
    number of discordant pairs, it usually keeps 5 %: Fagerland, Lydersen & Laake, BMC Medical Research Methodology
    13:91, 2013.) The exact test has less power with few pairs. From n = 501 on, its size lies between 4.05 and 5.00 %.

    Pairs must be independent: one run over different prompts. With several runs over the same prompts, average the
    outcomes per prompt and use `sign_flip`.

    Args:
        first: N outcomes of one model.
        second: N outcomes of the other on the same prompts, in the same order.

    Example: 1 against 7 discordant pairs: 2 * (1 + 8) / 2^8 = 0.0703 (airway reactivity, in the same paper).
    """
    firsts = [bool(left) for left, right in zip(first, second, strict=True) if bool(left) != bool(right)]
    return float(binomtest(sum(firsts), len(firsts)).pvalue) if firsts else 1.0


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of 0, by the sign-flip test (Fisher's randomisation test for pairs).

    Valid if the differences are independent and, without an effect, d is as likely as -d. The units are either seeds
    (one difference per pair of training runs; covers further runs on these prompts) or prompts (one difference per
    prompt, averaged over its runs; covers further prompts for these runs).

    The smallest possible value is 2 / 2^n: 0.0078 for 8 differences but 0.25 for 3, so three seeds show nothing.

    Args:
        differences: n paired differences, one per independent unit, at least one.
        seed: seed of the random signs that are drawn for more than `ENUMERATED` differences. The observed signs count
            as one draw (Phipson & Smyth, Statistical Applications in Genetics and Molecular Biology 9, 2010), so that
            the p-value is never 0.

    Raises:
        ValueError: if there are no differences, or one is not finite.

    Example: for 1, 2 and 3, two of the eight sums 6, 4, 2, 0, 0, -2, -4, -6 are as far from 0 as 6, so p = 0.25.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"expected at least one finite difference, got {differences!r}")
    if len(values) == 1 or not values.any():
        return 1.0
    if len(values) > ENUMERATED:
        return _drawn_signs(values, np.random.default_rng(seed))
    # The permutations of a single sample are its signs.
    test = permutation_test((values,), np.sum, permutation_type="samples", n_resamples=2**ENUMERATED, batch=_BATCH)
    return float(test.pvalue)


def _drawn_signs(values: np.ndarray, rng: np.random.Generator) -> float:
    """The p-value of scipy's `permutation_test` with `DRAWS` random signs, in a sixth of the time.

    Like scipy, it negates each value or not by the lowest bit of one random 32-bit number.
    """
    observed, sums = values.sum(), []
    for _ in range(0, DRAWS, _BATCH):
        signs = rng.integers(2**32, size=(min(_BATCH, DRAWS), len(values)), dtype=np.uint32) & 1
        sums.append(np.where(signs.T == 1, values[:, None], -values[:, None]).sum(axis=0))
    drawn, rounding = np.concatenate(sums)[:DRAWS], abs(100 * np.finfo(float).eps * observed)
    beyond = min((drawn <= observed + rounding).sum(), (drawn >= observed - rounding).sum())
    return min(2 * (int(beyond) + 1) / (DRAWS + 1), 1.0)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values, in the same order (Holm, Scandinavian Journal of Statistics 6, 1979).

    Rejecting the hypotheses whose adjusted p-value is at most 5 % rejects any true one with a probability of at most
    5 %, however the tests depend on each other. The k-th smallest of m values is multiplied by m - k + 1, and is at
    least as large as those before it. `scipy.stats` only has false-discovery-rate corrections.

    Args:
        ps: hypothesis -> its p-value.

    Raises:
        ValueError: if a value is not between 0 and 1.

    Example: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06.
    """
    for name, p in ps.items():
        if not 0 <= p <= 1:
            raise ValueError(f"a p-value must lie between 0 and 1, got {p} for {name!r}")
    names = sorted(ps, key=ps.__getitem__)
    steps = accumulate((ps[name] * (len(names) - rank) for rank, name in enumerate(names)), max)
    adjusted = dict(zip(names, steps, strict=True))
    return {name: min(adjusted[name], 1.0) for name in ps}


def critical_value(confidence: float) -> float:
    """Return z with P(|Z| < z) = confidence for a standard normal Z: 1.96 at 95 %.

    Raises:
        ValueError: if the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(ndtri((1 + confidence) / 2))


def _remainder(n: int, *counts: int) -> int:
    """n minus the counts, after checking that they are possible."""
    rest = n - sum(counts)
    if n < 1 or rest < 0 or min(counts) < 0:
        raise ValueError(f"counts must be at least 0 and add up to at most n >= 1, got {counts} of n = {n}")
    return rest


def _score_limit(estimate: float, end: float, rejected: Callable[[float], bool]) -> float:
    """The value between the estimate and the end of the range at which the score test starts to reject."""
    accepted, limit = estimate, end
    if not rejected(end):
        return end
    for _ in range(_BISECTIONS):
        middle = (accepted + limit) / 2
        accepted, limit = (accepted, middle) if rejected(middle) else (middle, limit)
    return limit


def _rare_limit(events: float, n: float, confidence: float) -> float:
    """Exact one-sided lower limit of a share if the event is rare but occurred; otherwise 1, which changes no limit."""
    if not 0 < events <= critical_value(confidence) ** 2:
        return 1.0
    return float(betaincinv(events, n - events + 1, 1 - confidence))


def _net_variance(wins: float, losses: float, n: float, net: float) -> float:
    """n^2 * variance of the net share if its true value is `net` (Tango 1998, eqs. 16 to 18).

    The share of losses q is the maximum-likelihood estimate under win share - loss share = net: 2n q^2 + b q - c = 0.
    """
    b = (2 * n - wins + losses) * net - wins - losses
    c = losses * net * (1 - net)
    q = (math.sqrt(max(b * b + 8 * n * c, 0.0)) - b) / (4 * n)
    return n * (2 * q + net * (1 - net))


def _ratio_variance(both: float, only_model: float, only_baseline: float, share: float) -> float:
    """Variance of model * (1 - share) - baseline * share if the model's true fraction of all wins is `share`.

    Nam & Blackwelder 2002, in terms of share = ratio / (1 + ratio), so that an infinite ratio becomes 1. `won` is the
    maximum-likelihood count of the baseline's wins, up to the scale that all terms share.
    """
    other, counted = 1 - share, both + only_model + only_baseline
    a, b = (both + only_model) * other**2, (both + only_baseline) * share**2
    root = math.sqrt((a - b) ** 2 + 4 * (share * other) ** 2 * only_model * only_baseline)
    top = 2 * counted * other * ((both + only_model) * other + (both + only_baseline) * share)
    won = top / (a + b + 2 * share * other * counted + root)
    return share * (2 * counted * other - won)
