"""A judge as a reward: what it is asked, what becomes of its verdicts, what is counted."""

import math
from collections.abc import Sequence

import pytest
import torch

from grao.core import group_advantages
from grao.rewards.base import RewardBatch
from grao.rewards.judge.base import JudgedPair, JudgeTally, Pair, PairwiseJudge, combine, orders_of
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.wording import PairVerdict
from grao.rewards.mix import Mix

BATCH = RewardBatch(
    prompts=["p", [{"role": "user", "content": "q"}]],
    completions=[["long enough", "same", "x"], ["?", "yyyy", " same "]],
    references=["same", "same"],
    columns=[{}, {}],
    completion_ids=[[(1,)] * 3] * 2,
    reference_ids=[(1,)] * 2,
)


class LengthJudge:
    """The longer text is better; `?` cannot be judged; it falls for the first place where lengths are equal."""

    name = "length"
    tally = JudgeTally(requests=10, cached=2, unreadable=1, failed=1, cost=0.5)

    def __init__(self) -> None:
        self.asked: list[Pair] = []

    def compare(self, pairs: Sequence[Pair]) -> list[JudgedPair]:
        self.asked += pairs
        return [self._one(pair) for pair in pairs]

    def check(self) -> None:
        pass

    def _one(self, pair: Pair) -> JudgedPair:
        shown = orders_of(pair, "both", 0)
        return combine(shown, [self._verdict(*one.texts) for one in shown])

    def _verdict(self, text_1: str, text_2: str) -> PairVerdict | None:
        if "?" in (text_1, text_2):
            return None
        return PairVerdict.FIRST if len(text_1) >= len(text_2) else PairVerdict.SECOND


def test_the_reward_is_the_verdict_and_missing_is_never_a_tie():
    judge = LengthJudge()
    assert isinstance(judge, PairwiseJudge)
    rewards = JudgeReward(judge).relative(BATCH)
    assert rewards.dtype is torch.float64
    assert rewards[0].tolist() == [1.0, 0.0, -1.0]
    assert rewards[1, 0].isnan()
    assert rewards[1, 1:].tolist() == [0.0, 0.0]  # a flip, and the reference itself


def test_a_text_that_is_the_reference_is_not_asked_about():
    judge = LengthJudge()
    JudgeReward(judge).relative(BATCH)
    assert judge.asked == [
        Pair("p", "long enough", "same"),
        Pair("p", "x", "same"),
        Pair(BATCH.prompts[1], "?", "same"),
        Pair(BATCH.prompts[1], "yyyy", "same"),
    ]


def test_what_is_counted_reaches_the_mix():
    mixed = Mix([JudgeReward(LengthJudge(), "mine")])(BATCH)
    tally = mixed.tallies["mine"]
    assert tally["flip"].tolist()[0] == pytest.approx([0.0, math.nan, 0.0], nan_ok=True)
    assert tally["flip"].tolist()[1] == pytest.approx([math.nan, 1.0, math.nan], nan_ok=True)
    assert tally["missing"].tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert {name: tally[name] for name in ("requests", "cached", "unreadable", "failed", "cost")} == {
        "requests": 10, "cached": 2, "unreadable": 1, "failed": 1, "cost": 0.5,
    }  # fmt: skip
    assert Mix([JudgeReward(LengthJudge())]).rewards[0].name == "length"


def test_advantages_are_computed_from_the_verdicts_that_are_there():
    """Verdicts 1, -1 and the reference's 0 beside a missing one: mean 0, deviation sqrt(2/3)."""
    batch = RewardBatch(["p"], [["long enough", "?", "x"]], ["same"], [{}], [[(1,)] * 3], [(1,)])
    rewards = JudgeReward(LengthJudge()).relative(batch)
    found = group_advantages(rewards, torch.zeros(1, dtype=torch.float64))
    deviation = math.sqrt(2 / 3)
    assert found.completions[0].tolist() == pytest.approx([1 / deviation, math.nan, -1 / deviation], nan_ok=True)
    assert found.reference.tolist() == pytest.approx([0.0])
