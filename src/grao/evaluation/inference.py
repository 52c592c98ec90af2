"""Confidence intervals, as `Estimate`, and tests: of shares, their differences, relative gains and means over prompts.

Score intervals throughout: a value belongs to the interval if the score test does not reject it, with the
variance that this value itself implies. Unlike estimate +- z * standard error they stay inside the possible
range and are honest at the ends, where 0 of n or n of n were seen.

One refinement: where an event was seen, but no more than z^2 times (three at 95 %), a score limit lies too close
to the estimate, and coverage falls as low as 84 %. There it gives way to the exact one-sided limit if that is
wider (Brown, Cai & DasGupta, Statistical Science 16, 2001, section 4.1.1, with their Poisson limits taken as
binomial ones), and coverage stays above 92 % everywhere: `benchmarks/interval_coverage.py`.

Each test gives a two-sided p-value that needs no normal approximation: the null distribution is known exactly, or
drawn. Size at 5 % (`benchmarks/interval_coverage.py`): McNemar never above 5 %, and above 4 % from 501 discordant pairs
on.

Left out: continuity corrections, one-sided tests, and a test of an interval's limits; where a difference has an
interval, report that too. All prompts count as independent; several answers to each: `clusters.py`.
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
"""Halvings of the range: more than double precision can tell apart."""
ENUMERATED = 16
"""Differences up to which all 2^n signs are tried: 65,536, so that no p-value is a matter of chance."""
DRAWS = 20_000
"""Random signs above that: the standard error of a p-value of 0.05 is 0.0015."""
_BATCH = 4096
"""Draws that are held at once."""


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """successes / n with its Wilson score interval (Wilson, JASA 22, 1927).

    `scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")` lacks the refinement for rare events (top of
    this file): its coverage falls to 84 %, that of this one stays above 92 % (`benchmarks/interval_coverage.py`).

    Args:
        successes: prompts that count, 0 to n.
        n: all prompts, at least 1.
        confidence: nominal coverage of the interval.

    Example: 15 of 148 gives 0.1014 with the interval 0.0624 to 0.1605 (Newcombe, Statistics in Medicine 17,
    1998, pages 857-872, table I).
    """
    limits = share_limits(successes, _remainder(n, successes), confidence)
    return Estimate(successes / n, *limits, n)


def share_of(holds: Sequence[bool], confidence: float = 0.95) -> Estimate | None:
    """The share of True as `proportion`, None of an empty sequence."""
    return proportion(sum(holds), len(holds), confidence) if holds else None


def share_limits(successes: float, failures: float, confidence: float = 0.95) -> tuple[float, float]:
    """The limits of `proportion` for counts that need not be whole, as effective counts are not.

    Args:
        successes: at least 0; exactly 0 where none was seen.
        failures: the same; the sum of both is above 0.
        confidence: nominal coverage of the interval.
    """
    z, n = critical_value(confidence), successes + failures
    centre = (successes + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * math.sqrt(successes * failures / n + z * z / 4)
    low = min(centre - reach, _rare_limit(successes, n, confidence)) if successes else 0.0
    high = max(centre + reach, 1 - _rare_limit(failures, n, confidence)) if failures else 1.0
    return low, high


def net_share(wins: int, losses: int, n: int, confidence: float = 0.95) -> Estimate:
    """(wins - losses) / n, ties being the rest, with the score interval of Tango (Statistics in Medicine 17, 1998).

    The two counts are one multinomial, hence the same problem as a difference of two paired proportions. With
    neither wins nor losses the interval is 0 +- z^2 / (n + z^2); without ties it is that of `proportion`.

    Args:
        wins: prompts won.
        losses: prompts lost; wins + losses is at most n.
        n: all prompts, at least 1.
        confidence: nominal coverage of the interval.
    """
    limits = net_limits(wins, losses, _remainder(n, wins, losses), confidence)
    return Estimate((wins - losses) / n, *limits, n)


def net_limits(wins: float, losses: float, ties: float, confidence: float = 0.95) -> tuple[float, float]:
    """The limits of `net_share` for counts that need not be whole, as effective counts are not.

    Args:
        wins: at least 0; exactly 0 where none was seen.
        losses: the same.
        ties: the same; the sum of all three is above 0.
        confidence: nominal coverage of the interval.
    """
    z, n = critical_value(confidence), wins + losses + ties
    value = (wins - losses) / n

    def rejected(net: float) -> bool:
        return (wins - losses - n * net) ** 2 > z * z * _net_variance(wins, losses, n, net)

    # Every prompt not won costs 1 (tie) or 2 (loss) of the distance to 1, and the other way round at -1.
    not_won, not_lost = ties + losses, ties + wins
    cost = (ties + 2 * losses) / not_won if not_won else 0.0
    gift = (ties + 2 * wins) / not_lost if not_lost else 0.0
    low = min(_score_limit(value, -1.0, rejected), gift * _rare_limit(not_lost, n, confidence) - 1)
    high = max(_score_limit(value, 1.0, rejected), 1 - cost * _rare_limit(not_won, n, confidence))
    return low, high


def half_tie_share(wins: int, ties: int, n: int, confidence: float = 0.95) -> Estimate:
    """(wins + ties / 2) / n, which is (1 + net share) / 2; its interval is that of `net_share`, transformed.

    Args:
        wins: prompts won.
        ties: prompts tied; wins + ties is at most n.
        n: all prompts, at least 1.
        confidence: nominal coverage of the interval.
    """
    net = net_share(wins, _remainder(n, wins, ties), n, confidence)
    return Estimate(value=(wins + ties / 2) / n, low=(1 + net.low) / 2, high=(1 + net.high) / 2, n=n)


def relative_gain(
    both: int, only_model: int, only_baseline: int, neither: int, confidence: float = 0.95, worth: float = 1.0
) -> Estimate | None:
    """Win share of a model / win share of a baseline - 1 over the same prompts, from the paired table.

    Score interval for a ratio of paired proportions (Nam & Blackwelder, Statistics in Medicine 21, 2002; Tang,
    Tang & Chan, ibid. 22, 2003). Prompts on which neither wins do not change it. Both limits are finite.

    Args:
        both: prompts on which both models win.
        only_model: prompts on which the model wins and the baseline does not.
        only_baseline: the reverse.
        neither: prompts on which neither wins.
        confidence: nominal coverage of the interval.
        worth: how many independent prompts each counts for (`clusters.effective`).

    Returns:
        None where the baseline never wins: the ratio is then undefined and has no upper limit.
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
    """The difference of two shares of different prompts, with Newcombe's hybrid score interval.

    Statistics in Medicine 17 (1998), pages 873-890, method 10: each side reaches as far as the two single intervals
    do on that side, added as squares.

    Args:
        first: an independent share with its interval, as `proportion` gives it.
        second: the share that is taken off.

    Example: 56 of 70 less 48 of 80: 0.2 with the interval 0.0524 to 0.3339 (its table II).
    """
    value = first.value - second.value
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - down, value + up, first.n + second.n)


