"""Several rewards as one: a weighted sum, in which what is missing stays missing, under constraints that must hold."""

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
from grao.rewards.base import Counted, Early, Reward, RewardBatch, Scored, ScoredReward, ask, moved_by_rounding, settled
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
"""Field of `RewardConfig` -> (its value, the whole section, the recipe) -> a reward. A source builds itself; raises
InputError if it cannot."""


@dataclass(frozen=True)
class WeightedReward:
    """One reward of a mix."""

    reward: Reward
    weight: float = 1.0
    """Factor in the sum."""
    normalise: bool = False
    """Divide by the deviation within the group first, so that no scale dominates (`normalised`)."""
    constraint: bool = False
    """A completion must not lose to the reference by this reward (`constrained`)."""


@dataclass(frozen=True)
class MixedRewards:
    """R(o, y) of B groups."""

    total: Tensor
    """(B, G) float64, NaN = missing."""
    parts: dict[str, Tensor]
    """(B, G) of each reward by name, before its normalisation and weight."""
    tallies: Mapping[str, Mapping[str, Tensor | float]] = field(default_factory=dict)
    """What those that are `Counted` took, by name."""
    constraints: frozenset[str] = frozenset()
    """Names of the rewards that must not be lost."""
    scores: Mapping[str, Scored] = field(default_factory=dict)
    """r(o) and r(y) by name, of the rewards that score single answers: their scale before the comparison."""
    judged: Mapping[str, Mapping[tuple[int, int], JudgedPair]] = field(default_factory=dict)
    """By name of a judge and (group, member): what it said in either order."""


class Mix:
    """A weighted sum of rewards, under constraints.

    A reward that says nothing about a whole group does not apply to that prompt and is left out of its sum (as
    in TRL). One that scored only some of a group failed on the others: there the sum is missing, never
    counted as 0. A judge applies to every prompt: its silence about a whole group is a failure too. A constraint that
    says nothing is not held: the sum is missing.

    Args:
        rewards: at least one, with different names; a reward alone counts with weight 1.

    Raises:
        InputError: if there is no reward, or two have the same name.
    """

    def __init__(self, rewards: Sequence[Reward | WeightedReward]) -> None:
        self.objectives = [each if isinstance(each, WeightedReward) else WeightedReward(each) for each in rewards]
        self.rewards = [weighted.reward for weighted in self.objectives]
        """Without their weights."""
        names = [reward.name for reward in self.rewards]
        if not names:
            raise InputError("rewards: there is none; give one or more")
        if len(set(names)) < len(names):
            twice = max(names, key=names.count)
            raise InputError(f"rewards: two are called {twice!r}; give different names: FunctionReward(f, name='...')")

    @property
    def early(self) -> bool:
        """Whether one of them works on a batch, after `begin`, while this process does something else."""
        return any(
            isinstance(reward.judge, EarlyJudge) if isinstance(reward, JudgeReward) else isinstance(reward, Early)
            for reward in self.rewards
        )

    def begin(self, batch: RewardBatch) -> None:
        """Lets those that can begin with a part of the next batch (`Early`)."""
        for reward in self.rewards:
            if isinstance(reward, Early):
                reward.begin(batch)

    def surround(self, **surroundings: Any) -> None:
        """See `FunctionReward.surroundings`, of all functions."""
        for reward in self.rewards:
            if isinstance(reward, FunctionReward):
                reward.surroundings |= surroundings

    def check_columns(self, names: Collection[str]) -> None:
        """See `ScoredReward.check_columns`, of all rewards."""
        for reward in self.rewards:
            if isinstance(reward, ScoredReward):
                reward.check_columns(names)

    def __call__(self, batch: RewardBatch) -> MixedRewards:
        """R(o, y) of every completion."""
        parts = {reward.name: ask(reward, batch) for reward in self.rewards}
        total = self.combine(list(parts.values()))
        tallies = {reward.name: reward.tally() for reward in self.rewards if isinstance(reward, Counted)}
        scores = {each.name: each.last for each in self.rewards if isinstance(each, ScoredReward) and each.last}
        constraints = frozenset(weighted.reward.name for weighted in self.objectives if weighted.constraint)
        judged = {each.name: each.last for each in self.rewards if isinstance(each, JudgeReward)}
        return MixedRewards(total, parts, tallies, constraints, scores, judged)

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """sum_k w_k * R_k over the rewards that apply to the group, ties made exact, then the constraints, (B, G).

        Args:
            parts: what each reward said when it was last asked: K tensors (B, G), NaN = missing, in the order of
                `rewards`.

        Returns:
            NaN where a reward that applies is missing, and in groups to which none applies.

        Raises:
            InputError: if a sum is too large to learn from.
        """
        total, constraints = torch.zeros_like(parts[0]), []
        moved = total.new_zeros(len(total), total.shape[1] + 1)
        applies = torch.zeros(len(total), dtype=torch.bool)
        for weighted, part in zip(self.objectives, parts, strict=True):
            unit = _deviation(part) if weighted.normalise else part.new_ones(len(part), 1)
            entered = part / unit
            # That a judge says nothing about a group is a failure.
            applied = ~entered.isnan().all(dim=1) | isinstance(weighted.reward, Counted)
            total[applied] += weighted.weight * entered[applied]
            moved[applied] += abs(weighted.weight) * (moved_by_rounding(weighted.reward, part) / unit)[applied]
            applies |= applied
            if weighted.constraint:
                constraints.append(entered)
        total[~applies] = torch.nan
        total = settled(total, moved, "the sum of the rewards")
        return constrained(total, constraints) if constraints else total


