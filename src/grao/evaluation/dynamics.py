"""What a curve of evaluations says about training: how soon it is good, and how often it falls back.

Left out: smoothing. A curve rests on few prompts and wavers by chance, so both numbers are only to be compared between
curves that were evaluated equally often, on the same prompts.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np


def reach(x: Sequence[float], y: Sequence[float], share: float = 0.95, best: float | None = None) -> float | None:
    """Where a curve first reaches a share of its best value: sample efficiency, if x counts reward calls.

    Args:
        x: steps, reward calls or seconds at each evaluation, increasing.
        y: the score there, such as RAS.
        share: of the best value, above 0 and at most 1.
        best: the value to reach a share of, such as the best of all methods; by default the curve's own best.

    Returns:
        Linearly interpolated x; None if that score is never reached, or if no score is above 0.

    Example: 0, 0.2 and 0.4 at 0, 100 and 200 calls reach 0.95 * 0.4 = 0.38 at 100 + 100 * 0.18 / 0.2 = 190 calls.
    """
    _check(y)
    if len(x) != len(y) or any(after <= before for before, after in pairwise(x)):
        raise ValueError(f"x must increase and be as long as y, got {list(x)} for {len(y)} scores")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    top = max(y) if best is None else best
    highest = list(accumulate(y, max))
    first = bisect_left(highest, share * top)
    if top <= 0 or first == len(y):
        return None
    if first == 0:
        return float(x[0])
    return float(np.interp(share * top, y[first - 1 : first + 1], x[first - 1 : first + 1]))


def share_falling(y: Sequence[float]) -> float | None:
    """The share of evaluations, the first left out, that fall below the one before; None if there is only one.

    0 is monotonic improvement. Chance alone makes evaluations fall: about half of them once nothing is learned.

    Args:
        y: the scores, in order of time.
    """
    _check(y)
    return sum(after < before for before, after in pairwise(y)) / (len(y) - 1) if len(y) > 1 else None


def _check(y: Sequence[float]) -> None:
    if not len(y) or not np.isfinite(y).all():
        raise ValueError(f"expected at least one finite score, got {list(y)}")
