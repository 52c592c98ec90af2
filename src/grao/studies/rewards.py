"""From the rewards of a recipe to objects."""

from collections.abc import Iterator

from grao.config import Recipe
from grao.config.reward import RewardConfig
from grao.config.reward_source import RewardModelConfig
from grao.config.rule import EmbeddingRule, RuleConfig
from grao.errors import InputError
from grao.models import load_tokenizer
from grao.models.loading import load_encoder, load_reward_model
from grao.rewards import (
    FunctionReward,
    Mix,
    Objective,
    Relative,
    Reward,
    RewardModel,
    RuleReward,
    difference,
    load_function,
    verdict,
)
from grao.rewards.judge import JudgeReward, PairwiseJudge
from grao.rewards.rules import EmbeddingSimilarity
from grao.studies.judges import make_judge
from grao.training.watch import Watch


def make_rewards(recipe: Recipe) -> Mix:
    """The rewards of a recipe.

    Raises:
        InputError: if one cannot be made, or two have the same name.
    """
    rewards = [make_reward(config, recipe) for config in recipe.rewards]
    names = [reward.name for reward in rewards]
    if len(set(names)) < len(names):
        raise InputError(f"rewards: two are called {max(names, key=names.count)!r}; give them different names")
    return Mix(
        [
            Objective(reward, config.weight, config.normalise, config.constraint)
            for reward, config in zip(rewards, recipe.rewards, strict=True)
        ]
    )


def make_watch(recipe: Recipe) -> Watch | None:
    """The second reward of a recipe.

    Raises:
        InputError: if it cannot be made.
    """
    config = recipe.watch
    if config is None:
        return None
    second = Objective(make_reward(config.reward, recipe))
    return Watch(Mix([second]), config.every, config.prompts, config.stop)


def judges(rewards: Mix) -> Iterator[PairwiseJudge]:
    """Those among the rewards."""
    return (reward.judge for reward in rewards.rewards if isinstance(reward, JudgeReward))


def make_reward(config: RewardConfig, recipe: Recipe) -> Reward:
    """One reward of a recipe.

    Raises:
        InputError: if it cannot be made.
    """
    if config.judge:
        judge, name = make_judge(config.judge, recipe)
        return JudgeReward(judge, config.name or name)
    relative = verdict(config.tie_band) if config.relative == "sign" else difference
    if config.model:
        return _reward_model(config.model, relative, config.name or "model")
    if config.rule:
        return _rule(config.rule, relative, config.name or config.rule.name)
    return FunctionReward(load_function(config.function or ""), relative, config.name)


def _reward_model(config: RewardModelConfig, relative: Relative, name: str) -> Reward:
    model, tokenizer = load_reward_model(config.path, config.dtype), load_tokenizer(config.path)
    return RewardModel(model, tokenizer, relative, name, config.token_budget)


def _rule(config: RuleConfig, relative: Relative, name: str) -> Reward:
    if isinstance(config.settings, EmbeddingRule):
        path = config.settings.model
        return EmbeddingSimilarity(load_encoder(path), load_tokenizer(path), relative, name)
    return RuleReward(config.settings, relative, name)
