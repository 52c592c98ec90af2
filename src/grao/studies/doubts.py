"""Doubts about an evaluation that follow from its recipe.

    training-reward-only   all judging rewards are rewards that an evaluated model was trained on
    self-preference        a judge is of the same family as an evaluated model

Doubts that follow from the items are in `grao.evaluation.doubts`.
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
from grao.studies.settings import with_absolute_paths

_NO_FAMILY = {"", "model", "judge"}


def trained_on(recipe: Recipe, models: Iterable[str]) -> list[Doubt]:
    """Return a doubt if all rewards of a recipe are rewards that one of the models was trained on.

    Args:
        recipe: of the evaluation.
        models: paths and ids; for a run, its folder or the model in it.
    """
    sources = _sources(recipe)
    for path in models:
        run = run_of(path)
        if run and all(source in _sources(load_recipe(run / "recipe.yaml")) for source in sources):
            return [training_reward_only()]
    return []


def training_reward_only() -> Doubt:
    """Return the doubt about every run that is judged only by its own rewards."""
    return Doubt(
        "training-reward-only",
        "The training reward is the only judge, so the gain may only exploit its weaknesses. Use another judge for "
        "the same answers: grao evaluate --run RUN --rewards.0.judge.model NAME",
    )


def related_judges(recipe: Recipe, models: Iterable[str]) -> list[Doubt]:
    """Return doubts about judges that may prefer models of their own family."""
    sections = [section.judge for section in recipe.rewards if section.judge]
    judges = {judge.model or (judge.local.path if judge.local else "") for judge in sections}
    families = {_family(model): model for model in models}
    alike = [(judge, families[_family(judge)]) for judge in judges if _family(judge) in families.keys() - _NO_FAMILY]
    return [
        Doubt(
            "self-preference",
            f"The judge {portable(judge)} is of the same family as {portable(model)} and may prefer its answers.",
        )
        for judge, model in alike
    ]


def judge_words(recipe: Recipe) -> list[str]:
    """Return descriptions of the rewards that judge."""
    return [_description(section) for section in recipe.rewards]


def _description(section: RewardConfig) -> str:
    if judge := section.judge:
        name = judge.model or _last(judge.local.path if judge.local else "")
        return f"judge {name}, {portable(judge.criterion)} ({'both orders' if judge.orders == 'both' else 'one order'})"
    if section.model:
        return f"reward model {_last(section.model.path)}"
    return f"rule {section.rule.name}" if section.rule else f"function {_last(section.function or '')}"


def _last(path: str) -> str:
    """Return the last two parts of a path, or the last one of `file.py:function`."""
    parts = Path(path).parts
    return "/".join(parts[-1:] if ":" in path else parts[-2:])


def _sources(recipe: Recipe) -> list[tuple[object, ...]]:
    """Return the sources of all rewards, with absolute paths, wherever the recipe is stored."""
    nowhere = Path(os.devnull, "run")
    return [_source(section) for section in with_absolute_paths(replace(recipe, output=nowhere)).rewards]


def _source(section: RewardConfig) -> tuple[object, ...]:
    """Return the identity of a reward, regardless of its place in a sum and of how it is asked."""
    judge = section.judge and (section.judge.model, section.judge.local, section.judge.criterion, section.judge.domain)
    return section.function, judge, section.model and section.model.path, section.rule


def _family(model: str) -> str:
    """Return the first word of a model's name, such as `qwen` of `Qwen/Qwen2.5-7B-Instruct`; empty if it has none."""
    word = re.match("[a-z]+", model.rstrip("/").rpartition("/")[2].lower())
    return word[0] if word else ""
