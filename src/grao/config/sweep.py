"""Where the arms of a study stand: once each, or at every point of one or two axes.

over:
  method.beta: [0, 0.25, 0.5]                     a field and its values
  group:                                          or a name and points, each with its fields
    "2": {rollout.group_size: 2, method.beta: 1.0}
    "8": {rollout.group_size: 8, method.beta: 0.5}
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from grao.config.strict_yaml import write_inline
from grao.config.study import Axis, Study
from grao.errors import InputError

LABEL = re.compile(r"[\w.+-]+")
"""What can stand in the name of a run, and so of its file."""


@dataclass(frozen=True)
class Spot:
    """One arm at one point."""

    arm: str
    """As the study calls it."""
    point: tuple[str, ...]
    """A label for each axis; empty in a study without axes."""
    fields: dict[str, Any]
    """That differ, dotted."""

    def name(self, axes: list[str]) -> str:
        """`grpo+beta=0.25`; the arm's own name in a study without axes."""
        place = ",".join(f"{short(axis)}={label}" for axis, label in zip(axes, self.point, strict=True))
        return f"{self.arm}+{place}" if place else self.arm


def spots(study: Study) -> list[Spot]:
    """Every arm at every point; the arms of one point are neighbours.

    Raises:
        InputError: for an axis with fewer than two points, or with one that is no mapping of fields.
    """
    axes = [dict(_points(axis, values)) for axis, values in study.over.items()]
    found = []
    for labels in product(*axes):
        moved = {key: value for axis, label in zip(axes, labels, strict=True) for key, value in axis[label].items()}
        found += [Spot(arm, labels, _moved(arm, dict(dotted(fields)), moved)) for arm, fields in study.arms.items()]
    return found


def dotted(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values as dotted fields and values; lists stay whole."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def short(axis: str) -> str:
    """`beta` of `method.beta`."""
    return axis.rpartition(".")[2]


def _points(axis: str, values: Axis) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label -> the fields of that point."""
    if len(values) < 2:
        raise InputError(f"over.{axis}: an axis needs at least two points")
    if isinstance(values, list):
        labels = [_label(value) for value in values]
        if unfit := next((label for label in labels if not LABEL.fullmatch(label)), None):
            raise InputError(f"over.{axis}: {unfit} is no label; name the points: {{name: {{{axis}: {unfit}}}}}")
        if len(set(labels)) < len(labels):
            raise InputError(f"over.{axis}: holds a value twice")
        yield from ((label, {axis: value}) for label, value in zip(labels, values, strict=True))
    else:
        for label, fields in values.items():
            if not LABEL.fullmatch(label):
                raise InputError(f"over.{axis}: {label!r} cannot be a label; use letters, digits and . + - _")
            yield label, dict(dotted(fields))


def _moved(arm: str, own: dict[str, Any], moved: dict[str, Any]) -> dict[str, Any]:
    """An arm's fields at a point."""
    for field in own.keys() & moved.keys():
        raise InputError(f"arms.{arm}: {field} is moved by an axis of over, so the arm cannot set it")
    return {**own, **moved}


def _label(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else write_inline(value)
