"""What speaks against believing an evaluation, as the recipes tell it.

    training-reward-only   every reward that judges is one that a judged model was trained on
    self-preference        a judge is of the family of a judged model

What the items tell is in `grao.evaluation.doubts`.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from grao.config.load import load_recipe
from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig
from grao.records.run import Doubt
from grao.reports.reproduce import portable
from grao.studies.likelihood import run_of
from grao.studies.settings import anchored

_NO_FAMILY = {"", "model", "judge"}


def trained_on(recipe: Recipe, models: Iterable[str]) -> list[Doubt]:
    """Whether the rewards of a recipe are all among those of the runs that models come from.

    Args:
        recipe: of the evaluation.
        models: paths and ids; of a run, its folder or the model in it.
    """
    judging = _sources(recipe)
    for path in models:
        run = run_of(path)
        if run and all(each in _sources(load_recipe(run / "recipe.yaml")) for each in judging):
            return [training_reward_only()]
    return []


def training_reward_only() -> Doubt:
    """Of every run that is judged by its own rewards alone."""
    return Doubt(
        "training-reward-only",
        "The reward that was trained on is the only judge, so a gain may be no more than its weak spots. Let another "
        "judge the same answers: grao evaluate --run RUN --rewards.0.judge.model NAME",
    )


def related_judges(recipe: Recipe, models: Iterable[str]) -> list[Doubt]:
    """Judges that may side with their own kind."""
    named = [section.judge for section in recipe.rewards if section.judge]
    judges = {judge.model or (judge.local.path if judge.local else "") for judge in named}
    families = {_family(model): model for model in models}
    alike = [(judge, families[_family(judge)]) for judge in judges if _family(judge) in families.keys() - _NO_FAMILY]
    return [
        Doubt(
            "self-preference",
            f"The judge {portable(judge)} is of the family of {portable(model)}: it may prefer its own kind.",
        )
        for judge, model in alike
    ]


def judge_words(recipe: Recipe) -> list[str]:
    """Who judges, in words."""
    return [_named(section) for section in recipe.rewards]


def _named(section: RewardConfig) -> str:
    if judge := section.judge:
        name = judge.model or _last(judge.local.path if judge.local else "")
        return f"judge {name}, {portable(judge.criterion)} ({'both orders' if judge.orders == 'both' else 'one order'})"
    if section.model:
        return f"reward model {_last(section.model.path)}"
    return f"rule {section.rule.name}" if section.rule else f"function {_last(section.function or '')}"


def _last(path: str) -> str:
    """The last two parts of a path, or its last one where that is a file."""
    parts = Path(path).parts
    return "/".join(parts[-1:] if ":" in path else parts[-2:])


def _sources(recipe: Recipe) -> list[tuple[object, ...]]:
    """Of all rewards, with absolute paths, wherever the recipe is kept."""
    nowhere = Path(os.devnull, "run")
    return [_source(section) for section in anchored(replace(recipe, output=nowhere)).rewards]


def _source(section: RewardConfig) -> tuple[object, ...]:
    """What makes two rewards the same one, wherever they lie in a sum and however they are asked."""
    judge = section.judge and (section.judge.model, section.judge.local, section.judge.criterion, section.judge.domain)
    return section.function, judge, section.model and section.model.path, section.rule


def _family(model: str) -> str:
    """The first word of a model's name, such as `qwen` of `Qwen/Qwen2.5-7B-Instruct`; empty of other names."""
    found = re.match("[a-z]+", model.rstrip("/").rpartition("/")[2].lower())
    return found[0] if found else ""
