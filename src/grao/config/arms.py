"""Expand a study into its arms, at every point of its axes: one validated recipe each, before anything is loaded.

Settings are pairs of dotted field and value. Later sources take precedence:

    sandbox or recipe file  <  base  <  the arm's fields and those of its point  <  the budget

An arm may also change the sections `sandbox` and `noise` of the study. Each arm runs once, or at every point of one or
two axes:

    over:
      method.beta: [0, 0.25, 0.5]                     a field with its values
      group:                                          or a name with labelled points, each a set of fields
        "2": {rollout.group_size: 2, method.beta: 1.0}
        "8": {rollout.group_size: 8, method.beta: 0.5}
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from grao.config.load import load_recipe
from grao.config.recipe import Recipe
from grao.config.strict_yaml import write_inline
from grao.config.study import Axis, NoiseConfig, SandboxConfig, Study
from grao.errors import InputError
from grao.settings import PositiveFloat

Section = TypeVar("Section", SandboxConfig, NoiseConfig)

SANDBOX: dict[str, Any] = {
    "data.rejected": "rejected",
    "rewards.0.function": "grao.sandbox.judge:gold",
    "rewards.0.relative": "sign",
    "rollout.max_new_tokens": 40,
    "rollout.batch_size": 256,
    "training.prompts_per_step": 32,
    "training.learning_rate": 5e-4,
}
"""Settings of the sandbox that differ from the defaults: reward, fewer prompts a step, a larger learning rate, ..."""

_UNBUILT = {name: f"<sandbox {name}>" for name in ("model.path", "data.path", "data.test_path")}
"""Placeholders for the files of a sandbox, replaced by `with_world`."""
_ENDLESS = 10_000_000
"""Steps of a run that its budget of seconds or work ends."""
_NAME = re.compile(r"\w[\w.,+=-]*")
_LABEL = re.compile(r"[\w.+-]+")
"""Valid labels: they are part of run names and file names."""
_LONGEST_NAME = 180
"""Maximum length in bytes; learning rate, seed and file suffix are appended."""
_RATES = TypeAdapter(tuple[PositiveFloat, ...])


@dataclass(frozen=True)
class Spot:
    """An arm at one point of the axes."""

    arm: str
    """Name of the arm in the study."""
    point: tuple[str, ...]
    """One label per axis; empty in a study without axes."""
    fields: dict[str, Any]
    """Dotted field -> value, for the settings of this arm and point."""

    def name(self, axes: Iterable[str]) -> str:
        """Return `grpo+beta=0.25`, or just the arm's name in a study without axes."""
        labels = ",".join(f"{last_part(axis)}={label}" for axis, label in zip(axes, self.point, strict=True))
        return f"{self.arm}+{labels}" if labels else self.arm


@dataclass(frozen=True)
class Arm:
    """An arm with its validated recipe; in a sweep, at one point."""

    name: str
    spot: Spot
    recipe: Recipe
    """The recipe, with the steps that the budget allows. Seed, learning rate and output are set per run."""
    learning_rates: tuple[float, ...]
    """Candidate learning rates, at least one; there is no selection if there is only one."""
    world: SandboxConfig | None
    """The sandbox, if the study uses it; `with_world` puts its files into the recipe."""
    noise: NoiseConfig


def study_arms(study: Study) -> list[Arm]:
    """Return all arms at all points, in order.

    Raises:
        InputError: if a recipe is invalid. The message names the arm, the axis or `base`, and the field.
    """
    method = _checked(study, {}, "base").method.name
    return [_arm(study, method, spot) for spot in spots(study)]


def with_world(arm: Arm, paths: Mapping[str, str]) -> Arm:
    """Return the arm with the files of its sandbox in the recipe; paths set by the study itself are kept.

    Args:
        arm: an arm of `study_arms`.
        paths: files for `model.path`, `data.path` and `data.test_path`.
    """
    built = {_UNBUILT[field]: path for field, path in paths.items()}
    model, data, test = arm.recipe.model, arm.recipe.data, arm.recipe.data.test_path
    model = replace(model, path=built.get(model.path, model.path))
    data = replace(data, path=built.get(data.path, data.path), test_path=test and built.get(test, test))
    return replace(arm, recipe=replace(arm.recipe, model=model, data=data))


