"""Rank correlation with intervals: over independent pairs, and within groups of samples."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit
from scipy.stats import rankdata

from grao.evaluation.intervals import critical_value
from grao.records.evaluation import Estimate

Array = npt.NDArray[np.float64]

_LEAST = 4
"""Values below which an interval means nothing."""


def spearman(one: Sequence[float], other: Sequence[float], confidence: float = 0.95) -> Estimate | None:
    """Spearman's rank correlation of N independent pairs of values.

    Interval: Fisher's z with standard error sqrt((1 + r^2 / 2) / (N - 3)) (Bonett & Wright, Psychometrika 65, 2000).

    Returns:
        None below four pairs, and where one side is constant.
    """
    n = len(one)
    if n < _LEAST or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    value = float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
    return _fisher(value, critical_value(confidence) * math.sqrt((1 + value**2 / 2) / (n - 3)), n)


def within_groups(
    groups: Sequence[tuple[Sequence[float], Sequence[float]]], confidence: float = 0.95
) -> Estimate | None:
    """Rank correlation of two numbers of each sample within its group, over all groups together.

    r = sum_g a_g . b_g / sqrt(sum_g a_g . a_g * sum_g b_g . b_g) with the ranks a, b in the group, less their mean.
    Groups are independent, their members are not: the standard error comes from each group's share in r (delta
    method), on Fisher's scale.

    Args:
        groups: two sequences of G numbers each.
        confidence: nominal coverage.

    Returns:
        None below four groups in which something differs, and where one number never does.
    """
    ranks = [(_centred(one), _centred(other)) for one, other in groups if len(one) > 1]
    sums = np.array([(a @ b, a @ a, b @ b) for a, b in ranks if a @ a + b @ b > 0]).reshape(-1, 3)
    products, left, right = sums.T
    if len(sums) < _LEAST or left.sum() == 0 or right.sum() == 0:
        return None
    n = len(sums)
    value = float(products.sum() / math.sqrt(left.sum() * right.sum()))
    share = products / math.sqrt(left.mean() * right.mean()) - value / 2 * (left / left.mean() + right / right.mean())
    error = float(np.std(share, ddof=1)) / math.sqrt(n) / max(1 - value**2, 1e-9)
    return _fisher(value, float(stdtrit(n - 1, (1 + confidence) / 2)) * error, n)


def _centred(values: Sequence[float]) -> Array:
    ranks = np.asarray(rankdata(values), dtype=np.float64)
    centred: Array = ranks - ranks.mean()
    return centred


def _fisher(value: float, reach: float, n: int) -> Estimate:
    """value with the limits tanh(artanh(value) +- reach)."""
    centre = math.atanh(min(max(value, -1 + 1e-9), 1 - 1e-9))
    return Estimate(value, math.tanh(centre - reach), math.tanh(centre + reach), n)
