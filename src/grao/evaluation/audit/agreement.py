"""Agreement of two judges beyond chance: Cohen's kappa over wins, ties and losses.

Left out: weighted kappa (a tie is no half agreement) and more than two judges.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from grao.evaluation.intervals import proportion
from grao.records.audit import Kappa
from grao.records.evaluation import Estimate

Array = npt.NDArray[np.float64]


def agreement_table(one: Sequence[float | None], other: Sequence[float | None]) -> Array:
    """(3, 3) counts: rows are losses, ties and wins by the one judge, columns by the other.

    Args:
        one: R of N texts by the first judge, None = missing.
        other: by the second. Texts that miss either are left out.
    """
    table = np.zeros((3, 3))
    for left, right in zip(one, other, strict=True):
        if left is not None and right is not None:
            table[1 + _sign(left), 1 + _sign(right)] += 1
    return table


def either_way(table: Array) -> Array:
    """The table as if the two sides of every pair had been drawn: half of each count with win and loss exchanged.

    For pairs whose sides mean nothing. Where one side is the better one by label, two good judges agree on it nearly
    always, chance agreement is as high, and the plain kappa would be near 0 however well they agree.
    """
    return (table + table[::-1, ::-1]) / 2


def cohens_kappa(table: Array, confidence: float = 0.95) -> Kappa | None:
    """kappa = (p_o - p_e) / (1 - p_e), agreement in excess of what the two judges' habits alone would give.

    The interval is that of the agreement p_o (Wilson's), put through the same formula: the chance agreement p_e counts
    as known, as in Cohen's own standard error (Educational and Psychological Measurement 20, 1960). Next to
    p_o it varies little, and coverage stays above 94 % in small and lopsided tables, where kappa +- z * standard
    error falls to half of that.

    Args:
        table: (3, 3) counts.
        confidence: nominal coverage.

    Returns:
        None without counts. Its kappa is None where both judges only ever say one and the same thing.

    Example: 35 of 50 pairs agreed on, chance agreement 0.5 (rows 25, 25; columns 30, 20): kappa 0.4.
    """
    n = round(table.sum())
    if n == 0:
        return None
    share = table / n
    chance = float(share.sum(axis=1) @ share.sum(axis=0))
    agreement = proportion(round(np.trace(table)), n, confidence)
    if math.isclose(chance, 1.0):
        return Kappa(agreement, None)
    value, low, high = (
        (observed - chance) / (1 - chance) for observed in (agreement.value, agreement.low, agreement.high)
    )
    return Kappa(agreement, Estimate(value, low, high, n))


def _sign(reward: float) -> int:
    return (reward > 0) - (reward < 0)