def spots(study: Study) -> list[Spot]:
    """Return every arm at every point, grouped by point.

    Raises:
        InputError: if an axis has fewer than two points or an invalid label, or an arm sets a field of an axis.
    """
    axes = [_points(axis, values) for axis, values in study.over.items()]
    result = []
    for labels in product(*axes):
        varied = {key: value for axis, label in zip(axes, labels, strict=True) for key, value in axis[label].items()}
        for arm, fields in study.arms.items():
            own = dict(flattened(fields))
            if conflict := next((key for key in own if key in varied), None):
                raise InputError(f"arms.{arm}: {conflict} is set by the study's section over, so the arm cannot set it")
            result.append(Spot(arm, labels, own | varied))
    return result


def flattened(values: Mapping[str, Any], above: str = "", lists: bool = False) -> Iterator[tuple[str, Any]]:
    """Flatten nested values into pairs of dotted field and value.

    Args:
        values: nested mapping; its keys may be dotted.
        above: prefix of all fields.
        lists: whether to flatten lists too, into `name.0`, `name.1` and so on.

    Example: `{"method": {"beta": 0.2}, "model.lora": None}` gives `("method.beta", 0.2)`, `("model.lora", None)`.
    """
    for name, value in values.items():
        nested = {str(index): item for index, item in enumerate(value)} if lists and isinstance(value, list) else value
        if isinstance(nested, Mapping) and nested:
            yield from flattened(nested, f"{above}{name}.", lists)
        else:
            yield f"{above}{name}", value


def last_part(axis: str) -> str:
    """Return the last part of a dotted field: `beta` for `method.beta`."""
    return axis.rpartition(".")[2]


def method_names() -> set[str]:
    """Return the names of all methods."""
    kinds = get_type_hints(Recipe)["method"]
    return {name for kind in get_args(kinds) or (kinds,) for name in get_args(get_type_hints(kind)["name"])}


def with_method(arm: str, fields: Mapping[str, Any], shared: str) -> dict[str, Any]:
    """Return the settings of an arm, including its method.

    A method other than the shared one replaces the whole section `method`, since shared fields may not apply to it.

    Args:
        arm: name of the arm; the name of a method selects it, unless the arm has stages.
        fields: dotted field -> value, the arm's own settings.
        shared: name of the method in the settings that all arms share.
    """
    if "stages" in fields:
        return {"method": {"name": "grao"}, **fields}
    chosen = fields.get("method.name", arm if arm in method_names() else shared)
    if chosen == shared:
        return dict(fields)
    return {"method": {"name": chosen}, **{field: value for field, value in fields.items() if field != "method.name"}}


def _points(axis: str, values: Axis) -> dict[str, dict[str, Any]]:
    """Return label -> fields of the points of an axis."""
    if len(values) < 2:
        raise InputError(f"over.{axis}: an axis needs at least two points")
    if isinstance(values, dict):
        if invalid := next((label for label in values if not _LABEL.fullmatch(label)), None):
            raise InputError(f"over.{axis}: {invalid!r} is not a valid label; use letters, digits and . + - _")
        return {label: dict(flattened(fields)) for label, fields in values.items()}
    points = {_label(value): {axis: value} for value in values}
    if invalid := next((label for label in points if not _LABEL.fullmatch(label)), None):
        raise InputError(f"over.{axis}: {invalid} is not a valid label; use {{label: {{{axis}: {invalid}}}}}")
    if len(points) < len(values):
        raise InputError(f"over.{axis}: contains a value twice")
    return points


