"""Rewards: how much better than the reference an answer is. One protocol, any source."""

from grao.rewards.functions import FunctionReward, Relative, difference, load_function, verdict
from grao.rewards.mix import Mix, MixedRewards, Objective, as_mix
from grao.rewards.model import RewardModel
from grao.rewards.reward import Prompt, Reward, RewardBatch
from grao.rewards.rules import EmbeddingSimilarity, RuleReward

__all__ = [
    "EmbeddingSimilarity",
    "FunctionReward",
    "Mix",
    "MixedRewards",
    "Objective",
    "Prompt",
    "Relative",
    "Reward",
    "RewardBatch",
    "RewardModel",
    "RuleReward",
    "as_mix",
    "difference",
    "load_function",
    "verdict",
]
