"""Ties: rewards that differ only by rounding become exactly equal before anything compares them.

    a ~ b  if  |a - b| <= 16 eps * max(|a|, |b|)

eps is that of float32 unless the dtype is more precise. Apply this to raw rewards r(o) and r(y): subtracting the
reference loses their scale, and rounding error can no longer be told from a small difference.
"""

import torch
from torch import Tensor

_EPSILONS = 16
"""Rounding error allowed in a reward, in units of eps * |r|."""


def rounding(rewards: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a bound on the rounding error of each reward: 16 eps * |r|.

    Args:
        rewards: raw rewards of any shape, before a reference is subtracted.
        dtype: the dtype the rewards were computed in. float64 and integers use the eps of float64, all others the
            eps of float32.

    Returns:
        Bounds in the shape of `rewards`.
    """
    double = dtype == torch.float64 or not (dtype.is_floating_point or dtype.is_complex)
    return _EPSILONS * torch.finfo(torch.float64 if double else torch.float32).eps * rewards.abs()


def merge_ties(rewards: Tensor, bounds: Tensor) -> Tensor:
    """Give tied members of a group the same value; members that tie with the last one get its value.

    Two members tie if they differ by no more than the larger of their `bounds`. Ties are transitive: if a ties with b
    and b with c, all three become equal.

    Args:
        rewards: (B, N), by convention with the reference last; NaN = missing.
        bounds: (B, N), rounding error of each reward (`rounding`).

    Returns:
        (B, N). A member that ties with no other keeps its value.
    """
    # In sorted order ties form runs. A run ends where no interval [value - bound, value + bound] from one side
    # reaches a value on the other.
    values, order = rewards.sort(dim=1)  # NaN comes last
    bounds = bounds.gather(1, order)
    reach_up = (values + bounds).cummax(dim=1).values
    reach_down = (values - bounds).nan_to_num(nan=torch.inf).flip(1).cummin(dim=1).values.flip(1)
    starts_run = torch.ones_like(values, dtype=torch.bool)
    starts_run[:, 1:] = ~((reach_up[:, :-1] >= values[:, 1:]) | (reach_down[:, 1:] <= values[:, :-1]))
    run = torch.arange(values.shape[1], device=values.device).where(starts_run, 0).cummax(dim=1).values
    run_of_last = run[order == values.shape[1] - 1][:, None]
    merged = values.gather(1, run).where(run != run_of_last, rewards[:, -1:])
    return torch.empty_like(rewards).scatter(1, order, merged)
