"""From the judge of a recipe to an object, and what it will cost."""

import os
from collections.abc import Sequence
from pathlib import Path

from grao.config import Recipe
from grao.config.judge import JudgeConfig
from grao.config.reward import RewardConfig
from grao.data import Encoded
from grao.errors import InputError
from grao.models import load_model, load_tokenizer
from grao.records.audit import JudgeForecast
from grao.rewards import Mix, Reward
from grao.rewards.judge import (
    Endpoint,
    JudgeReward,
    Ledger,
    LocalJudge,
    Pair,
    PairwiseJudge,
    Prices,
    ServerJudge,
    load_template,
)
from grao.training.watch import Watch

_OPENAI = "https://api.openai.com/v1"
_SAMPLED = 200
"""Prompts that an estimate is made from."""


def make_judge(config: JudgeConfig, recipe: Recipe) -> tuple[PairwiseJudge, str]:
    """The judge and its criterion's name.

    Raises:
        InputError: if criterion, key or local model are not there.
    """
    template = load_template(config.criterion, config.domain)
    if config.local:
        model, tokenizer = load_model(config.local.path, config.local.dtype), load_tokenizer(config.local.path)
        margin, batch_size = config.local.tie_margin, config.local.batch_size
        local = LocalJudge(model, tokenizer, template, config.orders, recipe.seed, margin, batch_size)
        return local, template.name
    ledger = Ledger(ledger_path(config, recipe.output), run=str(recipe.output.absolute()))
    endpoint = _endpoint(config)
    server = ServerJudge(endpoint, template, ledger, config.orders, recipe.seed, config.replay, config.max_cost)
    return server, template.name


def ledger_path(judge: JudgeConfig, output: Path) -> Path:
    """The ledger of a judge; by default one for all runs in the same place."""
    return judge.ledger or output.absolute().parent / "judge-ledger.sqlite"


def judge_forecasts(
    recipe: Recipe,
    rewards: Mix,
    watch: Watch | None,
    train: Sequence[Encoded],
    steps: int,
    held_out: int,
    processes: int = 1,
) -> list[JudgeForecast]:
    """What a run will ask of each judge on a server and pay at most, if nothing is known already.

    The evaluation judges three pairs a prompt: before and after training against the reference, and after against
    before. A watch looks at the first step, and at every n-th from there.
    """
    size, samples = recipe.training.prompts_per_step, recipe.rollout.group_size
    found = [
        judge_forecast(reward, config, train, steps * size * samples + 3 * held_out)
        for reward, config in zip(rewards.rewards, recipe.rewards, strict=True)
    ]
    if watch and recipe.watch:
        looks, groups = (steps - 1) // watch.every + 1, min(watch.prompts * processes, size)
        (second,), config = watch.reward.rewards, recipe.watch.reward
        found.append(judge_forecast(second, config, train, looks * groups * samples, " (watch)"))
    return [one for one in found if one]


def judge_forecast(
    reward: Reward, config: RewardConfig, train: Sequence[Encoded], comparisons: int, remark: str = ""
) -> JudgeForecast | None:
    """What a number of comparisons will ask of one judge at most, None of what is no judge on a server or a replay.

    Answers are taken to be as long as the references.

    Args:
        reward: of any kind.
        config: its section.
        train: prompts and references to judge the length of the questions by, at least one.
        comparisons: pairs to be judged.
        remark: behind the judge's name.
    """
    judge = reward.judge if isinstance(reward, JudgeReward) else None
    if not isinstance(judge, ServerJudge) or config.judge is None or config.judge.replay:
        return None
    pairs = [Pair(item.example.prompt, item.reference_text, item.reference_text) for item in train[:_SAMPLED]]
    expected = judge.estimate(pairs, comparisons)
    tokens = expected.input_tokens + expected.output_tokens
    cap, model = config.judge.max_cost, judge.endpoint.model
    return JudgeForecast(reward.name + remark, expected.questions, tokens, expected.cost, cap, model)


def words(forecast: JudgeForecast) -> str:
    """In a line."""
    cost = f", about {forecast.cost:,.2f}" if forecast.cost else ""
    return (
        f"judge {forecast.name}: up to {forecast.questions:,} questions, {forecast.tokens / 1e6:,.1f} million "
        f"tokens{cost}"
    )


def _endpoint(config: JudgeConfig) -> Endpoint:
    settings = {"temperature": config.temperature, "max_tokens": config.max_tokens}
    return Endpoint(
        model=config.model or "",
        base_url=config.base_url or _OPENAI,
        key=None if config.replay else _key(config.api_key_env),
        settings={name: value for name, value in settings.items() if value is not None} | config.extra,
        prices=Prices(config.price_input or 0.0, config.price_output or 0.0),
        concurrency=config.concurrency,
        rate_limit=config.rate_limit,
        timeout=config.timeout,
        retries=config.retries,
        patience=config.patience,
    )


def _key(name: str | None) -> str | None:
    """From the environment.

    Raises:
        InputError: if there is none, or it can be none. The message holds its name only.
    """
    key = os.environ.get(name, "").strip() if name else None
    if key == "":
        raise InputError(
            f"judge: the environment variable {name} holds no key; set it, or api_key_env: null for a server without"
        )
    if key and not (key.isascii() and key.isprintable()):
        raise InputError(f"judge: what the environment variable {name} holds is no key: it has unprintable characters")
    return key
