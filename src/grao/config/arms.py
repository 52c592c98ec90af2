"""From a study to its arms: one checked recipe each, before anything is loaded.

Settings are pairs of a dotted field and YAML text, as options of the command line are; later ones win:

    the embedded world, or the recipe file  <  base  <  the arm's own  <  the budget

An arm may also change the study's own sections `sandbox` and `noise`: another model, errors in its rewards.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from grao.config.basics import PositiveFloat
from grao.config.parse import load_recipe
from grao.config.recipe import Recipe
from grao.config.strict_yaml import read_yaml, write_inline
from grao.config.study import NoiseConfig, SandboxConfig, Study
from grao.config.sweep import Spot, dotted, spots
from grao.errors import InputError

Settings = tuple[tuple[str, str], ...]
Worlds = Callable[[SandboxConfig], Settings]
"""Where an embedded world lies."""

Section = TypeVar("Section", SandboxConfig, NoiseConfig)

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

_ENDLESS = 10_000_000
"""Steps of a run that ends by the clock."""
_NAME = re.compile(r"\w[\w.,+=-]*")
_RATES = TypeAdapter(tuple[PositiveFloat, ...])


@dataclass(frozen=True)
class Arm:
    """One side of the comparison, in a sweep at one point."""

    name: str
    spot: Spot
    recipe: Recipe
    """With the steps that the budget allows; seed, learning rate and output are set for each run."""
    learning_rates: tuple[float, ...]
    """Candidates, at least one; a single one is not selected but taken."""
    world: SandboxConfig | None
    """The embedded world, if it plays there."""
    noise: NoiseConfig


def not_built(world: SandboxConfig) -> Settings:
    """Stands for a world that is not built yet."""
    return ("model.path", "sandbox"), ("data.path", "sandbox")


def study_arms(study: Study, worlds: Worlds = not_built) -> list[Arm]:
    """The arms in their order.

    Args:
        study: the study.
        worlds: builds or finds an embedded world, if the study plays there.

    Raises:
        InputError: naming the arm, or `base`, and the field.
    """
    method = _checked(study, _shared(study, study.sandbox, not_built), "base").method.name
    return [_arm(study, worlds, method, spot) for spot in spots(study)]


def _shared(study: Study, world: SandboxConfig | None, worlds: Worlds) -> Settings:
    """What comes before an arm's own settings."""
    built = (*worlds(world), *SANDBOX) if world else ()
    return (*built, *flat(study.base), ("output", write_inline(str(study.output))))


def method_names() -> set[str]:
    """Every method that a recipe knows."""
    kinds = get_type_hints(Recipe)["method"]
    return {name for kind in get_args(kinds) or (kinds,) for name in get_args(get_type_hints(kind)["name"])}


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Nested values as dotted fields and YAML text; lists stay whole.

    Example: `{"method": {"beta": 0.2}, "model.lora": None}` gives `("method.beta", "0.2")`, `("model.lora", "null")`.
    """
    for name, value in dotted(values):
        yield name, write_inline(value)


def _arm(study: Study, worlds: Worlds, method: str, spot: Spot) -> Arm:
    name, fields = spot.name(list(study.over)), dict(spot.fields)
    if not _NAME.fullmatch(name):
        raise InputError(f"arms: {name!r} cannot be a name; use letters, digits and . , + = - _")
    rates = _rates(name, fields.pop("learning_rates", list(study.learning_rates)))
    if rates and "training.learning_rate" in fields:
        raise InputError(f"arms.{name}: training.learning_rate and learning_rates are both given; leave one out")
    settings = tuple(flat(fields))
    if not study.sandbox and any(key.startswith("sandbox.") for key, _ in settings):
        raise InputError(f"arms.{name}: sandbox: the study does not play there; give it a section sandbox")
    world = _section(study.sandbox, "sandbox.", settings, name) if study.sandbox else None
    noise = _section(study.noise, "noise.", settings, name)
    rest = tuple((key, text) for key, text in settings if not key.startswith(("sandbox.", "noise.")))
    recipe = _checked(study, (*_shared(study, world, worlds), *_own(spot.arm, rest, method)), f"arms.{name}")
    if noise.references and not recipe.data.rejected and recipe.data.format == "columns":
        raise InputError(
            f"arms.{name}: noise.references exchanges references with rejected answers; give data.rejected"
        )
    recipe = replace(
        recipe,
        training=replace(recipe.training, steps=_steps(study, recipe, name), save_every=None),
        evaluation=replace(recipe.evaluation, enabled=True),
    )
    return Arm(name, spot, recipe, rates or (recipe.training.learning_rate,), world, noise)


def _section(shared: Section, prefix: str, settings: Settings, arm: str) -> Section:
    """A section of the study as an arm has it."""
    own = {key.removeprefix(prefix): read_yaml(text).value for key, text in settings if key.startswith(prefix)}
    kind: type[Section] = type(shared)
    try:
        return TypeAdapter(kind).validate_python({**asdict(shared), **own})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"arms.{arm}: {prefix}{'.'.join(map(str, first['loc'][:1]))}: {first['msg']}") from error


def _own(name: str, settings: Settings, method: str) -> Settings:
    """The arm's settings. Another method than the shared one brings its whole section, for no field would fit."""
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
