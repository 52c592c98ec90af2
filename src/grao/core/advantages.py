"""Group-relative advantages (paper, eq. 4): how much better than its group each answer is.

NaN stands for a missing reward throughout: what could not be judged is missing, never 0.
Left out: an epsilon in the denominator. A group without spread is recognised (`grao.core.ties`) and gets exactly 0.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grao.core.ties import merge_ties, rounding

Scope = Literal["joint", "samples"]


@dataclass(frozen=True)
class Advantages:
    """Group-relative advantages; NaN marks a member that has none (reward missing, or group dropped)."""

    completions: Tensor
    """(B, G), one for each sampled completion."""
    reference: Tensor
    """(B,), one for each reference answer."""

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
    """A = (R - mu) / sigma with the population standard deviation, eq. 4.

    Args:
        rewards: (B, G), any real scale; NaN (or infinity) = missing. Best as they were given, r(o): what differs from
            them by rounding is told by their size and dtype (`grao.core.ties`).
        reference_rewards: (B,), on the same scale, r(y); NaN = missing. 0 where R(o, y) is given.
        scope: whose mean and deviation are used. `joint`: the G samples and the reference together, as the
            paper's words say; always |A| <= sqrt(G). `samples`: the samples alone, as eq. 4 is printed; there
            A_y has no bound of its own and is clipped to +-sqrt(G) (also its limit where all samples are equal).

    Returns:
        Advantages in the dtype of `rewards`. All 0 in a group without signal; NaN where the reward is missing
        and in a whole group with fewer than two scored members.

    Example (docs/method.md, "Advantages"), verdicts of four samples against a reference of reward 0::

        joint: mu = -0.2, sigma = 0.748331, A_1 = (1 + 0.2) / 0.748331 = 1.603567, A_y = 0.267261
    """
    if rewards.ndim != 2 or reference_rewards.shape != rewards.shape[:1]:
        shapes = f"{tuple(rewards.shape)} and {tuple(reference_rewards.shape)}"
        raise ValueError(f"expected rewards (B, G) and reference_rewards (B,), got {shapes}")
    if scope not in ("joint", "samples"):
        raise ValueError(f"scope must be 'joint' or 'samples', got {scope!r}")

    everyone = members(rewards, reference_rewards)
    group = everyone if scope == "joint" else everyone[:, :-1]

    distance, deviation = spread(everyone, group)
    advantages = (distance / deviation).masked_fill(distance == 0, 0.0)  # x / 0 is bounded below
    bound = everyone[:, :-1].isfinite().sum(dim=1).double().sqrt()[:, None]  # (B, 1); idle in scope `joint`
    advantages = advantages.clamp(-bound, bound)
    advantages = advantages.masked_fill(group.isfinite().sum(dim=1, keepdim=True) < 2, torch.nan)
    advantages = advantages.to(rewards.dtype)
    return Advantages(completions=advantages[:, :-1], reference=advantages[:, -1])


def members(rewards: Tensor, reference_rewards: Tensor) -> Tensor:
    """The samples and, last, the reference of each group, (B, G + 1) float64; ties are exact, NaN = missing."""
    everyone = torch.cat([rewards.double(), reference_rewards.double()[:, None]], dim=1)
    everyone = everyone.where(everyone.isfinite(), torch.nan)
    return merge_ties(everyone, rounding(everyone, rewards.dtype))


def spread(values: Tensor, group: Tensor, freedom: int = 0) -> tuple[Tensor, Tensor]:
    """How far values lie from the mean of a group, and the standard deviation of the group.

    A distance that is rounding of the mean is exactly 0, so a group whose members are all equal has deviation 0.

    Args:
        values: (B, M), NaN = missing.
        group: (B, N), or (1, N) for all; NaN (or infinity) = missing.
        freedom: what is taken off the number of members in the deviation: 0 for the population's, 1 for a sample's.

    Returns:
        (B, M) and (B, 1).
    """
    group = group.where(group.isfinite(), torch.nan)
    scored = (~group.isnan()).sum(dim=1, keepdim=True)
    largest = group.nan_to_num(0.0).abs().amax(dim=1, keepdim=True)
    unit = (largest / (2 * largest.frexp().mantissa)).nan_to_num(1.0)  # a power of 2: no square overflows
    mean = (group / unit).nan_to_num(0.0).sum(dim=1, keepdim=True) / scored.clamp(min=1)

    def distance(members: Tensor) -> Tensor:
        gap = members / unit - mean
        return gap.masked_fill(gap.abs() <= rounding(torch.ones_like(mean), group.dtype), 0.0)

    squares = distance(group).nan_to_num(0.0).square().sum(dim=1, keepdim=True)
    deviation = (squares / (scored - freedom).clamp(min=1)).sqrt()
    return distance(values) * unit, deviation * unit
