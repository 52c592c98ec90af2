"""The rewards under audit, those of the recipe, their sum and a second one to compare with: all read the same texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from grao.config.reward import RewardConfig
from grao.evaluation.audit.figures import Subject
from grao.evaluation.audit.readings import Text, added, combined, read
from grao.records.audit import Reading
from grao.rewards import Mix, Reward
from grao.rewards.judge import JudgeTally
from grao.studies.screen import Advance

_AT_ONCE = 128
"""Texts between two signs of progress."""
_SUM = "sum of the rewards"


@dataclass(frozen=True)
class Member:
    """One reward that is asked."""

    subject: Subject
    reward: Reward
    config: RewardConfig

    @property
    def logistic(self) -> bool:
        """Whether its R is a difference of scores that may be read as Bradley and Terry's."""
        scores = self.config.model is not None or self.config.function is not None
        return scores and self.config.relative == "difference"


class Panel:
    """Asks all rewards, and counts what their questions took.

    Args:
        mix: the rewards of the run.
        configs: their sections.
        second: another reward and its section.
        tokenizer: the model's.
    """

    def __init__(
        self,
        mix: Mix,
        configs: Sequence[RewardConfig],
        second: tuple[Reward, RewardConfig] | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.mix, self._tokenizer = mix, tokenizer
        summed = len(mix.rewards) > 1 or mix.objectives[0].weight <= 0
        role: Literal["part", "deciding"] = "part" if summed else "deciding"
        self.own = [
            Member(Subject(reward.name, _kind(config), role), reward, config)
            for reward, config in zip(mix.rewards, configs, strict=True)
        ]
        self.sum = Subject(_SUM, "sum", "deciding") if summed else None
        self.second = _second(*second, taken=[reward.name for reward in mix.rewards]) if second else None
        self.tallies = {member.subject.name: JudgeTally() for member in self.members}

    @property
    def members(self) -> list[Member]:
        """All that are asked."""
        return [*self.own, *([self.second] if self.second else [])]

    @property
    def subjects(self) -> list[Subject]:
        """All that have figures; what decides comes first."""
        return [*([self.sum] if self.sum else []), *(member.subject for member in self.members)]

    def ask(self, texts: Sequence[Text], advance: Advance) -> list[dict[str, Reading]]:
        """What every reward, and their sum, says of each text, by name.

        Raises:
            InputError, RewardUnavailableError: as `Reward.relative`.
        """
        found: list[dict[str, Reading]] = []
        for start in range(0, len(texts), _AT_ONCE):
            chunk = texts[start : start + _AT_ONCE]
            said = {member.subject.name: self.ask_one(member, chunk) for member in self.members}
            if self.sum:
                said[self.sum.name] = combined(self.mix, [said[member.subject.name] for member in self.own])
            found += [dict(zip(said, readings, strict=True)) for readings in zip(*said.values(), strict=True)]
            advance(len(found), len(texts))
        return found

    def ask_one(self, member: Member, texts: Sequence[Text]) -> list[Reading]:
        """What one reward says of each text."""
        readings, tally = read(member.reward, texts, self._tokenizer, member.logistic)
        self._count(member.subject.name, tally)
        return readings

    def count_all(self, tallies: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds what the rewards of the mix counted in one call (`MixedRewards.tallies`)."""
        for name, tally in tallies.items():
            self._count(name, JudgeTally(**{field.name: tally[field.name] for field in fields(JudgeTally)}))

    def questions(self) -> tuple[int, int]:
        """So far to all judges: those whose answers were known, and all."""
        known = sum(tally.cached for tally in self.tallies.values())
        return known, known + sum(tally.requests for tally in self.tallies.values())

    def _count(self, name: str, tally: JudgeTally) -> None:
        self.tallies[name] = added(self.tallies[name], tally)


def _second(reward: Reward, config: RewardConfig, taken: Sequence[str]) -> Member:
    name = f"{reward.name} (second)" if reward.name in taken else reward.name
    return Member(Subject(name, _kind(config), "second"), reward, config)


def _kind(config: RewardConfig) -> str:
    sources = {"judge": config.judge, "reward model": config.model, "rule": config.rule}
    return next((kind for kind, source in sources.items() if source), "function")
