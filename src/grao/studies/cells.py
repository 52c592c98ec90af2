"""The runs that a study consists of, and whether the record of one still counts.

A record counts if it was made with the settings that its run has now. So a study may be stopped at any point, done in
pieces, and extended by arms and seeds; a changed setting repeats the runs that it concerns and no others. A field that
the recipe has only learnt since counts as its default. A reward in a Python file
counts by that file's content. Not seen: changes in the code of any other reward.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grao.config.arms import Arm
from grao.config.fields import ADAPTER, field_facts, general
from grao.config.recipe import DataConfig, Recipe
from grao.config.study import SandboxConfig, Study
from grao.data import fingerprint, load_split
from grao.data.split import Split, split_examples
from grao.records.cell import CellRecord, Key, Role
from grao.studies.cell import Cell

_PLACES = (("output",), ("model", "path"), ("data", "path"), ("data", "test_path"))
"""Fields of a recipe that say where something lies; what lies there is compared instead."""
_MEMORY = (("rollout", "batch_size"), ("training", "token_budget"))
"""Fields that change no result."""
_SPLIT_SEED = 0
"""Of what is held out: one choice for all seeds, so that they are evaluated on the same prompts."""


@dataclass
class Material:
    """What the runs of a study share, loaded once.

    Args:
        study: the study.
    """

    study: Study
    _splits: dict[str, Split] = field(default_factory=dict)
    _models: dict[str, str] = field(default_factory=dict)

    def split(self, data: DataConfig, role: Role) -> Split:
        """Training and held-out examples.

        For a selection both come from the training side: its prompts are never those of the final evaluation.
        """
        key = f"{role} {data}"
        if key not in self._splits and role == "final":
            self._splits[key] = load_split(data, _SPLIT_SEED)
        elif key not in self._splits:
            final = self.split(data, "final")
            self._splits[key] = split_examples(final.train, self.study.selection.prompts, _SPLIT_SEED)
        return self._splits[key]

    def model(self, path: str, world: SandboxConfig | None) -> str:
        """What the model is, wherever it lies: the sandbox's arguments, a digest of the weights, or the hub id."""
        if world:
            usual = world.objectives == SandboxConfig().objectives
            others = "" if usual else f" {' '.join(world.objectives)}"
            return f"sandbox {world.ability} {world.architecture} {world.seed}{others}"
        if path not in self._models:
            weights = sorted(Path(path).glob("*.safetensors"))
            self._models[path] = _digest(weights) if weights else path
        return self._models[path]


def final_cells(study: Study, arms: Sequence[Arm], rates: dict[str, float], material: Material) -> list[Cell]:
    """The runs that count, seed by seed, of the arms that have a learning rate."""
    keys = [
        (arm, Key(arm.name, "final", rates[arm.name], seed))
        for seed in study.seeds
        for arm in arms
        if arm.name in rates
    ]
    return [_cell(study, arm, key, material) for arm, key in keys]


def selection_cells(study: Study, arms: Sequence[Arm], material: Material) -> list[Cell]:
    """The runs that choose a learning rate, of the arms that have a choice."""
    keys = [
        (arm, Key(arm.name, "select", rate, seed))
        for seed in study.selection.seeds
        for arm in arms
        if len(arm.learning_rates) > 1
        for rate in arm.learning_rates
    ]
    return [_cell(study, arm, key, material) for arm, key in keys]


def counts(record: CellRecord, settings: dict[str, Any]) -> bool:
    """Whether a record was made with these settings."""
    return all(record.settings.get(name, _default(name)) == value for name, value in settings.items()) and all(
        name in settings for name in record.settings
    )


def _cell(study: Study, arm: Arm, key: Key, material: Material) -> Cell:
    split = material.split(arm.recipe.data, key.role)
    recipe = replace(
        arm.recipe,
        seed=key.seed,
        output=study.output / "work" / key.name,
        training=replace(arm.recipe.training, learning_rate=key.learning_rate),
    )
    final = key.role == "final"
    return Cell(
        key=key,
        recipe=recipe,
        settings=_settings(study, arm, recipe, split, material.model(recipe.model.path, arm.world)),
        split=split,
        noise=arm.noise,
        evaluate_every=study.evaluate_every if final else None,
        seconds=study.budget.seconds,
        model=study.output / "models" / key.name if study.keep_models and final else None,
    )


def _settings(study: Study, arm: Arm, recipe: Recipe, split: Split, model: str) -> dict[str, Any]:
    """All that decides the result of a run, and what its record holds besides."""
    tree = ADAPTER.dump_python(recipe, mode="json", by_alias=True)
    fields = {".".join(at): _content(at, value) for at, value in _leaves(tree, ()) if at not in (*_PLACES, *_MEMORY)}
    noise = {f"study.noise.{name}": share for name, share in vars(arm.noise).items() if share}
    return {
        **fields,
        **noise,
        "study.model": model,
        "study.train": fingerprint(split.train)[:16],
        "study.held_out": fingerprint(split.test)[:16],
        "study.evaluate_every": study.evaluate_every,
        "study.seconds": study.budget.seconds,
    }


def _content(at: tuple[str, ...], value: Any) -> Any:
    """Of a reward in a Python file, the name of the file and a digest in place of where it lies."""
    file, _, name = value.rpartition(":") if at[-1:] == ("function",) and isinstance(value, str) else ("", "", "")
    path = Path(file)
    return f"{path.name}:{name} {_digest([path])}" if path.suffix == ".py" and path.is_file() else value


def _leaves(value: Any, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value inside nested mappings and lists, and where it stands."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inside or not value:
        yield at, value
    else:
        for key, item in inside:
            yield from _leaves(item, (*at, str(key)))


def _default(name: str) -> Any:
    facts = field_facts(Recipe).get(general(tuple(name.split("."))))
    return facts.default if facts else None


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
