"""`grao export`: writes the trained model of a run, with a model card, into a folder that other tools can load.

model.safetensors ...    all weights; for an adapter, adapter_model.safetensors and adapter_config.json
generation_config.json   end tokens, and the sampling used in training
tokenizer.json ...       tokenizer and chat template used in training
README.md                model card
grao_export.json         what was exported; marks the folder as an export

Not exported: critic, optimizer and random state of a checkpoint, and anything pickled.
"""

import os
import re
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
from grao.studies.settings import deciding_settings

Kind = Literal["whole", "adapter", "merged"]

_MODEL = ("config.json", "model*.safetensors", "model.safetensors.index.json", "adapter_*", "*.py")
"""Files to copy; the tokenizer is saved separately."""


@dataclass(frozen=True)
class Exported:
    """`grao_export.json`."""

    run: str
    """Name of the run's folder."""
    step: int | None
    """Optimizer steps of the model."""
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
    """Export the model of a run, and push it if `push` is given.

    Args:
        run: folder of the run.
        screen: shows progress.
        checkpoint: step of the checkpoint to export instead of the result.
        merge: merge the adapter into its base, which must not be stored quantized.
        dtype: number format of merged weights; by default that of the base.
        to: target folder; by default `export` in the run's folder. An earlier export is replaced.
        push: repository on the hub, `NAME/REPO`.
        public: make the repository public.

    Returns:
        The folder, and the URL on the hub if it was pushed.

    Raises:
        InputError: if there is no such model, it cannot be exported like this, the folder is in use, or the push fails.
    """
    if push:
        check_push(push)
    source, recipe = _source(run, checkpoint, merge, pushed=push is not None), load_recipe(run / "recipe.yaml")
    to = Path(os.path.abspath(to or run / "export"))
    draft = to.with_name(f".{to.name}.part")
    with _reserved(to), screen.stage("export"):
        remove(draft)
        try:
            draft.mkdir()
            _EXPORTED.write(draft, Exported(run.resolve().name, source.step, source.kind))
            facts = _write_model(draft, source, recipe, dtype or "auto")
            write_card(draft, _card(run, source, recipe, push or run.resolve().name, checkpoint is None, *facts))
            publish(draft, to)
        finally:
            remove(draft)
    if push is None:
        return to, None
    with screen.stage("push"):
        return to, upload(to, push, public, _EXPORTED.name)


class _Source(NamedTuple):
    """The model to export."""

    folder: Path
    step: int | None
    manifest: Manifest
    adapter: Adapter | None
    kind: Kind


def _source(run: Path, checkpoint: int | None, merge: bool, pushed: bool) -> _Source:
    """Find the model to export.

    Raises:
        InputError: if there is none, there is no adapter to merge, or other tools could not load it.
    """
    if (run / "reward.json").exists():
        raise InputError(f"RUN: {run} is a trained reward model; use {run}/model as it is")
    manifest = records.read_manifest(run)
    if manifest is None:
        raise InputError(f"RUN: {run} is not a run: there is no manifest.json in it")
    folder = _trained(run, checkpoint, manifest)
    try:
        check_model_folder(folder)
        adapter = adapter_at(str(folder))
        stacked = adapter and not merge and adapter_at(adapter.base)
    except InputError as error:
        raise InputError(f"RUN: {str(error).removeprefix('model.path: ')}") from error
    if not any(folder.glob("*model*.safetensors")):
        raise InputError(f"RUN: {folder} has no weights in safetensors; resume the run and export its result")
    if merge and not adapter:
        raise InputError(f"--merge: {folder} is a full model with no adapter to merge; leave out --merge")
    if adapter and stacked:
        raise InputError(f"RUN: the base {adapter.base} is an adapter; other tools cannot stack adapters; give --merge")
    if adapter and not merge and pushed and not hub_id(adapter.base):
        raise InputError(f"--push: the base {adapter.base} is a local folder, which nobody else has; give --merge")
    logged = [int(line["step"]) for line in records.read_metrics(run)]
    step = checkpoint or manifest.saved or (logged[-1] if logged else manifest.steps)
    return _Source(folder, step, manifest, adapter, "merged" if merge else "adapter" if adapter else "whole")


def _trained(run: Path, step: int | None, manifest: Manifest) -> Path:
    """Return the folder of the result, or of the checkpoint of `step`."""
    steps = [path.name.rpartition("-")[2] for path in checkpoints(run / "checkpoints")]
    if step is not None:
        folder = run / "checkpoints" / f"checkpoint-{step}"
        if not folder.is_dir():
            available = f"there are {', '.join(steps)}" if steps else "the run has none"
            raise InputError(f"--checkpoint: there is no checkpoint of step {step}; {available}")
        if problem := fault(folder):
            raise InputError(f"--checkpoint: {folder} is incomplete: {problem}")
        return folder
    if not any((run / "model" / name).exists() for name in ("config.json", "adapter_config.json")):
        resume = f"continue it with `{command('train', '--resume', run)}`"
        remedy = f"{resume}, or give --checkpoint {steps[-1]}" if steps else resume
        raise InputError(f"RUN: {run} has no model yet (status: {manifest.status}); {remedy}")
    return run / "model"


@contextmanager
def _reserved(to: Path) -> Iterator[None]:
    """Lock the folder, which may then be replaced.

    Raises:
        InputError: if it is neither empty nor an export, or cannot be written.
    """
    try:
        check_writable(to)
        with locked(to):
            names = {path.name for path in to.iterdir()} - {".lock"}
            if names and _EXPORTED.name not in names:
                raise InputError(f"output: {to} is not empty and is not an export; choose another folder")
            yield
    except InputError as error:
        raise InputError(re.sub("^output: ", "--to: ", str(error))) from error


def _write_model(draft: Path, source: _Source, recipe: Recipe, dtype: Dtype) -> tuple[str, bool]:
    """Write weights, tokenizer and generation config; return the dtype, and whether there is a chat template."""
    path, trust = str(source.folder), recipe.model.trust_remote_code
    tokenizer, model = load_tokenizer(path, trust), model_shape(path, "auto", trust)
    if source.kind == "merged":
        if getattr(model.config, "quantization_config", None):
            problem = "its base is stored quantized, so merged weights would be rounded"
            raise InputError(f"--merge: {path}: {problem}; export the adapter alone")
        model = load_model(path, dtype, trust_remote_code=trust)
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
    """Return the contents of the model card; measurements are included only for the `result` of the run."""
    manifest, metrics = source.manifest, records.read_metrics(run)
    evaluation = records.read_evaluation(run) if result and manifest.complete else None
    base = source.adapter.base if source.adapter else recipe.model.path
    facts = recipe, manifest, _settings(recipe), evaluation, metrics, _license(base)
    return Card(name, source.kind, base, dtype, source.step, chat, *facts)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return {dotted field: value} of the settings that affect the result and differ from their defaults."""
    sections = {name: type(getattr(recipe, name))() for name in ("method", "rollout", "training", "evaluation")}
    defaults = deciding_settings(replace(recipe, model=ModelConfig(recipe.model.path), stages=[], **sections))
    return {name: value for name, value in deciding_settings(recipe).items() if value != defaults.get(name)}


def _license(base: str) -> dict[str, str]:
    """Return the license fields of the base's own card; empty if there are none or the card is unavailable."""
    try:
        card = cached_file(base, "README.md", _raise_exceptions_for_missing_entries=False)
        metadata = (card and metadata_load(card)) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    names = ("license", "license_name", "license_link")
    return {name: metadata[name] for name in names if isinstance(metadata.get(name), str)}
