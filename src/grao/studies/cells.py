"""The runs (cells) of a study, whether the record of one still counts, and which learning rate is chosen by them.

A record counts if it was made with the settings that its run has now. So a study may be stopped at any point, done in
pieces, and extended by arms and seeds; a changed setting repeats the runs that it concerns and no others. A field that
the recipe has only learnt since counts as its default. A reward in a Python file counts by that file's content. Not
seen: changes in the code of any other reward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from grao.config.arms import Arm, dotted
from grao.config.recipe import DataConfig, Recipe
from grao.config.schema import ADAPTER, field_facts, general
from grao.config.study import SandboxConfig, Study
from grao.data.load import Split, fingerprint, load_split, split_examples
from grao.engine.adapters import adapter_at, model_folder
from grao.evaluation.metrics import wins
from grao.evaluation.study import choices, selection_interval
from grao.records.study import Candidate, CellRecord, Key, Role
from grao.records.work import WorkRates
from grao.studies.settings import digest

_NO_SETTINGS = {
    *("output", "model.path", "data.path", "data.test_path"),  # where something lies: what lies there is compared
    *("rollout.batch_size", "training.token_budget"),  # memory, which changes no result
}
"""Fields of a recipe that do not decide whether a record counts."""
WORKED = "study.work."
"""Begins the settings that say by what work is counted."""
_SPLIT_SEED = 0
"""Of what is held out: one choice for all seeds, so that they are evaluated on the same prompts."""


@dataclass(frozen=True)
class Cell:
    """One run that is to be done."""

    key: Key
    study: Study
    arm: Arm
    recipe: Recipe
    """Of the arm, with the key's seed and learning rate. Its output is a scratch folder."""
    split: Split
    """What it is trained and evaluated on."""
    settings: dict[str, Any]
    """As in its record."""
    rates: WorkRates | None
    """By which its work is counted."""


class Material:
    """What the runs of a study share, loaded once.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.rates: WorkRates | None = None
        self._splits: dict[str, Split] = {}
        self.model = cache(self._model)

    def split(self, data: DataConfig, role: Role) -> Split:
        """Training and held-out examples.

        For a selection both come from the training side: its prompts are never those of the final evaluation.
        """
        key = f"{role} {data}"
        if key not in self._splits and role == "final":
            self._splits[key] = load_split(data, _SPLIT_SEED)
        elif key not in self._splits:
            examples = self.split(data, "final").train
            self._splits[key] = split_examples(examples, self.study.selection.prompts, _SPLIT_SEED)
        return self._splits[key]

    def _model(self, path: str, world: SandboxConfig | None) -> str:
        """What the model is, wherever it lies: the sandbox's arguments, a digest of the weights, or the hub id."""
        if world:
            others = () if world.objectives == SandboxConfig().objectives else world.objectives
            return " ".join(map(str, ("sandbox", world.ability, world.architecture, world.seed, *others)))
        adapter, weights = adapter_at(path), sorted(Path(model_folder(path)).glob("*.safetensors"))
        content = digest(weights) if weights else path
        return f"{content} on {self.model(adapter.base, None)}" if adapter else content


def study_cells(
    material: Material, arms: Sequence[Arm], role: Role, rates: Mapping[str, Sequence[float]]
) -> list[Cell]:
    """The runs that choose a learning rate, or those that count, seed by seed.

    Args:
        material: of the study.
        arms: in their order.
        role: which runs.
        rates: name of an arm -> learning rates to run it with; an arm that is not among them has no runs.
    """
    return [
        _cell(material, arm, Key(arm.name, role, rate, seed))
        for seed in (material.study.seeds if role == "final" else material.study.selection.seeds)
        for arm in arms
        for rate in rates.get(arm.name, ())
    ]


