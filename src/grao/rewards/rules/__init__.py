"""Rules as rewards: what can be said of an answer without a model. Their settings stand in `grao.config.rule`."""

from grao.rewards.rules.embedding import EmbeddingSimilarity
from grao.rewards.rules.reward import RULES, Rule, RuleReward

__all__ = ["RULES", "EmbeddingSimilarity", "Rule", "RuleReward"]