def mean(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """A mean over independent units with Student's t interval; of a single value the interval has no width.

    The units are prompts, or seeds: then the interval speaks about training again with other seeds, evaluated on these
    very prompts. For shares of rare events over seeds take `clusters.over_seeds`.

    Args:
        values: one per unit, at least one; per seed a mean reward, say, or the difference of two arms that share it.
        confidence: nominal coverage of the interval.
    """
    n, value = len(values), float(np.mean(values))
    reach = float(stdtrit(n - 1, (1 + confidence) / 2) * np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return Estimate(value, value - reach, value + reach, n)


def mean_share(shares: Sequence[float], confidence: float = 0.95) -> Estimate:
    """A mean over prompts of a share within each, as `mean` but never beyond 0 and 1.

    Where all prompts agree on 0 or on 1 the interval is that of `proportion`: that all did is not that all will.
    """
    if set(shares) in ({0.0}, {1.0}):
        return proportion(int(sum(shares)), len(shares), confidence)
    estimate = mean(shares, confidence)
    return replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Does one of two models succeed on more of the same prompts? Two-sided exact p-value of McNemar's test.

    Only discordant pairs count (one succeeds, the other does not); if neither model is better, each is a coin's toss.
    Exact and not mid-p, because mid-p breaks the size that we ask for: with n discordant pairs it rejects up to 7.7 %
    of true hypotheses (n = 16) at 5 %, and more than 6 % at 14 values of n up to 93. (Averaged over the number of
    discordant pairs it usually keeps 5 %: Fagerland, Lydersen & Laake, BMC Medical Research Methodology 13:91, 2013.)
    The price of the exact test is power with few pairs. From n = 501 on its size lies between 4.05 and 5.00 %.

    Each pair must be independent of the others: one run over different prompts. For several runs over the same
    prompts average them prompt by prompt, and use `sign_flip`.

    Args:
        first: N outcomes of one model.
        second: N outcomes of the other on the same prompts, in the same order.

    Example: 1 against 7 discordant pairs: 2 * (1 + 8) / 2^8 = 0.0703 (airway reactivity, in the same paper).
    """
    firsts = [bool(left) for left, right in zip(first, second, strict=True) if bool(left) != bool(right)]
    return float(binomtest(sum(firsts), len(firsts)).pvalue) if firsts else 1.0


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """Is the mean difference 0? Two-sided p-value from flipping signs (Fisher's randomisation test for pairs).

    Valid where each difference is independent of the others and, if there is no effect, as likely to be d as -d. The
    units are either seeds (one difference per pair of training runs; speaks about further runs on these prompts) or
    prompts (one per prompt, averaged over its runs; speaks about further prompts for these runs).

    The least possible value is 2 / 2^n: 0.0078 with 8 differences, and 0.25 with 3, so three seeds can show nothing.

    Args:
        differences: n paired differences, one per independent unit, at least one.
        seed: of the random signs that are drawn above `ENUMERATED` differences. The observed signs count among them
            (Phipson & Smyth, Statistical Applications in Genetics and Molecular Biology 9, 2010), so no value is 0.

    Example: 1, 2 and 3: of the eight sums 6, 4, 2, 0, 0, -2, -4, -6 two are as far from 0, so p = 0.25.
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
    """`permutation_test` with `DRAWS` random signs: the same value of the same generator, in a sixth of the time.

    scipy shuffles each value with its negative, which takes one bit of the generator.
    """
    observed, sums = values.sum(), []
    for _ in range(0, DRAWS, _BATCH):
        kept = rng.integers(2**32, size=(min(_BATCH, DRAWS), len(values)), dtype=np.uint32) & 1
        sums.append(np.where(kept.T == 1, values[:, None], -values[:, None]).sum(axis=0))
    drawn, rounding = np.concatenate(sums)[:DRAWS], abs(100 * np.finfo(float).eps * observed)
    beyond = min((drawn <= observed + rounding).sum(), (drawn >= observed - rounding).sum())
    return min(2 * (int(beyond) + 1) / (DRAWS + 1), 1.0)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number, in the same order (Holm, Scandinavian Journal of Statistics 6, 1979).

    `scipy.stats` has corrections of the false discovery rate only, no Holm.

    To reject what stays at most 5 % rejects any true hypothesis with at most 5 %, however the tests depend on each
    other. The k-th smallest of m is multiplied by m - k + 1, and is at least as large as those before it.

    Args:
        ps: name of a hypothesis -> its p-value.

    Example: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06.
    """
    for name, p in ps.items():
        if not 0 <= p <= 1:
            raise ValueError(f"a p-value lies between 0 and 1, got {p} for {name!r}")
    names = sorted(ps, key=ps.__getitem__)
    steps = accumulate((ps[name] * (len(names) - rank) for rank, name in enumerate(names)), max)
    adjusted = dict(zip(names, steps, strict=True))
    return {name: min(adjusted[name], 1.0) for name in ps}


def critical_value(confidence: float) -> float:
    """z with P(|Z| < z) = confidence: 1.96 at 95 %."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(ndtri((1 + confidence) / 2))


def _remainder(n: int, *counts: int) -> int:
    """n minus the counts, once they are known to be possible."""
    rest = n - sum(counts)
    if n < 1 or rest < 0 or min(counts) < 0:
        raise ValueError(f"counts must be at least 0 and add up to at most n >= 1, got {counts} of n = {n}")
    return rest


def _score_limit(estimate: float, end: float, rejected: Callable[[float], bool]) -> float:
    """The value between the estimate and the end of the range where the score test begins to reject."""
    accepted, limit = estimate, end
    if not rejected(end):
        return end
    for _ in range(_BISECTIONS):
        middle = (accepted + limit) / 2
        accepted, limit = (accepted, middle) if rejected(middle) else (middle, limit)
    return limit


def _rare_limit(events: float, n: float, confidence: float) -> float:
    """Exact lower limit of a share, one-sided at `confidence`, where the event was seen but rarely; else 1."""
    if not 0 < events <= critical_value(confidence) ** 2:
        return 1.0
    return float(betaincinv(events, n - events + 1, 1 - confidence))


def _net_variance(wins: float, losses: float, n: float, net: float) -> float:
    """n^2 * variance of the net share if its true value is `net` (Tango 1998, eqs. 16 to 18).

    The share of losses q maximises the likelihood under wins - losses = net: 2n q^2 + b q - c = 0.
    """
    b = (2 * n - wins + losses) * net - wins - losses
    c = losses * net * (1 - net)
    q = (math.sqrt(max(b * b + 8 * n * c, 0.0)) - b) / (4 * n)
    return n * (2 * q + net * (1 - net))


def _ratio_variance(both: float, only_model: float, only_baseline: float, share: float) -> float:
    """Variance of model * (1 - share) - baseline * share if the model's true part of both models' wins is `share`.

    Nam & Blackwelder 2002, written in share = ratio / (1 + ratio), so that an infinite ratio is the point 1.
    `won` is the maximum-likelihood count of the baseline's wins, scaled by the same factor as the rest.
    """
    other, counted = 1 - share, both + only_model + only_baseline
    a, b = (both + only_model) * other**2, (both + only_baseline) * share**2
    root = math.sqrt((a - b) ** 2 + 4 * (share * other) ** 2 * only_model * only_baseline)
    top = 2 * counted * other * ((both + only_model) * other + (both + only_baseline) * share)
    won = top / (a + b + 2 * share * other * counted + root)
    return share * (2 * counted * other - won)
