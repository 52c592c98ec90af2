"""Group-relative advantages (paper, eq. 4): how much better than its group each answer is.

NaN stands for a missing reward throughout: what could not be judged is missing, never 0.
Left out: an epsilon in the denominator. A group without spread is recognised and gets exactly 0 instead.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["joint", "samples"]

SAME = 1e-12
"""Rewards closer than this, relative to the largest of their group, count as equal (rounding, not signal)."""


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
        rewards: (B, G), any real scale; NaN (or infinity) = missing.
        reference_rewards: (B,), on the same scale, NaN = missing.
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

    completions, reference = rewards.double(), reference_rewards.double()
    everyone = torch.cat([completions, reference[:, None]], dim=1)  # (B, G + 1)
    everyone = everyone.where(everyone.isfinite(), torch.nan)
    group = everyone if scope == "joint" else everyone[:, :-1]

    mean, deviation = _moments(group)  # (B, 1) each
    advantages = _divide(everyone - mean, deviation)
    bound = everyone[:, :-1].isfinite().sum(dim=1).double().sqrt()[:, None]  # (B, 1); idle in scope `joint`
    advantages = advantages.clamp(-bound, bound)
    advantages = advantages.masked_fill(group.isfinite().sum(dim=1, keepdim=True) < 2, torch.nan)
    advantages = advantages.to(rewards.dtype)
    return Advantages(completions=advantages[:, :-1], reference=advantages[:, -1])


def _moments(group: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation over the scored members of each row, deviation 0 if all agree."""
    scored = group.isfinite()
    count = scored.sum(dim=1, keepdim=True).clamp(min=1)
    mean = group.nan_to_num(0.0).sum(dim=1, keepdim=True) / count
    centred = (group - mean).nan_to_num(0.0)
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    scale = group.nan_to_num(0.0).abs().amax(dim=1, keepdim=True)
    return mean, deviation.where(centred.abs().amax(dim=1, keepdim=True) > SAME * scale, 0.0)


def _divide(distance: Tensor, deviation: Tensor) -> Tensor:
    """distance / deviation with 0 / 0 = 0 and x / 0 = +-inf (bounded by the caller)."""
    nothing = distance.abs() <= SAME * (1.0 + distance.abs().nan_to_num(0.0).amax(dim=1, keepdim=True))
    return (distance / deviation).masked_fill(nothing & (deviation == 0), 0.0)
