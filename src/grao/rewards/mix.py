"""A weighted sum of rewards under constraints. Missing rewards stay missing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig
from grao.core import rounding, spread
from grao.errors import InputError
from grao.rewards.base import (
    CountedReward,
    EarlyReward,
    Reward,
    RewardBatch,
    Scored,
    ScoredReward,
    ask,
    moved_by_rounding,
    with_exact_ties,
)
from grao.rewards.functions import FunctionReward, load_function
from grao.rewards.judge.base import EarlyJudge, JudgedPair
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.model import RewardModel
from grao.rewards.rules import RuleReward

SOURCES: Mapping[str, Callable[[Any, RewardConfig, Recipe], Reward]] = {
    "function": FunctionReward.from_section,
    "judge": JudgeReward.from_section,
    "model": RewardModel.from_section,
    "rule": RuleReward.from_section,
}
"""{field of `RewardConfig`: (its value, the whole section, the recipe) -> a reward}. Each raises InputError if the
reward cannot be built."""


@dataclass(frozen=True)
class WeightedReward:
    """One reward of a mix."""

    reward: Reward
    weight: float = 1.0
    """Factor in the sum."""
    normalise: bool = False
    """Divide by the standard deviation within the group first, so that no scale dominates (`normalised`)."""
    constraint: bool = False
    """A completion must not lose to the reference on this reward (`constrained`)."""


@dataclass(frozen=True)
class MixedRewards:
    """R(o, y) of B groups."""

    total: Tensor
    """(B, G) float64, NaN = missing."""
    parts: dict[str, Tensor]
    """{name of a reward: (B, G), before normalisation and weight}."""
    tallies: Mapping[str, Mapping[str, Tensor | float]] = field(default_factory=dict)
    """{name of a `CountedReward`: its tally}."""
    constraints: frozenset[str] = frozenset()
    """Names of the rewards that are constraints."""
    scores: Mapping[str, Scored] = field(default_factory=dict)
    """{name of a reward that scores single answers: r(o) and r(y), before they are compared}."""
    judged: Mapping[str, Mapping[tuple[int, int], JudgedPair]] = field(default_factory=dict)
    """{name of a judge: {(group, member): its verdicts in both orders}}."""


class Mix:
    """A weighted sum of rewards, under constraints.

    A reward that is missing for a whole group does not apply to that prompt and is left out of its sum (as in TRL).
    A reward that is missing for part of a group failed there: the sum is missing, never counted as 0. A judge applies
    to every prompt, so its silence about a whole group is a failure too. Where a constraint is missing, so is the sum.

    Args:
        rewards: at least one, with different names; a bare reward has weight 1.

    Raises:
        InputError: if there is no reward, or two have the same name.
    """

    def __init__(self, rewards: Sequence[Reward | WeightedReward]) -> None:
        self.objectives = [item if isinstance(item, WeightedReward) else WeightedReward(item) for item in rewards]
        self.rewards = [weighted.reward for weighted in self.objectives]
        """The rewards without weights."""
        names = [reward.name for reward in self.rewards]
        if not names:
            raise InputError("rewards: at least one is required")
        if len(set(names)) < len(names):
            repeated = max(names, key=names.count)
            raise InputError(f"rewards: two have the name {repeated!r}; rename one: FunctionReward(f, name='...')")

    @property
    def early(self) -> bool:
        """Whether any reward works in the background after `begin`."""
        return any(
            isinstance(reward.judge, EarlyJudge) if isinstance(reward, JudgeReward) else isinstance(reward, EarlyReward)
            for reward in self.rewards
        )

    def begin(self, batch: RewardBatch) -> None:
        """Call `begin` of each `EarlyReward` with a part of the next batch."""
        for reward in self.rewards:
            if isinstance(reward, EarlyReward):
                reward.begin(batch)

    def surround(self, **surroundings: Any) -> None:
        """Update `FunctionReward.surroundings` of all functions."""
        for reward in self.rewards:
            if isinstance(reward, FunctionReward):
                reward.surroundings |= surroundings

    def check_columns(self, names: Collection[str]) -> None:
        """Call `ScoredReward.check_columns` of all rewards that score single answers."""
        for reward in self.rewards:
            if isinstance(reward, ScoredReward):
                reward.check_columns(names)

    def __call__(self, batch: RewardBatch) -> MixedRewards:
        """Return R(o, y) of every completion."""
        parts = {reward.name: ask(reward, batch) for reward in self.rewards}
        total = self.combine(list(parts.values()))
        tallies = {reward.name: reward.tally() for reward in self.rewards if isinstance(reward, CountedReward)}
        scores = {item.name: item.last for item in self.rewards if isinstance(item, ScoredReward) and item.last}
        constraints = frozenset(weighted.reward.name for weighted in self.objectives if weighted.constraint)
        judged = {reward.name: reward.last for reward in self.rewards if isinstance(reward, JudgeReward)}
        return MixedRewards(total, parts, tallies, constraints, scores, judged)

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """Return sum_k w_k * R_k over the rewards that apply to the group, with exact ties, under the constraints.

        Args:
            parts: results of the last call of each reward: K tensors (B, G), NaN = missing, in the order of `rewards`.

        Returns:
            (B, G); NaN where a reward that applies is missing, and in groups to which none applies.

        Raises:
            InputError: if a sum is too large to learn from.
        """
        total, constraints = torch.zeros_like(parts[0]), []
        moved = total.new_zeros(len(total), total.shape[1] + 1)
        applies = torch.zeros(len(total), dtype=torch.bool)
        for weighted, part in zip(self.objectives, parts, strict=True):
            unit = _deviation(part) if weighted.normalise else part.new_ones(len(part), 1)
            scaled = part / unit
            # A judge applies to every group: without any verdict it failed.
            applied = ~scaled.isnan().all(dim=1) | isinstance(weighted.reward, CountedReward)
            total[applied] += weighted.weight * scaled[applied]
            moved[applied] += abs(weighted.weight) * (moved_by_rounding(weighted.reward, part) / unit)[applied]
            applies |= applied
            if weighted.constraint:
                constraints.append(scaled)
        total[~applies] = torch.nan
        total = with_exact_ties(total, moved, "the sum of the rewards")
        return constrained(total, constraints) if constraints else total


def check_any_scored(batches: Sequence[MixedRewards], count: int | None = None) -> None:
    """Check that not all rewards are missing.

    Args:
        batches: rewards of all answers of this process.
        count: number of answers on all processes; give it only if the other processes have no rewards either. By
            default, the number of answers of this process.

    Raises:
        InputError: if the sum is missing for every one of two or more answers.
    """
    count = sum(mixed.total.numel() for mixed in batches) if count is None else count
    if count > 1 and all(bool(mixed.total.isnan().all()) for mixed in batches):
        parts = [part for mixed in batches for part in mixed.parts.items()]
        silent = " and ".join(dict.fromkeys(f"reward {name}" for name, part in parts if part.isnan().any()))
        raise InputError(
            f"{silent or 'the rewards'} returned None or NaN for all {count} answers, or for their references; "
            "check what it returns, and that the columns it reads are filled"
        )


def concatenated(batches: Sequence[MixedRewards]) -> MixedRewards:
    """Concatenate the rewards of one or more batches, without `scores` and `judged`; numbers in tallies are summed."""

    def tally(name: str) -> dict[str, Tensor | float]:
        tallies = [mixed.tallies[name] for mixed in batches]
        columns: dict[str, list[Any]] = {}
        for key, value in (pair for counts in tallies for pair in counts.items()):
            columns.setdefault(key, []).append(value)
        return {
            key: torch.cat(values) if isinstance(values[0], Tensor) else sum(values) for key, values in columns.items()
        }

    parts = {name: torch.cat([mixed.parts[name] for mixed in batches]) for name in batches[0].parts}
    total, constraints = torch.cat([mixed.total for mixed in batches]), batches[0].constraints
    return MixedRewards(total, parts, {name: tally(name) for name in batches[0].tallies}, constraints)


RewardLike = Reward | Callable[..., Any] | str | PathLike[str] | nn.Module | tuple[nn.Module, PreTrainedTokenizerBase]
"""Anything that `as_mix` accepts as a reward."""


def as_mix(rewards: Mix | RewardLike | Sequence[RewardLike]) -> Mix:
    """Combine rewards with weight 1 each; a `Mix` is returned unchanged.

    Args:
        rewards: a `Mix`, or one or a list of: a `Reward`; a function in TRL's convention, or its name as
            `file.py:function`; a reward model, as a folder or hub id, as a model, or as a pair of model and tokenizer.

    Raises:
        InputError: if a reward is anything else, or cannot be loaded.
    """
    if isinstance(rewards, Mix):
        return rewards
    sources: Any = rewards
    if not isinstance(rewards, Sequence) or isinstance(rewards, str) or _with_tokenizer(rewards):
        sources = [rewards]
    return Mix([_as_reward(source) for source in sources])


def _as_reward(source: Any) -> Reward:
    """See `as_mix`."""
    if isinstance(source, Reward) and not isinstance(source, type):
        return source
    if isinstance(source, str | PathLike):
        text = fspath(source)
        if ":" in text:
            return FunctionReward(load_function(text))
        try:
            return RewardModel.load(text, name=Path(text).name)
        except InputError as error:
            problem = str(error).removeprefix("model.path: ")
            raise InputError(f"rewards: cannot load the reward model: {problem}") from error
    if _with_tokenizer(source):
        return RewardModel.of(*source)
    is_model = isinstance(source, nn.Module) and hasattr(source, "config")
    return RewardModel.of(source) if is_model else FunctionReward(source)


def _with_tokenizer(source: Any) -> bool:
    """Whether a source is a pair of a reward model and its tokenizer."""
    return isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], PreTrainedTokenizerBase)


def make_reward(section: RewardConfig, recipe: Recipe) -> Reward:
    """Build one reward of a recipe.

    Args:
        section: the reward's section.
        recipe: the whole recipe.

    Raises:
        InputError: if the reward cannot be built.
    """
    (source,) = (name for name in SOURCES if getattr(section, name) is not None)
    return SOURCES[source](getattr(section, source), section, recipe)


def make_rewards(recipe: Recipe) -> Mix:
    """Build the rewards of a recipe.

    Raises:
        InputError: if one cannot be built, or two have the same name.
    """
    weighted = [
        WeightedReward(make_reward(section, recipe), section.weight, section.normalise, section.constraint)
        for section in recipe.rewards
    ]
    names = [objective.reward.name for objective in weighted]
    if len(set(names)) < len(names):
        raise InputError(f"rewards: two have the name {max(names, key=names.count)!r}; rename one")
    return Mix(weighted)


def normalised(part: Tensor) -> Tensor:
    """Return R / sigma, (B, G): each group's rewards in units of their standard deviation.

    sigma is the population standard deviation over the scored samples and the reference, whose R is 0. That is the
    standardised reward minus the reference's own, (R - mu) / sigma - (0 - mu) / sigma, so the reference stays at 0.
    A group without spread gives 0, and NaN stays NaN.

    Example: 1, 0, -1, -1 and the reference: sigma = 0.748331, hence 1.336306, 0, -1.336306, -1.336306.
    """
    return part / _deviation(part)


def _deviation(part: Tensor) -> Tensor:
    """Return each group's standard deviation, (B, 1); infinite if it is no more than rounding of numbers near 1."""
    group = torch.cat([part, torch.zeros_like(part[:, :1])], dim=1)  # (B, G + 1)
    deviation = spread(group, group)[1]
    return deviation.masked_fill(deviation <= rounding(torch.ones_like(deviation), torch.float64), torch.inf)


def constrained(total: Tensor, constraints: Sequence[Tensor]) -> Tensor:
    """Rank completions that violate a constraint below all others of their group.

    Let v = sum_k min(R_k, 0) over the constraints. Where v < 0 a constraint is violated, and

        total = min(total, floor + v),   floor = min(0, smallest sum of a completion that violates none):

    below the reference and below every completion that satisfies the constraints, by the size of the violation, however
    large the other rewards are. Larger violations lower the bound further. The other completions are unchanged.

    Args:
        total: (B, G), the sums, NaN = missing.
        constraints: tensors (B, G), NaN = missing.

    Returns:
        (B, G); NaN where the sum or a constraint is missing.

    Example: sums 2, 1, -1, 3 under a constraint 0, -1, 1, -0.5: floor = -1, hence 2, -2, -1, -1.5.
    """
    violation = torch.stack([part.clamp(max=0.0) for part in constraints]).sum(dim=0)  # NaN where one is missing
    satisfied = (violation == 0) & ~total.isnan()
    floor = total.masked_fill(~satisfied, 0.0).amin(dim=1, keepdim=True).clamp(max=0.0)
    return torch.where(violation == 0, total, torch.minimum(total, floor + violation))
