"""From a study to its arms, at every point of its axes: one checked recipe each, before anything is loaded.

Settings are pairs of a dotted field and its value; later ones win:

    the embedded world, or the recipe file  <  base  <  the arm's own, with its point's  <  the budget

An arm may also change the study's own sections `sandbox` and `noise`: another model, errors in its rewards. A study
has each arm once, or at every point of one or two axes:

    over:
      method.beta: [0, 0.25, 0.5]                     a field and its values
      group:                                          or a name and points, each with its fields
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
"""What differs from the paper in the embedded world: a tiny model learns in larger and smaller steps."""

_UNBUILT = {name: f"<sandbox {name}>" for name in ("model.path", "data.path", "data.test_path")}
"""Stand for the files of an embedded world until `with_world`."""
_ENDLESS = 10_000_000
"""Steps of a run that ends by the clock."""
_NAME = re.compile(r"\w[\w.,+=-]*")
_LABEL = re.compile(r"[\w.+-]+")
"""What can stand in the name of a run, and so of its file."""
_LONGEST_NAME = 180
"""Bytes; rate, seed and the ending of the file come behind it."""
_RATES = TypeAdapter(tuple[PositiveFloat, ...])


@dataclass(frozen=True)
class Spot:
    """One arm at one point."""

    arm: str
    """As the study calls it."""
    point: tuple[str, ...]
    """A label for each axis; empty in a study without axes."""
    fields: dict[str, Any]
    """Settings that differ from the other arms', by dotted field."""

    def name(self, axes: Iterable[str]) -> str:
        """`grpo+beta=0.25`; the arm's own name in a study without axes."""
        labels = ",".join(f"{short(axis)}={label}" for axis, label in zip(axes, self.point, strict=True))
        return f"{self.arm}+{labels}" if labels else self.arm


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
    """The embedded world, if the study runs there; its files are not in the recipe before `with_world`."""
    noise: NoiseConfig


def study_arms(study: Study) -> list[Arm]:
    """The arms in their order, at every point.

    Raises:
        InputError: naming the arm, the axis or `base`, and the field.
    """
    method = _checked(study, {}, "base").method.name
    return [_arm(study, method, spot) for spot in spots(study)]


def with_world(arm: Arm, paths: Mapping[str, str]) -> Arm:
    """The arm with the files of its built world, by `model.path`, `data.path` and `data.test_path`.

    A path that the study gives itself stays.
    """
    built = {_UNBUILT[field]: path for field, path in paths.items()}
    model, data, test = arm.recipe.model, arm.recipe.data, arm.recipe.data.test_path
    model = replace(model, path=built.get(model.path, model.path))
    data = replace(data, path=built.get(data.path, data.path), test_path=test and built.get(test, test))
    return replace(arm, recipe=replace(arm.recipe, model=model, data=data))


def spots(study: Study) -> list[Spot]:
    """Every arm at every point; the arms of one point are neighbours.

    Raises:
        InputError: for an axis with fewer than two points, or with one that is no mapping of fields.
    """
    axes = [_points(axis, values) for axis, values in study.over.items()]
    every = []
    for labels in product(*axes):
        moved = {key: value for axis, label in zip(axes, labels, strict=True) for key, value in axis[label].items()}
        for arm, fields in study.arms.items():
            own = dict(dotted(fields))
            if twice := next((key for key in own if key in moved), None):
                raise InputError(f"arms.{arm}: {twice} is moved by an axis of over, so the arm cannot set it")
            every.append(Spot(arm, labels, own | moved))
    return every


def dotted(values: Mapping[str, Any], above: str = "", lists: bool = False) -> Iterator[tuple[str, Any]]:
    """Nested values as dotted fields and values.

    Args:
        values: by name; a name may be dotted itself.
        above: put in front of each field.
        lists: whether a list is taken apart too, into `name.0`, `name.1` and so on; otherwise it stays whole.

    Example: `{"method": {"beta": 0.2}, "model.lora": None}` gives `("method.beta", 0.2)`, `("model.lora", None)`.
    """
    for name, value in values.items():
        inside = {str(index): item for index, item in enumerate(value)} if lists and isinstance(value, list) else value
        if isinstance(inside, Mapping) and inside:
            yield from dotted(inside, f"{above}{name}.", lists)
        else:
            yield f"{above}{name}", value


def short(axis: str) -> str:
    """`beta` of `method.beta`."""
    return axis.rpartition(".")[2]


def method_names() -> set[str]:
    """Every method that a recipe knows."""
    kinds = get_type_hints(Recipe)["method"]
    return {name for kind in get_args(kinds) or (kinds,) for name in get_args(get_type_hints(kind)["name"])}


def with_method(arm: str, fields: Mapping[str, Any], shared: str) -> dict[str, Any]:
    """An arm's settings; a method other than the shared one brings its whole section, for no shared field would fit.

    Args:
        arm: the arm as the study calls it; a method's name selects that method, unless it has stages.
        fields: its own settings.
        shared: the method that all arms have unless they say otherwise.
    """
    if "stages" in fields:
        return {"method": {"name": "grao"}, **fields}
    chosen = fields.get("method.name", arm if arm in method_names() else shared)
    if chosen == shared:
        return dict(fields)
    return {"method": {"name": chosen}, **{field: value for field, value in fields.items() if field != "method.name"}}