def counts(record: CellRecord, settings: dict[str, Any]) -> bool:
    """Whether a record was made with these settings."""
    known = {name: field_facts(Recipe).get(general(tuple(name.split(".")))) for name in settings}
    defaults = {name: facts.default if facts else None for name, facts in known.items()}
    return defaults | record.settings == settings


def candidates(arm: Arm, records: Sequence[CellRecord]) -> list[Candidate]:
    """The arm's learning rates with what their runs reached on the selection's prompts, in the order of the study.

    A rate of which a run failed has no result. Each other has its interval, and how often it would be chosen.
    """
    runs = {
        rate: [run.outcomes for run in records if (run.key.arm, run.key.learning_rate) == (arm.name, rate)]
        for rate in arm.learning_rates
    }
    finished = {rate: [each for each in of if each] for rate, of in runs.items() if of and all(of)}
    letters = {rate: [outcomes.after for outcomes in of] for rate, of in finished.items()}
    ras = {rate: sum(float(np.nanmean(wins(after))) for after in of) / len(of) for rate, of in letters.items()}
    reward = {rate: sum(outcomes.mean_reward for outcomes in of) / len(of) for rate, of in finished.items()}
    preferred = sorted(letters, key=lambda rate: (-reward[rate], rate))
    chosen = dict(zip(preferred, choices([letters[rate] for rate in preferred]), strict=True)) if letters else {}
    sure = arm.recipe.evaluation.confidence
    intervals = {rate: selection_interval(of, sure) for rate, of in letters.items()}
    return [
        Candidate(arm.name, rate, ras.get(rate), reward.get(rate), intervals.get(rate), chosen.get(rate))
        for rate in arm.learning_rates
    ]


def best(offered: Sequence[Candidate]) -> float | None:
    """The chosen learning rate, None if no candidate came to its end.

    The best has the most strict wins; of equals, the higher mean reward, then the smaller rate.
    """
    finished = [candidate for candidate in offered if candidate.ras is not None]
    chosen = max(finished, key=lambda rate: (rate.ras, rate.mean_reward, -rate.learning_rate), default=None)
    return chosen.learning_rate if chosen else None


def _cell(material: Material, arm: Arm, key: Key) -> Cell:
    study, split = material.study, material.split(arm.recipe.data, key.role)
    training = replace(arm.recipe.training, learning_rate=key.learning_rate)
    recipe = replace(arm.recipe, seed=key.seed, output=study.output / "work" / key.name, training=training)
    judged = _fields(replace(recipe, rewards=study.judges)) if study.judges else {}
    settings = {
        **_fields(recipe),
        **{f"study.judges{name[7:]}": value for name, value in judged.items() if name.startswith("rewards.")},
        **{f"study.noise.{name}": share for name, share in vars(arm.noise).items() if share},
        "study.model": material.model(recipe.model.path, arm.world),
        "study.train": fingerprint(split.train)[:16],
        "study.held_out": fingerprint(split.test)[:16],
        "study.evaluate_every": study.evaluate_every,
        "study.seconds": study.budget.seconds,
    }
    if material.rates:
        counted = {f"{WORKED}{name}": value for name, value in vars(material.rates).items() if name != "measured"}
        settings |= {"study.work": study.budget.work, **counted}
    return Cell(key, study, arm, recipe, split, settings, material.rates)


def _fields(recipe: Recipe) -> dict[str, Any]:
    """Dotted field -> value, of those that decide whether a record counts."""
    fields = dotted(ADAPTER.dump_python(recipe, mode="json", by_alias=True), lists=True)
    return {name: _content(name, value) for name, value in fields if name not in _NO_SETTINGS and value != []}


def _content(name: str, value: Any) -> Any:
    """Of a reward in a Python file, the name of the file and a digest in place of where it lies."""
    if name.rpartition(".")[2] != "function" or not isinstance(value, str):
        return value
    file, _, function = value.rpartition(":")
    path = Path(file)
    return f"{path.name}:{function} {digest([path])}" if path.suffix == ".py" and path.is_file() else value
