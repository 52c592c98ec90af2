"""The recipe of a study: arms that differ in a few fields of one recipe, each trained with the same seeds.

Common settings come from a recipe file (`recipe`) or the sandbox (`sandbox`), and from sections in the study itself
(`base`). `grao.config.arms` turns a study into one validated recipe per arm.
"""

from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from grao.config.rewards import RewardConfig
from grao.settings import FilePath, PositiveFloat, PositiveInt, Seed, Share, WrittenPath, settings

Objective = Literal["helpful", "harmless", "truthful", "fair"]
Axis = dict[str, dict[str, Any]] | list[Any]
"""Values of one field, or {label: fields} for points that set several fields."""


@settings
class SandboxConfig:
    """A built-in sandbox instead of your own model and data: a tiny model, tasks and a rule-based judge."""

    ability: Share | Literal["weak", "able"] = "weak"
    """Share of correct answers in the model's pretraining data: a named level or a number."""
    architecture: Literal["dense", "moe"] = "dense"
    """Architecture of the model."""
    seed: Seed = 0
    """Random seed of model and tasks, shared by all seeds of the study."""
    prompts: PositiveInt = 1000
    """Number of training prompts."""
    held_out: PositiveInt = 300
    """Number of held-out prompts for evaluation."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("helpful", "harmless")
    """Objectives of the tasks; each has tasks of its own."""


@settings
class NoiseConfig:
    """Deliberate errors in the training signal. The evaluation has none."""

    rewards: Share = 0.0
    """Share of answers whose relative reward changes its sign; the same answers each time."""
    references: Share = 0.0
    """Share of training prompts whose reference and rejected answer are swapped."""


@settings
class BudgetConfig:
    """The budget of every arm; set exactly one of these."""

    steps: PositiveInt | None = None
    """Optimiser steps."""
    samples: PositiveInt | None = None
    """Scored samples. An arm that samples nothing trains on as many prompts as if it sampled a group for each."""
    seconds: PositiveFloat | None = None
    """Wall-clock time of training, without evaluation."""
    work: PositiveFloat | None = None
    """Seconds of counted work: steps and tokens, multiplied by their cost at the start of the study (`work.json`)."""

    def __post_init__(self) -> None:
        if sum(limit is not None for limit in vars(self).values()) != 1:
            raise ValueError("a budget must be exactly one of steps, samples, seconds and work; for example steps: 100")

    @property
    def words(self) -> str:
        """The budget in words: `100 steps`, `40 s of counted work`."""
        name, limit = next((name, limit) for name, limit in vars(self).items() if limit is not None)
        return f"{limit:g} {'s of counted work' if name == 'work' else name}"


@settings
class SelectionConfig:
    """How the learning rate of an arm is selected. The held-out prompts of the evaluation are not used."""

    prompts: PositiveInt = 200
    """Training prompts kept out of the selection runs, which are scored on them; at most half of all."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1000,)
    """Seeds of the selection runs; none may be a seed of the study, which the selection would favour."""


@settings
class Study:
    """All settings of a study."""

    arms: Annotated[dict[str, dict[str, Any]], Field(min_length=1, examples=[{"grao": {}, "soft": {}}])]
    """Arm -> its fields of recipe, sandbox or noise, and `learning_rates`. An arm named after a method selects it."""
    budget: BudgetConfig
    output: Annotated[WrittenPath, Field(examples=["runs/study"])]
    """The folder of the study. An existing study is resumed."""
    recipe: FilePath | None = None
    """Recipe file shared by all arms."""
    sandbox: SandboxConfig | None = None
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    base: dict[str, Any] = field(default_factory=dict)
    """Sections and fields of the recipe, shared by all arms."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of training and sampling, the same for all arms; with fewer than 8, tests over seeds have little power."""
    learning_rates: tuple[PositiveFloat, ...] = ()
    """Candidate learning rates of arms without their own; by default the recipe's rate, without selection."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    judges: list[RewardConfig] = field(default_factory=list)
    """Rewards that score the held-out answers of all arms; by default the training rewards of each arm."""
    over: dict[str, Axis] = field(default_factory=dict)
    """For `grao sweep`: one or two axes, each a field with its values or a name with {label: {field: value}}."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations, or seconds of counted work if the budget is work; by default only at start and end."""
    against: str | None = None
    """The arm that all others are compared with; by default `grao`, or the first arm if there is none."""
    keep_models: bool = False
    """Keep the trained models in `models/`."""

    def __post_init__(self) -> None:
        if self.recipe is not None and self.sandbox is not None:
            raise ValueError("give recipe or sandbox, not both; set further fields for the sandbox in base")
        if len(self.over) > 2:
            raise ValueError("over must have one or two axes")
        for name, values in (("seeds", self.seeds), ("learning_rates", self.learning_rates)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} contains a value twice")
        if set(self.seeds) & set(self.selection.seeds):
            raise ValueError("selection.seeds must differ from seeds, or the selection favours the study's seeds")
        if self.against is not None and self.against not in self.arms:
            raise ValueError(f"against: {self.against!r} is not an arm; arms are {', '.join(self.arms)}")

    @property
    def main(self) -> str:
        """The arm that all others are compared with."""
        return self.against or ("grao" if "grao" in self.arms else next(iter(self.arms)))


_FULL = {"method.name": "grao", "method.sign": "positive", "method.scope": "joint", "method.normalise": "group"}
"""Settings of the full method in an ablation, whatever the study itself sets."""
_TERMS: dict[str, dict[str, Any]] = {
    "": {},
    "no-exploration": {"method.exploration": 0.0},
    "no-imitation": {"method.beta": 0.0},
    "no-regulariser": {"method.lambda": 0.0},
    "scope-samples": {"method.scope": "samples"},
}
_NORMALISATIONS = {"mean-only": "mean", "batch": "batch", "raw-reward": "none"}
"""Arm -> `method.normalise`, a weaker normalisation. `scope-samples` above leaves the reference out of it."""


def ablation(study: Study) -> Study:
    """Return the study with the arms of the ablation, in an output folder of its own.

    The arms, under both settings of `sign`, are the full method, the method without one term of eq. 3, and the method
    with scope `samples`. Three more arms weaken the normalisation of rewards.
    """
    arms = {
        f"{family}-{name}".rstrip("-"): {**_FULL, "method.sign": sign, **fields}
        for family, sign in (("grao", "positive"), ("signed", "signed"))
        for name, fields in _TERMS.items()
    }
    arms |= {name: {**_FULL, "method.normalise": kind} for name, kind in _NORMALISATIONS.items()}
    return replace(study, arms=arms, over={}, against="grao", output=Path(f"{study.output}-ablation"))
