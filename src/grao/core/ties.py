"""Ties: rewards that are equal but for rounding, made exactly equal before anything compares them.

    a ~ b  if  |a - b| <= 16 eps * max(|a|, |b|)

eps is that of float32 unless the dtype says more. The rule speaks of rewards as they were given, r(o) and r(y): once
the reference is subtracted their scale is gone, and a difference of rounding looks like any other.
"""

import torch
from torch import Tensor

_STEPS = 16


def rounding(rewards: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """16 eps * |r|: how far rounding may have moved each reward, in the shape of `rewards`.

    Args:
        rewards: as they were given, before any reference was subtracted.
        dtype: what they are exact to. float64 and whole numbers say more than float32; shorter floats say no less.
    """
    finer = dtype == torch.float64 or not (dtype.is_floating_point or dtype.is_complex)
    return _STEPS * torch.finfo(torch.float64 if finer else torch.float32).eps * rewards.abs()


def merge_ties(rewards: Tensor, moved: Tensor) -> Tensor:
    """The rewards of each group with one value for all members that tie, the last member's where it is among them.

    Two members tie if they differ by no more than the larger of their two `moved`. Being equal is carried on: where a
    ties with b and b with c, all three are one.

    Args:
        rewards: (B, N), by convention with the reference last; NaN = missing.
        moved: (B, N), how far rounding may have moved each (`rounding`).

    Returns:
        (B, N). What ties with nothing keeps its value.
    """
    values, order = rewards.sort(dim=1)  # NaN comes last
    moved = moved.gather(1, order)
    highest = (values + moved).cummax(dim=1).values  # reached from here or from below
    lowest = (values - moved).nan_to_num(nan=torch.inf).flip(1).cummin(dim=1).values.flip(1)  # from here or from above
    begins = torch.ones_like(values, dtype=torch.bool)
    begins[:, 1:] = ~((highest[:, :-1] >= values[:, 1:]) | (lowest[:, 1:] <= values[:, :-1]))
    first = torch.arange(values.shape[1], device=values.device).where(begins, 0).cummax(dim=1).values
    of_last = first[order == values.shape[1] - 1][:, None]  # where the last member's run of ties begins
    merged = values.gather(1, first).where(first != of_last, rewards[:, -1:])
    return torch.empty_like(rewards).scatter(1, order, merged)
