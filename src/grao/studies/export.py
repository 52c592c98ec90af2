"""`grao export`: the trained model of a run as a folder that other tools load, with a card that says what it is.

model.safetensors ...    all weights; of an adapter alone adapter_model.safetensors and adapter_config.json
generation_config.json   the tokens that end an answer, and the sampling that it was trained with
tokenizer.json ...       with the chat template, as it was trained
README.md                the model card
grao_export.json         what was exported, by which a folder is known as an export

Left out: critic, optimiser and random state of a checkpoint, and everything pickled.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from huggingface_hub import metadata_load
from pydantic.dataclasses import dataclass
from transformers import GenerationConfig
from transformers.utils.hub import cached_file

from grao.command import command
from grao.config.load import load_recipe
from grao.config.recipe import ModelConfig, Recipe
from grao.engine.adapters import Adapter, adapter_at
from grao.engine.folder import check_model_folder
from grao.engine.loading import check_finite, load_model, load_tokenizer, model_shape, stop_token_ids
from grao.errors import InputError
from grao.records import run as records
from grao.records.checkpoints import checkpoints, fault, publish, remove
from grao.records.files import Record
from grao.records.lock import locked
from grao.records.run import Manifest
from grao.reports.model_card import Card, hub_id, write_card
from grao.settings import Dtype
from grao.studies.hub import check_push, upload
from grao.studies.prepare import Screen, check_writable
from grao.studies.settings import decisive

Kind = Literal["whole", "adapter", "merged"]

_MODEL = ("config.json", "model*.safetensors", "model.safetensors.index.json", "adapter_*", "*.py")
"""Files that are copied; the tokenizer writes its own."""


@dataclass(frozen=True)
class Exported:
    """`grao_export.json`."""

    run: str
    """Name of its folder."""
    step: int | None
    """Optimiser steps that the model has seen."""
    kind: Kind


_EXPORTED = Record("grao_export.json", Exported)


def export_run(
    run: Path,
    screen: Screen,
    checkpoint: int | None = None,
    merge: bool = False,
    dtype: Dtype | None = None,
    to: Path | None = None,
    push: str | None = None,
    public: bool = False,
) -> tuple[Path, str | None]:
    """Exports the model of a run, and pushes it if that is wanted.

    Args:
        run: its folder.
        screen: where it shows how far it is.
        checkpoint: step of the checkpoint to take in place of the result.
        merge: put the adapter into the weights of its base, never of a quantised one.
        dtype: number format of merged weights; by default the base's own.
        to: where it goes; by default `export` in the run's folder. Another export is replaced.
        push: repository of the hub, `NAME/REPO`.
        public: whether all may read that.

    Returns:
        The folder, and the address on the hub if it was pushed.

    Raises:
        InputError: if there is no such model, it cannot be exported like that, the folder is taken, or the push fails.
    """
    if push:
        check_push(push)
    source, recipe = _source(run, checkpoint, merge, pushed=push is not None), load_recipe(run / "recipe.yaml")
    to = Path(os.path.abspath(to or run / "export"))
    draft = to.with_name(f".{to.name}.part")
    with _claimed(to), screen.stage("export"):
        remove(draft)
        try:
            draft.mkdir()
            _EXPORTED.write(draft, Exported(run.resolve().name, source.step, source.kind))
            told = _fill(draft, source, recipe, dtype or "auto")
            write_card(draft, _card(run, source, recipe, push or run.resolve().name, checkpoint is None, *told))
            publish(draft, to)
        finally:
            remove(draft)
    if push is None:
        return to, None
    with screen.stage("push"):
        return to, upload(to, push, public, _EXPORTED.name)


class _Source(NamedTuple):
    """What is exported."""

    folder: Path
    step: int | None
    manifest: Manifest
    adapter: Adapter | None
    kind: Kind


def _source(run: Path, checkpoint: int | None, merge: bool, pushed: bool) -> _Source:
    """The model to export.

    Raises:
        InputError: if there is none, there is no adapter to merge, or others could not load it by itself.
    """
    if (run / "reward.json").exists():
        raise InputError(f"RUN: {run} is a trained reward model; {run}/model can be taken as it is")
    manifest = records.read_manifest(run)
    if manifest is None:
        raise InputError(f"RUN: {run} holds no run: there is no manifest.json in it")
    folder = _trained(run, checkpoint, manifest)
    try:
        check_model_folder(folder)
        adapter = adapter_at(str(folder))
        stacked = adapter and not merge and adapter_at(adapter.base)
    except InputError as error:
        raise InputError(f"RUN: {str(error).removeprefix('model.path: ')}") from error
    if not any(folder.glob("*model*.safetensors")):
        raise InputError(f"RUN: {folder} holds no weights in safetensors; go on with the run and export its result")
    if merge and not adapter:
        raise InputError(f"--merge: {folder} is a whole model, there is no adapter to merge; leave it out")
    if adapter and stacked:
        raise InputError(f"RUN: the base {adapter.base} is an adapter too, and other tools stack none; give --merge")
    if adapter and not merge and pushed and not hub_id(adapter.base):
        raise InputError(f"--push: the base {adapter.base} is a folder here, which nobody else has; give --merge")
    logged = [int(line["step"]) for line in records.read_metrics(run)]
    step = checkpoint or manifest.saved or (logged[-1] if logged else manifest.steps)
    return _Source(folder, step, manifest, adapter, "merged" if merge else "adapter" if adapter else "whole")


def _trained(run: Path, step: int | None, manifest: Manifest) -> Path:
    """The folder of the result, or of the checkpoint that was asked for."""
    steps = [path.name.rpartition("-")[2] for path in checkpoints(run / "checkpoints")]
    if step is not None:
        folder = run / "checkpoints" / f"checkpoint-{step}"
        if not folder.is_dir():
            known = f"there are {', '.join(steps)}" if steps else "the run has none"
            raise InputError(f"--checkpoint: there is no checkpoint of step {step}; {known}")
        if why := fault(folder):
            raise InputError(f"--checkpoint: {folder} is not whole: {why}")
        return folder
    if not any((run / "model" / name).exists() for name in ("config.json", "adapter_config.json")):
        go_on = f"continue it with `{command('train', '--resume', run)}`"
        remedy = f"{go_on}, or give --checkpoint {steps[-1]}" if steps else go_on
        raise InputError(f"RUN: {run} has no model yet (status: {manifest.status}); {remedy}")
    return run / "model"


@contextmanager
def _claimed(to: Path) -> Iterator[None]:
    """Within it, the folder may be replaced and no other process does.

    Raises:
        InputError: if it holds anything but an export, or cannot be written.
    """
    try:
        check_writable(to)
        with locked(to):
            held = {path.name for path in to.iterdir()} - {".lock"}
            if held and _EXPORTED.name not in held:
                raise InputError(f"output: {to} holds something else than an export; choose another folder")
            yield
    except InputError as error:
        said = str(error)
        raise InputError(f"--to: {said.removeprefix('output: ')}" if said.startswith("output: ") else said) from error


def _fill(draft: Path, source: _Source, recipe: Recipe, dtype: Dtype) -> tuple[str, bool]:
    """Writes weights, tokenizer and settings; returns the weights' format, and whether there is a chat template."""
    path, trusted = str(source.folder), recipe.model.trust_remote_code
    tokenizer, model = load_tokenizer(path, trusted), model_shape(path, "auto", trusted)
    if source.kind == "merged":
        if getattr(model.config, "quantization_config", None):
            problem = "its base is stored quantised, and the sum would be rounded to that"
            raise InputError(f"--merge: {path}: {problem}; export the adapter alone")
        model = load_model(path, dtype, trust_remote_code=trusted)
        check_finite(model, "--merge: the merged model")
        model.save_pretrained(draft)
    else:
        for file in {file for pattern in _MODEL for file in source.folder.glob(pattern)}:
            shutil.copyfile(file, draft / file.name)
        with suppress(OSError):  # an adapter has none
            model.generation_config = GenerationConfig.from_pretrained(path)
    tokenizer.save_pretrained(draft)
    stops = source.manifest.stops or list(stop_token_ids(model, tokenizer))
    sampling = {"temperature": recipe.rollout.temperature, "top_p": recipe.rollout.top_p, "top_k": 0}  # no other filter
    special = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    end = stops[0] if len(stops) == 1 else stops
    GenerationConfig(eos_token_id=end, do_sample=True, **special, **sampling).save_pretrained(draft)
    return str(model.dtype).removeprefix("torch."), bool(tokenizer.chat_template)


def _card(run: Path, source: _Source, recipe: Recipe, name: str, result: bool, dtype: str, chat: bool) -> Card:
    """What the card tells; what was measured only if this is the `result` of the run."""
    manifest, metrics = source.manifest, records.read_metrics(run)
    measured = records.read_evaluation(run) if result and manifest.complete else None
    base = source.adapter.base if source.adapter else recipe.model.path
    known = recipe, manifest, _settings(recipe), measured, metrics, _license(base)
    return Card(name, source.kind, base, dtype, source.step, chat, *known)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Dotted field -> value of what decides the result and differs from its default."""
    sections = {name: type(getattr(recipe, name))() for name in ("method", "rollout", "training", "evaluation")}
    usual = decisive(replace(recipe, model=ModelConfig(recipe.model.path), stages=[], **sections))
    return {name: value for name, value in decisive(recipe).items() if value != usual.get(name)}


def _license(base: str) -> dict[str, str]:
    """What the base's own card says of its licence; empty if it says nothing, or lies out of reach."""
    try:
        card = cached_file(base, "README.md", _raise_exceptions_for_missing_entries=False)
        said = (card and metadata_load(card)) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    names = ("license", "license_name", "license_link")
    return {name: said[name] for name in names if isinstance(said.get(name), str)}
