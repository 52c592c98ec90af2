"""How far an advantage is a matter of the answer, and how far of the group it happened to be drawn in.

Group-relative advantages measure an answer against a handful of others (paper, eq. 4). Draw the others again, from the
same policy, and mean and deviation change, and with them the advantage of an answer that has not changed at all. That
spread is noise of the method; it is measured here per prompt, from a pool of answers that is cut into groups.

Left out: missing rewards. What could not be judged has to leave the pool first.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from grao.core.advantages import Scope, group_advantages


@dataclass(frozen=True)
class Stability:
    """Advantages over re-samplings of the groups of the same prompts, at one group size."""

    groups: int
    """Re-samplings of each prompt."""
    silent: float
    """Share of groups without signal: all advantages 0."""
    reference: float
    """Standard deviation of A_y over the re-samplings of a prompt; root mean square over prompts."""
    answer: float
    """The same for the advantage of an answer that stays while the rest of its group is drawn again."""
    reliability: float | None
    """Share of the variance of advantages within a prompt that belongs to the answers, not to their groups:
    between 0, all chance, and 1; by estimate also a little below 0. None where no advantage ever varies."""


def group_stability(pool: Tensor, reference: Tensor, size: int, kept: int = 8, scope: Scope = "joint") -> Stability:
    """Stability of groups of `size` samples, drawn without replacement from a pool of answers to each prompt.

    Args:
        pool: (B, M) finite rewards of independent answers to each of B prompts.
        reference: (B,) rewards of the references on the same scale.
        size: G, at least 2; M - kept must be enough for two groups.
        kept: answers, the first of the pool, whose advantage is followed through groups of G - 1 others each.
        scope: whose mean and deviation are used, as in `group_advantages`.
    """
    groups = (pool.shape[1] - kept) // size
    if size < 2 or groups < 2 or kept < 2:
        raise ValueError(f"size and kept must be at least 2 and two groups fit, got {size}, {kept} and {pool.shape}")
    fresh = pool[:, kept : kept + groups * size].unflatten(1, (groups, size))  # (B, K, G)
    completions, of_reference = _advantages(fresh, reference, scope)
    silent = (completions == 0).all(dim=-1) & (of_reference == 0)

    # Every kept answer takes the place of the first sample in every group.
    again = fresh[:, None].repeat(1, kept, 1, 1)  # (B, kept, K, G)
    again[..., 0] = pool[:, :kept, None]
    followed = _advantages(again, reference, scope)[0][..., 0]  # (B, kept, K)
    chance, own = float(followed.var(dim=2).mean()), _own(followed)
    return Stability(
        groups=groups,
        silent=float(silent.double().mean()),
        reference=float(of_reference.var(dim=1).mean().sqrt()),
        answer=math.sqrt(chance),
        reliability=own / (own + chance) if own + chance > 0 else None,
    )


def _own(followed: Tensor) -> float:
    """Variance between answers to a prompt of their expected advantage; `followed` is (B, answers, groups K).

    Means over K groups still hold a K-th of the chance, which is taken off. All answers meet the same groups, so only
    that part of the chance counts which a group does not have in common for all of them.
    """
    answers, groups = followed.shape[1:]
    uncommon = followed - followed.mean(dim=1, keepdim=True)
    left = uncommon.var(dim=2).sum(dim=1) / (answers - 1) / groups  # (B,)
    return float((followed.mean(dim=2).var(dim=1) - left).mean())


def _advantages(rewards: Tensor, reference: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    """(B, ..., G) rewards -> advantages of the samples in the same shape, and of the reference, (B, ...)."""
    rows = reference.double().view(-1, *[1] * (rewards.ndim - 2)).expand(rewards.shape[:-1])
    given = group_advantages(rewards.double().flatten(0, -2), rows.flatten(), scope)
    return given.completions.view(rewards.shape), given.reference.view(rewards.shape[:-1])
