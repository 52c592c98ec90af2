"""Verdicts as letters, which is how the record of a study's run keeps them, and back to numbers."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from grao.errors import InputError
from grao.records.cell import Letters

_VALUES = {"w": 1.0, "t": 0.0, "l": -1.0, "-": math.nan}


def letters(rewards: Sequence[float | None]) -> Letters:
    """One letter a prompt.

    Example: 0.3, 0, None, -2 is `wt-l`.
    """
    return "".join(_letter(reward) for reward in rewards)


def verdicts(outcomes: Letters) -> npt.NDArray[np.float64]:
    """(N,): 1 won, 0 tied, -1 lost, NaN missing."""
    return np.array([_VALUES[letter] for letter in outcomes])


def wins(outcomes: Letters) -> npt.NDArray[np.float64]:
    """(N,): 1 a strict win, 0 none, NaN missing."""
    values = verdicts(outcomes)
    return np.where(np.isnan(values), values, values > 0)


def win_share(rewards: Sequence[float | None]) -> float:
    """RAS: strict wins over all verdicts there are.

    Raises:
        InputError: if there is none.
    """
    known = [reward for reward in rewards if reward is not None]
    if not known:
        raise InputError(f"all {len(rewards)} verdicts on the held-out prompts are missing; check the reward")
    return sum(reward > 0 for reward in known) / len(known)


def _letter(reward: float | None) -> str:
    if reward is None or math.isnan(reward):
        return "-"
    return "w" if reward > 0 else "l" if reward < 0 else "t"
