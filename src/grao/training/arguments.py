"""From our few settings to transformers.TrainingArguments, with the rest passed through and checked."""

import dataclasses
import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainingArguments

from grao.config.recipe import GRAOConfig, TrainingConfig
from grao.data.encoding import EncodedSet
from grao.engine.loading import usual_learning_rate
from grao.errors import InputError
from grao.methods.base import Method
from grao.types import Example

_HALF_PRECISION_RATE = 5e-5
"""Below it Adam's steps are mostly smaller than what bfloat16 can tell apart."""

_SAME = ("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm")
"""Fields of TrainingArguments that go by the same name in `training`."""

_OURS = {
    "output_dir": "output",
    "seed": "seed",
    "max_steps": "training.steps",
    "num_train_epochs": "training.steps",
    "per_device_train_batch_size": "training.prompts_per_step",
    "gradient_accumulation_steps": "training.token_budget",
    "lr_scheduler_type": "training.schedule",
    "save_steps": "training.save_every",
    "save_strategy": "training.save_every",
    **{name: f"training.{name}" for name in _SAME},
}
"""Fields of TrainingArguments that have a name of their own here."""


def training_arguments(config: GRAOConfig, steps: int) -> TrainingArguments:
    """The arguments of the trainer: the paper's optimiser, one log line a step, no reporting service by default.

    Raises:
        InputError: for a field under `training.trainer` that does not exist or is set elsewhere.
    """
    training = config.training
    check_trainer_fields(training.trainer, TrainingArguments, _OURS)
    values: dict[str, Any] = {
        "output_dir": str(config.output_dir / "checkpoints"),
        "seed": config.seed,
        "max_steps": steps,
        **{name: getattr(training, name) for name in _SAME},
        "lr_scheduler_type": training.schedule,
        "save_strategy": "steps" if training.save_every else "no",
        "save_steps": training.save_every or 500,
        "logging_steps": 1,
        "logging_first_step": True,
        "report_to": "none",
        **training.trainer,
    }
    try:
        arguments = TrainingArguments(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"training.trainer: {' '.join(str(error).split())}") from error
    if arguments.n_gpu > 1:
        raise InputError(
            f"{arguments.n_gpu} GPUs in one process: start with `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one"
        )
    return arguments


def check_trainer_fields(extra: dict[str, Any], arguments: type, ours: Mapping[str, str]) -> None:
    """Checks the section `training.trainer`.

    Args:
        extra: the section.
        arguments: the dataclass that its fields belong to.
        ours: fields of it that have a name of their own here -> that name.

    Raises:
        InputError: for a field that does not exist or is set elsewhere.
    """
    known = [field.name for field in dataclasses.fields(arguments) if field.init]
    for name in extra:
        if name in ours:
            raise InputError(f"training.trainer.{name} is set by {ours[name]}; set that instead")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            package = arguments.__module__.partition(".")[0]
            hint = f"; did you mean {near[0]}?" if near else f", it is no field of {package}.{arguments.__name__}"
            raise InputError(f"training.trainer.{name} is unknown{hint}")


def check_settings(training: TrainingConfig, accelerator: Accelerator, model: nn.Module) -> None:
    """Stops what cannot work and warns of what learns nothing.

    Raises:
        InputError: if there are more processes than prompts in a step, or the model is split over processes:
            each samples at its own pace, which split weights do not allow.
    """
    if training.prompts_per_step < accelerator.num_processes:
        raise InputError(
            f"training.prompts_per_step is {training.prompts_per_step}, but there are {accelerator.num_processes} "
            "processes; give each at least one prompt"
        )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        kind = accelerator.distributed_type.value
        raise InputError(f"{kind} is not supported yet: start with plain `accelerate launch` (one copy per GPU)")
    usual, rate = usual_learning_rate(model), training.learning_rate
    if rate * 20 <= usual:
        warnings.warn(
            f"training.learning_rate {rate:g} is the rate for a model of billions of weights; "
            f"this one will hardly move, {usual:g} is usual at its size",
            stacklevel=3,
        )
    if rate < _HALF_PRECISION_RATE and any(p.requires_grad and p.dtype == torch.bfloat16 for p in model.parameters()):
        warnings.warn(
            f"training.learning_rate {rate:g} is lost in the rounding of bfloat16 weights; "
            "set model.dtype: float32 and training.trainer.bf16: true",
            stacklevel=3,
        )


def check_needs(method: Method, examples: Sequence[Example], watched: bool) -> None:
    """Checks that a method gets what it needs.

    Args:
        method: what is learned.
        examples: to train on.
        watched: whether a second reward is to look at the samples.

    Raises:
        InputError: if a row lacks a rejected answer that is needed, or there are no samples to watch.
    """
    incomplete = [example.row for example in examples if method.needs.rejected and not example.rejected]
    if incomplete:
        raise InputError(
            f"method.name: {method.name} needs a rejected answer to every prompt, row {incomplete[0]} has none; "
            "name their column with data.rejected, or leave such rows out"
        )
    if watched and not method.needs.samples:
        raise InputError(f"watch: {method.name} samples nothing that a second reward could look at; leave watch out")


def fitting(config: GRAOConfig, model: nn.Module, encoded: EncodedSet) -> EncodedSet:
    """The examples whose prompt and reference fit into the model's positions; the others count as dropped.

    Raises:
        InputError: if none does, or the longest prompt leaves no room for a sampled answer.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[operator, union-attr]
    if not positions:
        return encoded
    items = [
        item
        for item in encoded.items
        if len(item.prompt_ids) + max(len(item.reference_ids), len(item.rejected_ids)) <= positions
    ]
    if not items:
        raise InputError(f"data: no prompt with its reference fits into the model's {positions} positions")
    prompt = max(len(item.prompt_ids) for item in items)
    if prompt + config.rollout.max_new_tokens > positions:
        raise InputError(
            f"rollout.max_new_tokens is {config.rollout.max_new_tokens} and the longest prompt has {prompt} tokens, "
            f"but the model has {positions} positions; lower it or data.max_prompt_tokens"
        )
    return EncodedSet(items, encoded.dropped + len(encoded.items) - len(items), encoded.truncated)
