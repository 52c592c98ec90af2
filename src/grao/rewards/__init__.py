"""Rewards: how much better than the reference an answer is. One protocol, any source."""

from grao.rewards.functions import FunctionReward, Relative, difference, load_function, verdict
from grao.rewards.mix import Mix, MixedRewards, as_mix
from grao.rewards.reward import Prompt, Reward, RewardBatch

__all__ = [
    "FunctionReward",
    "Mix",
    "MixedRewards",
    "Prompt",
    "Relative",
    "Reward",
    "RewardBatch",
    "as_mix",
    "difference",
    "load_function",
    "verdict",
]
