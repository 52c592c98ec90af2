"""A pairwise judge as a reward: R(o, y) is its verdict on the completion against the reference."""

from collections.abc import Mapping

import torch
from torch import Tensor

from grao.rewards.judge.comparison import EarlyJudge, Pair, PairwiseJudge
from grao.rewards.reward import RewardBatch


class JudgeReward:
    """R(o, y) in {1, 0, -1} (paper, section 4), NaN where the verdict is missing.

    A completion that equals its reference is a tie, and the judge is not asked.

    Args:
        judge: on a server or here.
        name: for logs; by default the judge's.
    """

    def __init__(self, judge: PairwiseJudge, name: str | None = None) -> None:
        self.judge = judge
        self._name = name or judge.name
        self._tally: dict[str, Tensor | float] = {}

    @property
    def name(self) -> str:
        """Short name for logs."""
        return self._name

    def begin(self, batch: RewardBatch) -> None:
        """See `Early.begin`; of use with a judge on a server."""
        if isinstance(self.judge, EarlyJudge):
            self.judge.begin(list(_pairs(batch).values()))

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        rewards = torch.zeros(len(batch.prompts), len(batch.completions[0]), dtype=torch.float64)
        flips = torch.full_like(rewards, torch.nan)
        pairs = _pairs(batch)
        for place, found in zip(pairs, self.judge.compare(list(pairs.values())), strict=True):
            rewards[place] = found.value
            if found.a_first and found.b_first:
                flips[place] = found.flipped
        took = self.judge.tally
        self._tally = {"flip": flips, "missing": rewards.isnan().double(), **vars(took)}
        return rewards

    def tally(self) -> Mapping[str, Tensor | float]:
        """See `Counted.tally`: shares of flips and of missing verdicts, and what `JudgeTally` counts."""
        return self._tally


def _pairs(batch: RewardBatch) -> dict[tuple[int, int], Pair]:
    """What has to be asked, by (group, member)."""
    return {
        (group, member): Pair(batch.prompts[group], completion, batch.references[group])
        for group, completions in enumerate(batch.completions)
        for member, completion in enumerate(completions)
        if completion.strip() != batch.references[group].strip()
    }
