"""The runs (cells) of a study, the validity of their records, and the selection of learning rates.

A record is valid if it was made with the present settings of its run. So a study may be stopped at any point, done in
parts, and extended by arms and seeds; a changed setting repeats only the runs that it affects. A field that is newer
than the record counts as its default. A reward in a Python file is identified by the content of that file. Changes in
the code of other rewards are not detected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from grao.config.arms import Arm, flattened
from grao.config.recipe import DataConfig, Recipe
from grao.config.schema import ADAPTER, field_facts, general
from grao.config.study import SandboxConfig, Study
from grao.data.load import Split, fingerprint, load_split, split_examples
from grao.engine.adapters import adapter_at, model_folder
from grao.evaluation.metrics import wins
from grao.evaluation.study import choice_shares, selection_interval
from grao.records.study import Candidate, CellRecord, Key, Role
from grao.records.work import WorkRates
from grao.studies.settings import digest

_NO_SETTINGS = {
    *("output", "model.path", "data.path", "data.test_path"),  # paths: the content is compared instead
    *("rollout.batch_size", "training.token_budget"),  # memory, which does not affect results
}
"""Fields of a recipe that do not affect whether a record is valid."""
WORK_RATES = "study.work."
"""Prefix of the settings that hold the rates of counted work."""
_SPLIT_SEED = 0
"""Seed of the held-out split, fixed so that all seeds are evaluated on the same prompts."""


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    key: Key
    study: Study
    arm: Arm
    recipe: Recipe
    """The arm's recipe with the key's seed and learning rate. Its output is a scratch folder."""
    split: Split
    """Examples to train and evaluate on."""
    settings: dict[str, Any]
    """Settings as stored in the record."""
    rates: WorkRates | None
    """Rates of counted work, if the budget is work."""


class Material:
    """Data shared by the runs of a study, loaded once.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.rates: WorkRates | None = None
        self._splits: dict[str, Split] = {}
        self.model = cache(self._model)

    def split(self, data: DataConfig, role: Role) -> Split:
        """Return training and held-out examples.

        For a selection both come from the training examples, never from the prompts of the final evaluation.
        """
        key = f"{role} {data}"
        if key not in self._splits and role == "final":
            self._splits[key] = load_split(data, _SPLIT_SEED)
        elif key not in self._splits:
            examples = self.split(data, "final").train
            self._splits[key] = split_examples(examples, self.study.selection.prompts, _SPLIT_SEED)
        return self._splits[key]

    def _model(self, path: str, world: SandboxConfig | None) -> str:
        """Identify a model regardless of its path: the sandbox's arguments, a digest of weights, or the hub id."""
        if world:
            others = () if world.objectives == SandboxConfig().objectives else world.objectives
            return " ".join(map(str, ("sandbox", world.ability, world.architecture, world.seed, *others)))
        adapter, weights = adapter_at(path), sorted(Path(model_folder(path)).glob("*.safetensors"))
        content = digest(weights) if weights else path
        return f"{content} on {self.model(adapter.base, None)}" if adapter else content


def study_cells(
    material: Material, arms: Sequence[Arm], role: Role, rates: Mapping[str, Sequence[float]]
) -> list[Cell]:
    """Return the selection runs or the final runs of a study, seed by seed.

    Args:
        material: of the study.
        arms: in their order.
        role: selection or final runs.
        rates: name of an arm -> its learning rates; other arms have no runs.
    """
    return [
        _cell(material, arm, Key(arm.name, role, rate, seed))
        for seed in (material.study.seeds if role == "final" else material.study.selection.seeds)
        for arm in arms
        for rate in rates.get(arm.name, ())
    ]


def is_valid(record: CellRecord, settings: dict[str, Any]) -> bool:
    """Whether a record was made with these settings."""
    fields = {name: field_facts(Recipe).get(general(tuple(name.split(".")))) for name in settings}
    defaults = {name: facts.default if facts else None for name, facts in fields.items()}
    return defaults | record.settings == settings


