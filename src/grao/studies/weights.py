"""What the arms of a study come to in weights, where their updates are weighted likelihoods of sequences.

Leaving a term out of eq. 3 does not remove a force: it changes the weights of samples and reference, and often nothing
but their ratio (docs/method.md). So each arm's effective weights stand beside its result.
"""

from collections.abc import Sequence

import torch

from grao.config.arms import Arm
from grao.config.method import GRAOMethodConfig, MethodConfig
from grao.methods import Groups, make_method
from grao.records.study import ArmWeights, Situation

_ALIKE = 1e-9


def arm_weights(arms: Sequence[Arm]) -> list[ArmWeights]:
    """The effective weights of every arm whose update is a weighted likelihood, group by group."""
    found: list[ArmWeights] = []
    everywhere: dict[str, torch.Tensor] = {}
    for arm in arms:
        method, samples = arm.recipe.method, arm.recipe.rollout.group_size
        if make_method(method).loss is not None or _looks_at_others(method):
            continue
        weights = _weights(method, _verdicts(samples))
        same = next((name for name, other in everywhere.items() if _proportional(other, weights)), None)
        everywhere[arm.name] = weights
        shown = [_situation(method, samples, *counts) for counts in _shown(samples)]
        found.append(ArmWeights(arm.name, _kappa(method, samples), shown, same))
    return found


def _shown(samples: int) -> list[tuple[int, int]]:
    """Wins and losses of the groups that a table can show: all lose, one wins, all win."""
    return [(0, samples), (1, samples - 1), (samples, 0)]


def _situation(method: MethodConfig, samples: int, wins: int, losses: int) -> Situation:
    row = _weights(method, torch.tensor([[1.0] * wins + [-1.0] * losses], dtype=torch.float64))[0].tolist()
    won, lost = row[0] if wins else None, row[samples - 1] if losses else None
    return Situation(wins, losses, won, lost, reference=row[samples])


def _verdicts(samples: int) -> torch.Tensor:
    """(groups, G): every group that wins, ties and losses can make, but for the order of its samples."""
    counts = [(wins, ties) for wins in range(samples + 1) for ties in range(samples + 1 - wins)]
    rows = [[1.0] * wins + [0.0] * ties + [-1.0] * (samples - wins - ties) for wins, ties in counts]
    return torch.tensor(rows, dtype=torch.float64)


def _weights(method: MethodConfig, rewards: torch.Tensor) -> torch.Tensor:
    """(groups, G + 1), samples and reference."""
    lengths = torch.ones(len(rewards), rewards.shape[1] + 2, dtype=torch.long)
    return make_method(method).weigh(Groups(rewards, lengths, mean_reference=1.0, step=0)).weights[:, :-1]


def _proportional(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether one is the other times a positive number."""
    if one.shape != other.shape:
        return False
    product = (one * other).sum()
    return bool(product > 0) and bool((one.norm() * other.norm() - product).abs() <= _ALIKE * product)


def _looks_at_others(method: MethodConfig) -> bool:
    """Whether what a group weighs depends on the other groups of its step."""
    return getattr(method, "normalise", None) == "batch" or getattr(method, "rule", None) == "step"


def _kappa(method: MethodConfig, samples: int) -> float | None:
    """(beta + lambda / G) / (alpha + lambda) in scope `joint`, beta / (alpha + lambda) in scope `samples`."""
    if not isinstance(method, GRAOMethodConfig) or method.normalise != "group":
        return None
    on_samples = method.exploration + method.lambda_
    shared = method.lambda_ / samples if method.scope == "joint" else 0.0
    return (method.beta + shared) / on_samples if on_samples else None
