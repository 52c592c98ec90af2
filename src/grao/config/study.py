"""The recipe of a study: arms that differ in a few fields of one recipe, trained alike, each with several seeds.

What the arms have in common comes from a recipe file (`recipe`), from the embedded world (`sandbox`), and from sections
that stand in the study itself (`base`). `grao.config.arms` turns it all into one checked recipe an arm.
"""

from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from grao.config.rewards import RewardConfig
from grao.settings import FilePath, PositiveFloat, PositiveInt, Seed, Share, WrittenPath, settings

Objective = Literal["helpful", "harmless", "truthful", "fair"]
Axis = dict[str, dict[str, Any]] | list[Any]
"""Values of one field, or by name the fields that make a point."""


@settings
class SandboxConfig:
    """The embedded world instead of a model and data of your own: a tiny model, tasks, and a judge by rule."""

    ability: Share | Literal["weak", "able"] = "weak"
    """Share of right answers in the pretraining of the model: a level by name, or a number."""
    architecture: Literal["dense", "moe"] = "dense"
    """Of the model."""
    seed: Seed = 0
    """Of model and tasks; the same for all seeds of the study."""
    prompts: PositiveInt = 1000
    """Training prompts."""
    held_out: PositiveInt = 300
    """Prompts of the evaluation."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("helpful", "harmless")
    """What the tasks ask for; other objectives are other tasks."""


@settings
class NoiseConfig:
    """Errors made on purpose in what is learned from; the evaluation is without them."""

    rewards: Share = 0.0
    """Share of answers whose relative reward is turned around, the same ones each time."""
    references: Share = 0.0
    """Share of training prompts whose reference and rejected answer are exchanged."""


@settings
class BudgetConfig:
    """What every arm may spend: exactly one of these."""

    steps: PositiveInt | None = None
    """Optimiser steps."""
    samples: PositiveInt | None = None
    """Rewards asked for. An arm that asks for none sees as many prompts as if it sampled its group size for each."""
    seconds: PositiveFloat | None = None
    """Wall clock of the training, evaluations not counted."""
    work: PositiveFloat | None = None
    """Seconds of counted work: steps and tokens, times what they took when the study began (`work.json`)."""

    def __post_init__(self) -> None:
        if sum(limit is not None for limit in vars(self).values()) != 1:
            raise ValueError("a budget is exactly one of steps, samples, seconds and work; for example steps: 100")

    @property
    def words(self) -> str:
        """`100 steps`, `40 s of counted work`."""
        name, limit = next((name, limit) for name, limit in vars(self).items() if limit is not None)
        return f"{limit:g} {'s of counted work' if name == 'work' else name}"


@settings
class SelectionConfig:
    """How an arm's learning rate is chosen among several. The held-out prompts take no part in it."""

    prompts: PositiveInt = 200
    """Training prompts that are kept away from these runs and judge them; at most half of all."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1000,)
    """Of these runs; others than the study's, so that the choice does not favour its seeds."""


@settings
class Study:
    """One comparison, completely."""

    arms: Annotated[dict[str, dict[str, Any]], Field(min_length=1, examples=[{"grao": {}, "soft": {}}])]
    """Name -> fields that differ, of the recipe, sandbox or noise, and `learning_rates`. A method's name selects it."""
    budget: BudgetConfig
    output: Annotated[WrittenPath, Field(examples=["runs/study"])]
    """The folder of the study. An existing study is resumed."""
    recipe: FilePath | None = None
    """File with the recipe of all arms."""
    sandbox: SandboxConfig | None = None
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    base: dict[str, Any] = field(default_factory=dict)
    """Sections and fields of the recipe that all arms share."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    """Of training and sampling, the same for all arms; with fewer than 8 a test over seeds finds little."""
    learning_rates: tuple[PositiveFloat, ...] = ()
    """Candidates of every arm without its own; by default the recipe's rate, and nothing is selected."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    judges: list[RewardConfig] = field(default_factory=list)
    """Rewards that judge the held-out answers of all arms; by default those that an arm is trained on."""
    over: dict[str, Axis] = field(default_factory=dict)
    """`grao sweep`: one or two axes, a field with its values, or a name with points (`{label: {field: value}}`)."""
    evaluate_every: PositiveInt | None = None
    """Steps between the points of the curves, with a budget of work units of that; by default only start and end."""
    against: str | None = None
    """The arm that all others are tested against; by default `grao`, or else the first."""
    keep_models: bool = False
    """Keep the trained models, in `models/`."""

    def __post_init__(self) -> None:
        if self.recipe is not None and self.sandbox is not None:
            raise ValueError("give recipe or sandbox, not both; what the sandbox's recipe lacks goes to base")
        if len(self.over) > 2:
            raise ValueError("over has one or two axes")
        for name, values in (("seeds", self.seeds), ("learning_rates", self.learning_rates)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} holds a value twice")
        if set(self.seeds) & set(self.selection.seeds):
            raise ValueError("selection.seeds must be others than seeds, or the choice favours them")
        if self.against is not None and self.against not in self.arms:
            raise ValueError(f"against: {self.against!r} is none of the arms: {', '.join(self.arms)}")

    @property
    def main(self) -> str:
        """The arm that all others are tested against."""
        return self.against or ("grao" if "grao" in self.arms else next(iter(self.arms)))


_WHOLE = {"method.name": "grao", "method.sign": "positive", "method.scope": "joint", "method.normalise": "group"}
"""What an arm has unless it says otherwise, whatever the study's own settings are."""
_TERMS: dict[str, dict[str, Any]] = {
    "": {},
    "no-exploration": {"method.exploration": 0.0},
    "no-imitation": {"method.beta": 0.0},
    "no-regulariser": {"method.lambda": 0.0},
    "scope-samples": {"method.scope": "samples"},
}
_REWARDS = {"mean-only": "mean", "batch": "batch", "raw-reward": "none"}
"""What is left of the group-relative reward; that the reference is out of the group is `scope-samples`."""


def ablation(study: Study) -> Study:
    """The same study with the ablation's arms, in a folder of its own.

    Terms and scopes under both sign policies, and rewards that are relative to less than their group.
    """
    arms = {
        f"{family}-{name}".rstrip("-"): {**_WHOLE, "method.sign": sign, **fields}
        for family, sign in (("grao", "positive"), ("signed", "signed"))
        for name, fields in _TERMS.items()
    }
    arms |= {name: {**_WHOLE, "method.normalise": kind} for name, kind in _REWARDS.items()}
    return replace(study, arms=arms, over={}, against="grao", output=Path(f"{study.output}-ablation"))
