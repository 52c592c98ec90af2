"""A pairwise judge as a reward: R(o, y) is its verdict on the completion against the reference."""

from collections.abc import Mapping

import torch
from torch import Tensor

from grao.config.recipe import Recipe
from grao.config.rewards import JudgeConfig, RewardConfig
from grao.rewards.base import RewardBatch
from grao.rewards.judge.base import EarlyJudge, JudgedPair, Pair, PairwiseJudge
from grao.rewards.judge.local import LocalJudge
from grao.rewards.judge.server import ServerJudge
from grao.rewards.judge.wording import load_template


class JudgeReward:
    """R(o, y) in {1, 0, -1} (paper, section 4), NaN where the verdict is missing.

    A completion that equals its reference is a tie; the judge is not asked.

    Args:
        judge: on a server or in this process.
        name: for logs; by default the judge's.
    """

    def __init__(self, judge: PairwiseJudge, name: str | None = None) -> None:
        self.judge, self.name = judge, name or judge.name
        self._tally: dict[str, Tensor | float] = {}
        self.last: dict[tuple[int, int], JudgedPair] = {}
        """{(group, member): verdicts} of the last `relative`, without pairs that were not asked."""

    @classmethod
    def from_section(cls, config: JudgeConfig, section: RewardConfig, recipe: Recipe) -> "JudgeReward":
        """See `grao.rewards.mix.SOURCES`; the name defaults to the criterion's."""
        template = load_template(config.criterion, config.domain)
        name = section.name or template.name
        if config.local:
            return cls(LocalJudge.from_section(config.local, template, config.orders, recipe.seed), name)
        return cls(ServerJudge.from_section(config, template, recipe), name)

    def begin(self, batch: RewardBatch) -> None:
        """See `EarlyReward.begin`; does nothing for a local judge."""
        if isinstance(self.judge, EarlyJudge):
            self.judge.begin(list(_pairs(batch).values()))

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        rewards = torch.zeros(len(batch.prompts), len(batch.completions[0]), dtype=torch.float64)
        flips = torch.full_like(rewards, torch.nan)
        pairs = _pairs(batch)
        self.last = dict(zip(pairs, self.judge.compare(list(pairs.values())), strict=True))
        for cell, judged in self.last.items():
            rewards[cell] = judged.value
            if judged.a_first and judged.b_first:
                flips[cell] = judged.flipped
        self._tally = {"flip": flips, "missing": rewards.isnan().double(), **vars(self.judge.tally)}
        return rewards

    def questions(self, batch: RewardBatch) -> int:
        """Return the number of questions to a server about a batch, if no answers are known; 0 for a local judge."""
        return self.judge.count([*_pairs(batch).values()]) if isinstance(self.judge, ServerJudge) else 0

    def tally(self) -> Mapping[str, Tensor | float]:
        """See `CountedReward.tally`: flips and missing verdicts, and the counts of `JudgeTally`."""
        return self._tally


def _pairs(batch: RewardBatch) -> dict[tuple[int, int], Pair]:
    """Return {(group, member): pair to judge}."""
    return {
        (group, member): Pair(batch.prompts[group], completion, batch.references[group])
        for group, completions in enumerate(batch.completions)
        for member, completion in enumerate(completions)
        if completion.strip() != batch.references[group].strip()
    }
