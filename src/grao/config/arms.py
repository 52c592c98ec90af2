"""From a study to its arms: one checked recipe each, before anything is loaded.

Settings are pairs of a dotted field and YAML text, as options of the command line are; later ones win:

    the embedded world, or the recipe file  <  base  <  the arm's own  <  the budget
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from grao.config.basics import PositiveFloat
from grao.config.parse import load_recipe
from grao.config.recipe import Recipe
from grao.config.strict_yaml import write_inline
from grao.config.study import Study
from grao.errors import InputError

Settings = tuple[tuple[str, str], ...]

SANDBOX: Settings = (
    ("data.rejected", "rejected"),
    ("rewards.0.function", "grao.sandbox.judge:gold"),
    ("rewards.0.relative", "sign"),
    ("rollout.max_new_tokens", "40"),
    ("rollout.batch_size", "256"),
    ("training.prompts_per_step", "32"),
    ("training.learning_rate", "5e-4"),
)
"""What differs from the paper in the embedded world: a tiny model learns in larger and smaller steps."""

_NOWHERE: Settings = (("model.path", "sandbox"), ("data.path", "sandbox"))
"""Stands for a world that is not built yet."""
_ENDLESS = 10_000_000
"""Steps of a run that ends by the clock."""
_NAME = re.compile(r"\w[\w.,+=-]*")
_RATES = TypeAdapter(tuple[PositiveFloat, ...])


@dataclass(frozen=True)
class Arm:
    """One side of the comparison."""

    name: str
    recipe: Recipe
    """With the steps that the budget allows; seed, learning rate and output are set for each run."""
    learning_rates: tuple[float, ...]
    """Candidates, at least one; a single one is not selected but taken."""


def study_arms(study: Study, world: Settings = _NOWHERE) -> list[Arm]:
    """The arms in their order.

    Args:
        study: the study.
        world: where the embedded world lies, if the study plays there.

    Raises:
        InputError: naming the arm, or `base`, and the field.
    """
    shared = (*world, *SANDBOX) if study.sandbox else ()
    shared = (*shared, *flat(study.base), ("output", write_inline(str(study.output))))
    base = _checked(study, shared, "base")
    return [_arm(study, base, shared, name, dict(fields)) for name, fields in study.arms.items()]


def method_names() -> set[str]:
    """Every method that a recipe knows."""
    kinds = get_type_hints(Recipe)["method"]
    return {name for kind in get_args(kinds) or (kinds,) for name in get_args(get_type_hints(kind)["name"])}


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as dotted fields and YAML text; lists stay whole.

    Example: `{"method": {"beta": 0.2}, "model.lora": None}` gives `("method.beta", "0.2")`, `("model.lora", "null")`.
    """
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", write_inline(value)


def _arm(study: Study, base: Recipe, shared: Settings, name: str, fields: dict[str, Any]) -> Arm:
    if not _NAME.fullmatch(name):
        raise InputError(f"arms: {name!r} cannot be a name; use letters, digits and . , + = - _")
    rates = _rates(name, fields.pop("learning_rates", list(study.learning_rates)))
    recipe = _checked(study, (*shared, *_own(name, fields, base.method.name)), f"arms.{name}")
    recipe = replace(
        recipe,
        training=replace(recipe.training, steps=_steps(study, recipe, name), save_every=None),
        evaluation=replace(recipe.evaluation, enabled=True),
    )
    return Arm(name, recipe, rates or (recipe.training.learning_rate,))


def _own(name: str, fields: Mapping[str, Any], method: str) -> Settings:
    """The arm's settings. Another method than the shared one brings its whole section, for no field would fit."""
    settings = tuple(flat(fields))
    chosen = dict(settings).get("method.name") or (name if name in method_names() else method)
    if chosen == method:
        return settings
    section = [f"{key.removeprefix('method.')}: {text}" for key, text in settings if key.startswith("method.")]
    named = [f"name: {chosen}", *(part for part in section if not part.startswith("name: "))]
    return (
        ("method", f"{{{', '.join(named)}}}"),
        *((key, text) for key, text in settings if not key.startswith("method.")),
    )


def _rates(name: str, given: Any) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(_RATES.validate_python(given)))
    except ValidationError as error:
        raise InputError(f"arms.{name}: learning_rates must be a list of numbers above 0") from error


def _steps(study: Study, recipe: Recipe, name: str) -> int:
    """Optimiser steps within the budget."""
    if study.budget.steps:
        return study.budget.steps
    if study.budget.samples:
        return max(1, math.ceil(study.budget.samples / (recipe.training.prompts_per_step * recipe.rollout.group_size)))
    if recipe.training.schedule != "constant":
        raise InputError(
            f"arms.{name}: training.schedule must be constant where the budget is in seconds, for the number of steps "
            "is not known"
        )
    return _ENDLESS


def _checked(study: Study, settings: Settings, place: str) -> Recipe:
    """The recipe, its mistakes told as those of a study and not of options."""
    try:
        return load_recipe(study.recipe, settings)
    except InputError as error:
        raise InputError(f"{place}: {re.sub(r'--(?=[a-z])', '', str(error))}") from error
