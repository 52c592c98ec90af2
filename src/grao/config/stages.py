"""The stages of a recipe and the plan that they make: which method trains for how long.

stages:
  - {method: {name: sft}, until: {steps: 200}}
  - {method: {name: grpo}}                          # for training.steps
"""

import math
from collections.abc import Sequence
from dataclasses import field, replace

from grao.errors import InputError
from grao.methods import MethodSection
from grao.methods.base import Method, Needs
from grao.methods.grao import GRAO
from grao.methods.stage import Stage, Until
from grao.settings import PositiveFloat, settings

_UNLIMITED = 100_000
"""Assumed maximum number of steps of a stage that has no limit on steps."""


@settings
class StageConfig:
    """One of several methods that train the model one after another."""

    method: MethodSection = field(default_factory=GRAO)
    until: Until | None = None
    """When the stage ends. Optional for the last stage, which then trains for training.steps."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate; by default that of `training`."""


def stages_of(method: Method, stages: Sequence[StageConfig], schedule: str = "constant") -> list[Stage]:
    """Return the stages of a run, at least one.

    Args:
        method: the recipe's method, which may itself be a plan of stages.
        stages: the recipe's stages, which replace the method.
        schedule: learning-rate schedule. Any but `constant` needs the number of steps of every stage.

    Raises:
        InputError: if the stages do not fit together.
    """
    plan = _of_recipe(method, stages) if stages else method.stages()
    unknown = [number for number, stage in enumerate(plan[:-1]) if not (stage.until and stage.until.steps)]
    if schedule != "constant" and unknown:
        stage = f"stage {unknown[0] + 1} ({plan[unknown[0]].method.name})"
        more = f", or set stages.{unknown[0]}.until.steps" if stages else ""
        raise InputError(
            f"training.schedule: {schedule} needs the number of steps of {stage}, which is not known; "
            f"set the schedule to constant{more}"
        )
    return plan


def _of_recipe(method: Method, stages: Sequence[StageConfig]) -> list[Stage]:
    if method != GRAO():
        raise InputError(f"method: {method.name} and stages are both given; leave one out")
    plan = [Stage(stage.method, stage.until, stage.learning_rate) for stage in stages]
    for number, stage in enumerate(plan):
        where, last = f"stages.{number}", number == len(plan) - 1
        if len(stage.method.stages()) > 1:
            raise InputError(f"{where}.method: {stage.method.name} has stages of its own; give it as method")
        if not last and stage.until is None:
            raise InputError(f"{where}.until is missing; give a condition that ends the stage, such as {{steps: 200}}")
        if not last and stage.method.needs.critic:
            raise InputError(f"{where}.method: {stage.method.name} has a critic, so it can only be the last stage")
        if last and stage.until and stage.until.peak:
            raise InputError(f"{where}.until.peak does not apply to the last stage; give steps")
    return plan


def joint_needs(plan: Sequence[Stage]) -> Needs:
    """Combine the needs of all stages."""
    needs = [stage.method.needs for stage in plan]
    flags = {name: any(getattr(need, name) for need in needs) for name in Needs.__dataclass_fields__}
    most = {name: max(getattr(need, name) for need in needs) for name in ("updates", "resample")}
    return replace(Needs(**flags), **most)


def most_steps(
    plan: Sequence[Stage], steps: int | None, prompts: int, prompts_per_step: int, group_size: int
) -> list[int]:
    """Return an upper bound on the optimiser steps of each stage.

    Args:
        plan: the stages.
        steps: `training.steps`, for a last stage without a condition; by default one pass over the prompts.
        prompts: number of training prompts.
        prompts_per_step: B.
        group_size: G. A step with sampling is assumed to cost as much work as 2 G steps without.
    """
    last = steps or max(1, math.ceil(prompts / prompts_per_step))
    defaults = [_UNLIMITED] * (len(plan) - 1) + [last]
    most = [(stage.until and stage.until.steps) or default for stage, default in zip(plan, defaults, strict=True)]
    shares = [stage.until.share if stage.until else None for stage in plan]
    later = [sum(most[number + 1 :]) * 2 * group_size for number in range(len(plan))]
    bounds = zip(most, shares, later, strict=True)
    return [
        min(own, math.ceil(after * share / (1 - share))) if share and after else own for own, share, after in bounds
    ]