def check_heard(asked: Sequence[MixedRewards], count: int | None = None) -> None:
    """What no reward says anything about teaches nothing; a single missing answer is no reason to stop.

    Args:
        asked: what was said of all answers.
        count: of the answers of all processes, where others were asked of the rest and heard nothing either.

    Raises:
        InputError: if every sum is missing of all that was asked.
    """
    count = sum(mixed.total.numel() for mixed in asked) if count is None else count
    if count > 1 and all(bool(mixed.total.isnan().all()) for mixed in asked):
        parts = [part for mixed in asked for part in mixed.parts.items()]
        silent = " and ".join(dict.fromkeys(f"reward {name}" for name, part in parts if part.isnan().any()))
        raise InputError(
            f"{silent or 'the rewards'} returned None or NaN for every one of {count} answers, or for their references"
        )


def joined(heard: Sequence[MixedRewards]) -> MixedRewards:
    """What was said of several batches, at least one, as of one batch; numbers of the tallies are added up."""

    def tally(name: str) -> dict[str, Tensor | float]:
        told = [mixed.tallies[name] for mixed in heard]
        values: dict[str, list[Any]] = {}
        for what, value in (pair for each in told for pair in each.items()):
            values.setdefault(what, []).append(value)
        return {what: torch.cat(each) if isinstance(each[0], Tensor) else sum(each) for what, each in values.items()}

    parts = {name: torch.cat([mixed.parts[name] for mixed in heard]) for name in heard[0].parts}
    total, constraints = torch.cat([mixed.total for mixed in heard]), heard[0].constraints
    return MixedRewards(total, parts, {name: tally(name) for name in heard[0].tallies}, constraints)


RewardLike = Reward | Callable[..., Any] | str | PathLike[str] | nn.Module | tuple[nn.Module, PreTrainedTokenizerBase]
"""What can be made a reward of: see `as_mix`."""


def as_mix(rewards: Mix | RewardLike | Sequence[RewardLike]) -> Mix:
    """One reward or several as a mix with weight 1 each; a mix stays as it is.

    Args:
        rewards: a `Mix`, or one or a list of: a `Reward`; a function in TRL's convention, or the `file.py:function` of
            one; a reward model, as a folder or hub id, as a model, or as a pair of model and tokenizer.

    Raises:
        InputError: if one is something else.
    """
    if isinstance(rewards, Mix):
        return rewards
    several: Any = rewards
    if not isinstance(rewards, Sequence) or isinstance(rewards, str) or _with_tokenizer(rewards):
        several = [rewards]
    return Mix([_as_reward(each) for each in several])


