"""Group-relative advantages (paper, eq. 4): how much better each answer is than its group.

NaN marks a missing reward throughout. A reward that could not be computed is missing, never 0.
Eq. 4 needs no epsilon in the denominator: groups without spread are detected (`grao.core.ties`) and get exactly 0.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grao.core.ties import merge_ties, rounding

Scope = Literal["joint", "samples"]


@dataclass(frozen=True)
class Advantages:
    """Group-relative advantages; NaN where the reward is missing or the whole group is dropped."""

    completions: Tensor
    """(B, G), one per sampled completion."""
    reference: Tensor
    """(B,), one per reference answer."""

    @property
    def dropped(self) -> Tensor:
        """(B,) bool: groups with fewer than two scored members. Nothing is learned from them."""
        return self.completions.isnan().all(dim=1)

    @property
    def no_signal(self) -> Tensor:
        """(B,) bool: groups in which every scored member has the same reward. All their weights are 0."""
        flat = torch.cat([self.completions, self.reference[:, None]], dim=1).nan_to_num(0.0)
        return (flat == 0).all(dim=1) & ~self.dropped


def group_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """Return A = (R - mu) / sigma within each group (eq. 4); sigma is the population standard deviation (1/n).

    Args:
        rewards: (B, G), rewards of the samples on any scale; NaN or infinity = missing. Pass raw scores r(o) if you
            have them: ties are detected relative to the size of the scores (`grao.core.ties`).
        reference_rewards: (B,), rewards r(y) of the references on the same scale, or 0 if `rewards` are already
            relative to the reference; NaN = missing.
        scope: which members define mu and sigma. `joint`: the G samples and the reference together, as the paper's
            text says; |A| never exceeds sqrt(G). `samples`: the samples alone, as eq. 4 is printed; A_y would then have
            no bound, so it is clipped to +-sqrt(G), also where all samples are equal and sigma is 0.

    Returns:
        Advantages in the dtype of `rewards`: 0 throughout a group without signal, NaN where the reward is missing
        and throughout a group with fewer than two scored members.

    Raises:
        ValueError: if the shapes do not match or `scope` is unknown.

    Example (docs/method.md, "Advantages"), rewards 1, 0, -1, -1 of four samples and 0 of the reference::

        joint: mu = -0.2, sigma = 0.748331, A_1 = (1 + 0.2) / 0.748331 = 1.603567, A_y = 0.267261
    """
    if rewards.ndim != 2 or reference_rewards.shape != rewards.shape[:1]:
        shapes = f"{tuple(rewards.shape)} and {tuple(reference_rewards.shape)}"
        raise ValueError(f"expected rewards (B, G) and reference_rewards (B,), got {shapes}")
    if scope not in ("joint", "samples"):
        raise ValueError(f"scope must be 'joint' or 'samples', got {scope!r}")

    members = group_members(rewards, reference_rewards)
    group = members if scope == "joint" else members[:, :-1]

    distance, deviation = spread(members, group)
    advantages = (distance / deviation).masked_fill(distance == 0, 0.0)  # x / 0 = +-inf, clamped below
    bound = members[:, :-1].isfinite().sum(dim=1).double().sqrt()[:, None]  # (B, 1); never reached in scope `joint`
    advantages = advantages.clamp(-bound, bound)
    advantages = advantages.masked_fill(group.isfinite().sum(dim=1, keepdim=True) < 2, torch.nan)
    advantages = advantages.to(rewards.dtype)
    return Advantages(completions=advantages[:, :-1], reference=advantages[:, -1])


def group_members(rewards: Tensor, reference_rewards: Tensor) -> Tensor:
    """Join the rewards of each group's members.

    Args:
        rewards: (B, G), rewards of the samples; NaN or infinity = missing.
        reference_rewards: (B,), rewards of the references.

    Returns:
        (B, G + 1) float64: the samples, then the reference. Ties are exactly equal, missing rewards NaN.
    """
    members = torch.cat([rewards.double(), reference_rewards.double()[:, None]], dim=1)
    members = members.where(members.isfinite(), torch.nan)
    return merge_ties(members, rounding(members, rewards.dtype))


def spread(values: Tensor, group: Tensor, freedom: int = 0) -> tuple[Tensor, Tensor]:
    """Return the distance of each value from the group mean, and the group's standard deviation.

    Distances within rounding error are exactly 0, so a group of equal members has deviation 0.

    Args:
        values: (B, M), NaN = missing.
        group: (B, N), or (1, N) to compare all rows with one group; NaN or infinity = missing.
        freedom: subtracted from the number of members in the deviation: 0 for the population standard deviation,
            1 for the sample standard deviation.

    Returns:
        Distances (B, M) and deviations (B, 1), or (1, 1) for a single group.
    """
    group = group.where(group.isfinite(), torch.nan)
    scored = (~group.isnan()).sum(dim=1, keepdim=True)
    largest = group.nan_to_num(0.0).abs().amax(dim=1, keepdim=True)
    unit = (largest / (2 * largest.frexp().mantissa)).nan_to_num(1.0)  # a power of 2, so that no square overflows
    mean = (group / unit).nan_to_num(0.0).sum(dim=1, keepdim=True) / scored.clamp(min=1)

    def distance(rewards: Tensor) -> Tensor:
        gap = rewards / unit - mean
        return gap.masked_fill(gap.abs() <= rounding(torch.ones_like(mean), group.dtype), 0.0)

    squares = distance(group).nan_to_num(0.0).square().sum(dim=1, keepdim=True)
    deviation = (squares / (scored - freedom).clamp(min=1)).sqrt()
    return distance(values) * unit, deviation * unit