def _label(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else write_inline(value)


def _arm(study: Study, shared_method: str, spot: Spot) -> Arm:
    name, fields = spot.name(study.over), dict(spot.fields)
    if not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST_NAME:
        shown = repr(name) if len(name) <= _LONGEST_NAME else f"{name[:40]!r}..."
        raise InputError(f"arms: {shown} is not a valid name; use at most {_LONGEST_NAME} letters, digits, . , + = - _")
    try:
        rates = tuple(dict.fromkeys(_RATES.validate_python(fields.pop("learning_rates", study.learning_rates))))
    except ValidationError as error:
        raise InputError(f"arms.{name}: learning_rates must be a list of numbers above 0") from error
    if rates and "training.learning_rate" in fields:
        raise InputError(f"arms.{name}: training.learning_rate and learning_rates are both given; leave one out")
    if not study.sandbox and any(field.startswith("sandbox.") for field in fields):
        raise InputError(f"arms.{name}: sandbox needs a section sandbox in the study itself; add one")
    world = _section(study.sandbox, "sandbox.", fields, name) if study.sandbox else None
    noise = _section(study.noise, "noise.", fields, name)
    own = {field: value for field, value in fields.items() if not field.startswith(("sandbox.", "noise."))}
    recipe = _checked(study, with_method(spot.arm, own, shared_method), f"arms.{name}")
    if noise.references and not recipe.data.rejected and recipe.data.format == "columns":
        problem = "noise.references swaps references with rejected answers"
        raise InputError(f"arms.{name}: {problem}; give data.rejected")
    _check_plan(study, recipe, name)
    training = replace(recipe.training, steps=_steps(study, recipe, name), save_every=None)
    recipe = replace(recipe, training=training, evaluation=replace(recipe.evaluation, enabled=True))
    return Arm(name, spot, recipe, rates or (recipe.training.learning_rate,), world, noise)


def _section(shared: Section, prefix: str, fields: Mapping[str, Any], arm: str) -> Section:
    """Return a section of the study with the changes of an arm."""
    own = {field.removeprefix(prefix): value for field, value in fields.items() if field.startswith(prefix)}
    try:
        return TypeAdapter(type(shared)).validate_python(asdict(shared) | own)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"arms.{arm}: {prefix}{'.'.join(map(str, first['loc'][:1]))}: {first['msg']}") from error


def _check_plan(study: Study, recipe: Recipe, name: str) -> None:
    """Raise InputError if the arm's stages are invalid or do not fit the budget."""
    try:
        plan = recipe.plan
    except InputError as error:
        raise InputError(f"arms.{name}: {error}") from error
    if len(plan) > 1 and plan[-1].until:
        raise InputError(f"arms.{name}: stages.{len(plan) - 1}.until: the budget ends the last stage; leave it out")
    earlier = sum((stage.until and stage.until.steps) or 0 for stage in plan[:-1])
    if study.budget.steps and earlier >= study.budget.steps:
        problem = f"{earlier} steps before the last stage leave none of {study.budget.words} for it"
        raise InputError(f"arms.{name}: stages: {problem}")
    if study.budget.samples and any(stage.method.needs.resample for stage in plan):
        raise InputError(f"arms.{name}: resampling makes the samples unpredictable; give the budget as work or steps")


def _steps(study: Study, recipe: Recipe, name: str) -> int:
    """Return the number of optimiser steps that the budget allows, over all stages."""
    budget, training = study.budget, recipe.training
    if budget.steps:
        return budget.steps
    if budget.samples:
        return max(1, math.ceil(budget.samples / (training.prompts_per_step * recipe.rollout.group_size)))
    if training.schedule != "constant":
        reason = f"the budget is {budget.words}, so the number of steps is unknown"
        raise InputError(f"arms.{name}: training.schedule must be constant: {reason}")
    return _ENDLESS


def _checked(study: Study, own: Mapping[str, Any], owner: str) -> Recipe:
    """Load the recipe of an arm, including shared settings. Error messages name fields of the study, not options."""
    world = (_UNBUILT | SANDBOX).items() if study.sandbox else ()
    settings = (*world, *flattened(study.base), ("output", str(study.output)), *own.items())
    try:
        return load_recipe(study.recipe, values=settings)
    except InputError as error:
        raise InputError(f"{owner}: {re.sub(r'--(?=[a-z])', '', str(error))}") from error
