"""Is a difference more than chance? Tests for pairs of yes and no, for differences, and for several of them at once.

Each gives a two-sided p-value that needs no normal approximation: the null distribution is known exactly, or drawn.
Size at 5 % (`benchmarks/interval_coverage.py`): McNemar never above 5 %, and above 4 % from 501 discordant pairs on.

Left out: one-sided tests, and a test of an interval's limits; where a difference has an interval, report that too.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
from scipy.stats import binomtest, permutation_test

ENUMERATED = 16
"""Differences up to which all 2^n signs are tried: 65,536, so that no p-value is a matter of chance."""
DRAWS = 20_000
"""Random signs above that: the standard error of a p-value of 0.05 is 0.0015."""


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
    pairs = [(bool(one), bool(other)) for one, other in zip(first, second, strict=True)]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


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
    test = permutation_test(
        (values,),
        np.sum,
        permutation_type="samples",  # of a single sample: flips signs
        vectorized=True,
        n_resamples=2**ENUMERATED if len(values) <= ENUMERATED else DRAWS,
        batch=4096,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number, in the same order (Holm, Scandinavian Journal of Statistics 6, 1979).

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
    adjusted = {name: min(step, 1.0) for name, step in zip(names, steps, strict=True)}
    return {name: adjusted[name] for name in ps}
