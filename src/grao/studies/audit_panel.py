"""The rewards under audit: those of the recipe, their sum, and a second one to compare with. All read the same texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from grao.config import Recipe
from grao.config.reward import RewardConfig
from grao.evaluation.audit import Subject
from grao.evaluation.readings import Text, added, combined, read
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
        recipe: of the run.
        mix: its rewards.
        second: another reward and its section.
        tokenizer: the model's.
    """

    def __init__(
        self,
        recipe: Recipe,
        mix: Mix,
        second: tuple[Reward, RewardConfig] | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.mix, self._tokenizer = mix, tokenizer
        summed = len(mix.rewards) > 1 or recipe.rewards[0].weight <= 0
        role: Literal["part", "deciding"] = "part" if summed else "deciding"
        self.own = [
            Member(Subject(reward.name, _kind(config), role), reward, config)
            for reward, config in zip(mix.rewards, recipe.rewards, strict=True)
        ]
        self.sum = Subject(_SUM, "sum", "deciding") if summed else None
        self.second: Member | None = None
        if second:
            reward, config = second
            taken = reward.name in (one.name for one in mix.rewards)
            name = f"{reward.name} (second)" if taken else reward.name
            self.second = Member(Subject(name, _kind(config), "second"), reward, config)
        self.tallies = {member.subject.name: JudgeTally() for member in self.members}

    @property
    def members(self) -> list[Member]:
        """All that are asked."""
        return [*self.own, *([self.second] if self.second else [])]

    @property
    def subjects(self) -> list[Subject]:
        """All that have figures; what decides comes first."""
        return [*([self.sum] if self.sum else []), *(member.subject for member in self.members)]

    @property
    def deciding(self) -> Subject:
        """What training follows."""
        return self.sum or self.own[0].subject

    def ask(self, texts: Sequence[Text], advance: Advance = lambda done, total: None) -> list[dict[str, Reading]]:
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
        self.count(member.subject.name, tally)
        return readings

    def count(self, name: str, tally: JudgeTally) -> None:
        """Adds what questions to a judge took."""
        self.tallies[name] = added(self.tallies[name], tally)

    def count_all(self, tallies: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds what the mix's rewards counted in one call."""
        for name, tally in tallies.items():
            self.count(name, JudgeTally(**{field: tally[field] for field in vars(JudgeTally())}))


def _kind(config: RewardConfig) -> str:
    sources = {"judge": config.judge, "reward model": config.model, "rule": config.rule}
    return next((kind for kind, source in sources.items() if source), "function")
