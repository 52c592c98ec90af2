"""Calibration: whether a judge that says 80 % is right in 80 %.

Of every pair it is known which side is the better one, the reference. A probability below one half is turned into the
confidence in the other side, so that the curve goes from one half to one and is right where it is the diagonal.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from grao.evaluation.intervals import half_tie_share
from grao.records.audit import Bin, Calibration
from grao.records.evaluation import Estimate

Array = npt.NDArray[np.float64]

_MOST_BINS, _SMALLEST_BIN = 10, 10
_DRAWS = 1000
_STRETCHES = np.linspace(0, 3, 61)


def bradley_terry(differences: Sequence[float | None]) -> list[float | None]:
    """P(better) = 1 / (1 + exp(-(r(o) - r(y)))), what a reward model that was trained so claims.

    That the scale is 1 is an assumption. Any other score can be right about every pair and yet badly calibrated.
    """
    return [None if gap is None else float(1 / (1 + np.exp(-np.clip(gap, -500, 500)))) for gap in differences]


def calibration(probabilities: Sequence[float | None], confidence: float = 0.95) -> Calibration | None:
    """Curve and expected calibration error, ECE = sum_b n_b / n * |accuracy_b - mean confidence_b|.

    Up to ten bins hold equally many pairs, ten at least where there are as many.

    Args:
        probabilities: of the reference being the better one, over pairs in which it is; None = missing.
        confidence: nominal coverage of the intervals.

    Returns:
        None without pairs.
    """
    known = np.array([one for one in probabilities if one is not None], dtype=np.float64)
    if len(known) == 0:
        return None
    sure = np.maximum(known, 1 - known)
    right = (np.sign(known - 0.5) + 1) / 2  # 0 or 1, and 1/2 at even odds
    order = np.argsort(sure, kind="stable")
    chosen = np.array_split(order, max(1, min(_MOST_BINS, len(known) // _SMALLEST_BIN)))
    bins = [_bin(sure[rows], right[rows], confidence) for rows in chosen]
    whole = _bin(sure, right, confidence)
    error, plain = _error(bins, whole, confidence)
    return Calibration(bins, error, plain, whole.confidence, whole.accuracy.value)


def _bin(sure: Array, right: Array, confidence: float) -> Bin:
    wins, ties = int((right == 1).sum()), int((right == 0.5).sum())
    return Bin(float(sure.mean()), half_tie_share(wins, ties, len(sure), confidence))


def _error(bins: Sequence[Bin], whole: Bin, confidence: float) -> tuple[Estimate, float]:
    """The ECE without what chance adds to it, and as it is mostly printed.

    Even a calibrated judge has an ECE above 0, because the accuracies of bins scatter. So the gaps of all bins are
    stretched by a common factor until the ECE that they lead one to expect, scatter included, is the one seen; they at
    that factor are the estimate, and the factors at which the one seen is just still likely give the interval. It
    reaches at least as far as the accuracy of all pairs together may lie off, for no gaps can be stretched where none
    were seen. With 60 to 600 pairs the intervals of 95 % hold the truth in 96 to 99 % of simulations.
    """
    sizes = np.array([one.accuracy.n for one in bins], dtype=np.float64)
    claimed = np.array([one.confidence for one in bins])
    found = np.array([one.accuracy.value for one in bins])
    weights = sizes / sizes.sum()
    plain = float(weights @ np.abs(found - claimed))
    true = np.clip(claimed + _STRETCHES[:, None] * (found - claimed), 0.001, 0.999)  # (factors, bins)
    scatter = np.random.default_rng(0).standard_normal((_DRAWS, 1, len(bins))) * np.sqrt(true * (1 - true) / sizes)
    expected = np.abs(true + scatter - claimed) @ weights  # (draws, factors)
    sizes_at = np.abs(true - claimed) @ weights
    tail = (1 - confidence) / 2
    likely = expected.mean(axis=0), *np.quantile(expected, [1 - tail, tail], axis=0)
    value, low, high = (float(sizes_at[_last(curve <= plain)]) for curve in likely)
    off = (abs(limit - whole.confidence) for limit in (whole.accuracy.low, whole.accuracy.high))
    return Estimate(value, low, max(high, *off), int(sizes.sum())), plain


def _last(holds: npt.NDArray[np.bool_]) -> int:
    """Index of the last True, 0 if there is none."""
    return int(holds.nonzero()[0].max(initial=0))