def candidates(arm: Arm, records: Sequence[CellRecord]) -> list[Candidate]:
    """Return the arm's learning rates with their results on the selection prompts, in the order of the study.

    A rate with a failed run has no result. Every other rate has its interval, and how often it would be chosen.
    """
    runs = {
        rate: [run.outcomes for run in records if (run.key.arm, run.key.learning_rate) == (arm.name, rate)]
        for rate in arm.learning_rates
    }
    finished = {rate: [run for run in outcomes if run] for rate, outcomes in runs.items() if outcomes and all(outcomes)}
    letters = {rate: [run.after for run in outcomes] for rate, outcomes in finished.items()}
    ras = {rate: sum(float(np.nanmean(wins(run))) for run in after) / len(after) for rate, after in letters.items()}
    reward = {rate: sum(run.mean_reward for run in outcomes) / len(outcomes) for rate, outcomes in finished.items()}
    preferred = sorted(letters, key=lambda rate: (-reward[rate], rate))
    chosen = dict(zip(preferred, choice_shares([letters[rate] for rate in preferred]), strict=True)) if letters else {}
    confidence = arm.recipe.evaluation.confidence
    intervals = {rate: selection_interval(after, confidence) for rate, after in letters.items()}
    return [
        Candidate(arm.name, rate, ras.get(rate), reward.get(rate), intervals.get(rate), chosen.get(rate))
        for rate in arm.learning_rates
    ]


def best(offered: Sequence[Candidate]) -> float | None:
    """Return the chosen learning rate; None if all candidates failed.

    Chosen is the rate with the most strict wins, then the highest mean reward, then the smallest rate.
    """
    finished = [candidate for candidate in offered if candidate.ras is not None]
    chosen = max(finished, key=lambda rate: (rate.ras, rate.mean_reward, -rate.learning_rate), default=None)
    return chosen.learning_rate if chosen else None


def _cell(material: Material, arm: Arm, key: Key) -> Cell:
    study, split = material.study, material.split(arm.recipe.data, key.role)
    training = replace(arm.recipe.training, learning_rate=key.learning_rate)
    recipe = replace(arm.recipe, seed=key.seed, output=study.output / "work" / key.name, training=training)
    judges = _fields(replace(recipe, rewards=study.judges)) if study.judges else {}
    settings = {
        **_fields(recipe),
        **{f"study.judges{name[7:]}": value for name, value in judges.items() if name.startswith("rewards.")},
        **{f"study.noise.{name}": share for name, share in vars(arm.noise).items() if share},
        "study.model": material.model(recipe.model.path, arm.world),
        "study.train": fingerprint(split.train)[:16],
        "study.held_out": fingerprint(split.test)[:16],
        "study.evaluate_every": study.evaluate_every,
        "study.seconds": study.budget.seconds,
    }
    if material.rates:
        rates = {f"{WORK_RATES}{name}": value for name, value in vars(material.rates).items() if name != "measured"}
        settings |= {"study.work": study.budget.work, **rates}
    return Cell(key, study, arm, recipe, split, settings, material.rates)


def _fields(recipe: Recipe) -> dict[str, Any]:
    """Return {dotted field: value} of the fields that affect whether a record is valid."""
    fields = flattened(ADAPTER.dump_python(recipe, mode="json", by_alias=True), lists=True)
    return {name: _content(name, value) for name, value in fields if name not in _NO_SETTINGS and value != []}


def _content(name: str, value: Any) -> Any:
    """Return the value of a field; for a reward in a Python file, the file's name and digest instead of its path."""
    if name.rpartition(".")[2] != "function" or not isinstance(value, str):
        return value
    file, _, function = value.rpartition(":")
    path = Path(file)
    return f"{path.name}:{function} {digest([path])}" if path.suffix == ".py" and path.is_file() else value