def _points(axis: str, values: Axis) -> dict[str, dict[str, Any]]:
    """Label -> the fields of that point."""
    if len(values) < 2:
        raise InputError(f"over.{axis}: an axis needs at least two points")
    if isinstance(values, dict):
        if unfit := next((label for label in values if not _LABEL.fullmatch(label)), None):
            raise InputError(f"over.{axis}: {unfit!r} cannot be a label; use letters, digits and . + - _")
        return {label: dict(dotted(fields)) for label, fields in values.items()}
    points = {_label(value): {axis: value} for value in values}
    if unfit := next((label for label in points if not _LABEL.fullmatch(label)), None):
        raise InputError(f"over.{axis}: {unfit} is no label; name the points: {{name: {{{axis}: {unfit}}}}}")
    if len(points) < len(values):
        raise InputError(f"over.{axis}: holds a value twice")
    return points


def _label(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else write_inline(value)


def _arm(study: Study, shared_method: str, spot: Spot) -> Arm:
    name, fields = spot.name(study.over), dict(spot.fields)
    if not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST_NAME:
        shown = repr(name) if len(name) <= _LONGEST_NAME else f"{name[:40]!r}..."
        raise InputError(f"arms: {shown} cannot be a name; use up to {_LONGEST_NAME} letters, digits and . , + = - _")
    try:
        rates = tuple(dict.fromkeys(_RATES.validate_python(fields.pop("learning_rates", study.learning_rates))))
    except ValidationError as error:
        raise InputError(f"arms.{name}: learning_rates must be a list of numbers above 0") from error
    if rates and "training.learning_rate" in fields:
        raise InputError(f"arms.{name}: training.learning_rate and learning_rates are both given; leave one out")
    if not study.sandbox and any(field.startswith("sandbox.") for field in fields):
        raise InputError(f"arms.{name}: sandbox: the study does not play there; give it a section sandbox")
    world = _section(study.sandbox, "sandbox.", fields, name) if study.sandbox else None
    noise = _section(study.noise, "noise.", fields, name)
    own = {field: value for field, value in fields.items() if not field.startswith(("sandbox.", "noise."))}
    recipe = _checked(study, with_method(spot.arm, own, shared_method), f"arms.{name}")
    if noise.references and not recipe.data.rejected and recipe.data.format == "columns":
        problem = "noise.references exchanges references with rejected answers"
        raise InputError(f"arms.{name}: {problem}; give data.rejected")
    _check_plan(study, recipe, name)
    training = replace(recipe.training, steps=_steps(study, recipe, name), save_every=None)
    recipe = replace(recipe, training=training, evaluation=replace(recipe.evaluation, enabled=True))
    return Arm(name, spot, recipe, rates or (recipe.training.learning_rate,), world, noise)


def _section(shared: Section, prefix: str, fields: Mapping[str, Any], arm: str) -> Section:
    """A section of the study as an arm has it."""
    own = {field.removeprefix(prefix): value for field, value in fields.items() if field.startswith(prefix)}
    try:
        return TypeAdapter(type(shared)).validate_python(asdict(shared) | own)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"arms.{arm}: {prefix}{'.'.join(map(str, first['loc'][:1]))}: {first['msg']}") from error


def _check_plan(study: Study, recipe: Recipe, name: str) -> None:
    """Raises: InputError if the arm's stages cannot be, or do not go with the budget."""
    try:
        plan = recipe.plan
    except InputError as error:
        raise InputError(f"arms.{name}: {error}") from error
    if len(plan) > 1 and plan[-1].until:
        raise InputError(f"arms.{name}: stages.{len(plan) - 1}.until: the budget ends the last stage; leave it out")
    before = sum((stage.until and stage.until.steps) or 0 for stage in plan[:-1])
    if study.budget.steps and before >= study.budget.steps:
        raise InputError(
            f"arms.{name}: stages: {before} steps before the last one leave it none of {study.budget.words}"
        )
    if study.budget.samples and any(stage.method.needs.resample for stage in plan):
        raise InputError(f"arms.{name}: what it samples anew is not known beforehand; give the budget as work or steps")


def _steps(study: Study, recipe: Recipe, name: str) -> int:
    """Optimiser steps within the budget, of all stages together."""
    budget, training = study.budget, recipe.training
    if budget.steps:
        return budget.steps
    if budget.samples:
        return max(1, math.ceil(budget.samples / (training.prompts_per_step * recipe.rollout.group_size)))
    if training.schedule != "constant":
        reason = f"the budget is {budget.words}, for the number of steps is not known"
        raise InputError(f"arms.{name}: training.schedule must be constant where {reason}")
    return _ENDLESS


def _checked(study: Study, own: Mapping[str, Any], owner: str) -> Recipe:
    """The recipe of one arm with what all arms share; mistakes are told as those of a study and not of options."""
    world = (_UNBUILT | SANDBOX).items() if study.sandbox else ()
    settings = (*world, *dotted(study.base), ("output", str(study.output)), *own.items())
    try:
        return load_recipe(study.recipe, values=settings)
    except InputError as error:
        raise InputError(f"{owner}: {re.sub(r'--(?=[a-z])', '', str(error))}") from error