def _as_reward(given: Any) -> Reward:
    """See `as_mix`."""
    if isinstance(given, Reward) and not isinstance(given, type):
        return given
    if isinstance(given, str | PathLike):
        text = fspath(given)
        if ":" in text:
            return FunctionReward(load_function(text))
        try:
            return RewardModel.load(text, name=Path(text).name)
        except InputError as error:
            raise InputError(f"rewards: no reward model: {str(error).removeprefix('model.path: ')}") from error
    if _with_tokenizer(given):
        return RewardModel.of(*given)
    return RewardModel.of(given) if isinstance(given, nn.Module) and hasattr(given, "config") else FunctionReward(given)


def _with_tokenizer(given: Any) -> bool:
    """Whether this is a pair of a reward model and its tokenizer."""
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], PreTrainedTokenizerBase)


def make_reward(section: RewardConfig, recipe: Recipe) -> Reward:
    """One reward of a recipe.

    Raises:
        InputError: if it cannot be made.
    """
    (source,) = (name for name in SOURCES if getattr(section, name) is not None)
    return SOURCES[source](getattr(section, source), section, recipe)


def make_rewards(recipe: Recipe) -> Mix:
    """The rewards of a recipe.

    Raises:
        InputError: if one cannot be made, or two have the same name.
    """
    weighted = [
        WeightedReward(make_reward(section, recipe), section.weight, section.normalise, section.constraint)
        for section in recipe.rewards
    ]
    names = [each.reward.name for each in weighted]
    if len(set(names)) < len(names):
        raise InputError(f"rewards: two are called {max(names, key=names.count)!r}; give them different names")
    return Mix(weighted)


def normalised(part: Tensor) -> Tensor:
    """R / sigma, (B, G): each group's rewards in units of their own deviation.

    sigma is the population deviation over the scored samples and the reference, whose R is 0. That is the
    standardised reward minus the reference's own, (R - mu) / sigma - (0 - mu) / sigma, so the reference stays at 0.
    A group without spread gives 0, and NaN stays NaN.

    Example: 1, 0, -1, -1 and the reference: sigma = 0.748331, hence 1.336306, 0, -1.336306, -1.336306.
    """
    return part / _deviation(part)


def _deviation(part: Tensor) -> Tensor:
    """Of each group, (B, 1); infinite where there is none, or none but rounding of numbers near 1."""
    group = torch.cat([part, torch.zeros_like(part[:, :1])], dim=1)  # (B, G + 1)
    deviation = spread(group, group)[1]
    return deviation.masked_fill(deviation <= rounding(torch.ones_like(deviation), torch.float64), torch.inf)


def constrained(total: Tensor, constraints: Sequence[Tensor]) -> Tensor:
    """The sums, with those of completions that lose by a constraint below all others of their group, (B, G).

    Let v = sum_k min(R_k, 0) over the constraints. Where v < 0 the constraint is broken, and

        total = min(total, floor + v),   floor = min(0, the least sum of a completion that breaks none):

    below the reference and below every completion that keeps the constraints, by the size of the violation, however
    much the other rewards gain. Among themselves such completions keep an order by size. The others stay as they are.

    Args:
        total: (B, G), NaN = missing.
        constraints: tensors (B, G); where one is NaN, the result is NaN.

    Example: sums 2, 1, -1, 3 under a constraint 0, -1, 1, -0.5: floor = -1, hence 2, -2, -1, -1.5.
    """
    violation = torch.stack([part.clamp(max=0.0) for part in constraints]).sum(dim=0)  # NaN where one is missing
    keeps = (violation == 0) & ~total.isnan()
    floor = total.masked_fill(~keeps, 0.0).amin(dim=1, keepdim=True).clamp(max=0.0)
    return torch.where(violation == 0, total, torch.minimum(total, floor + violation))
