"""Build transformers' TrainingArguments from a GRAOConfig; check the `training.trainer` fields passed through."""

import dataclasses
import difflib
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import DistributedType
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from grao.config.library import GRAOConfig
from grao.config.other_trainers import OTHER_NAMES, UNFIT
from grao.config.recipe import TrainingConfig
from grao.data.encoding import EncodedSet
from grao.engine.limits import check_tokens, positions
from grao.engine.loading import rounded_away, usual_learning_rate
from grao.errors import InputError, one_line
from grao.methods.stage import Stage
from grao.types import Example

_MOSTLY = 0.5
"""Warn if more than this share of the weights is lost to rounding."""

_LIBRARY = ("transformers.train", "transformers.integrations.integration_utils", "trl.")
"""Modules whose errors concern `training.trainer`."""
_IN_SINGLE = (DistributedType.FSDP, DistributedType.DEEPSPEED)
"""Backends that keep float32 master weights under mixed precision, whatever dtype was loaded."""
_OUTSIDE = ("safetensors", "torch.serialization", "torch._C", "torch.distributed")
"""Modules that fail when the disk is full or another process has died."""

_SAME = ("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm")
"""Fields of TrainingArguments with the same name in `training`."""

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
"""Fields of TrainingArguments -> the setting that replaces them here."""

MEASURED = ("reward", "win", "tie", "lose")
"""Metrics measured by `GRAOTrainer.evaluate`."""


def training_arguments(config: GRAOConfig, steps: int) -> TrainingArguments:
    """Return the trainer's arguments: the paper's optimizer, one log line per step, no reporting service by default.

    Args:
        config: the run's settings.
        steps: optimizer steps of the run, at most.

    Raises:
        InputError: if a field of `training.trainer` does not exist, is set elsewhere, has no effect or has an invalid
            value.
    """
    training = config.training
    extra = check_trainer_fields(training.trainer, TrainingArguments, _OURS)
    defaults = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    if unfit := next((name for name, value in extra.items() if name in UNFIT and value != defaults[name]), None):
        raise InputError(f"training.trainer.{unfit} is not supported: {UNFIT[unfit]}; leave it out")
    constant = training.schedule == "constant"
    if constant and extra.get("lr_scheduler_kwargs"):
        problem = "has no effect with training.schedule: constant"
        raise InputError(f"training.trainer.lr_scheduler_kwargs {problem}; leave it out")
    metric = str(extra.get("metric_for_best_model") or MEASURED[0]).removeprefix("eval_")
    if metric not in MEASURED:
        problem = f"must be {' or '.join(MEASURED)}, got {metric}"
        raise InputError(f"training.trainer.metric_for_best_model {problem}; nothing else is measured during training")
    best = {"metric_for_best_model": metric, "greater_is_better": metric != "lose"}
    values: dict[str, Any] = {
        "output_dir": str(config.output_dir / "checkpoints"),
        "seed": config.seed,
        "max_steps": steps,
        **{name: getattr(training, name) for name in _SAME},
        "lr_scheduler_type": "constant_with_warmup" if constant and training.warmup_steps else training.schedule,
        "save_strategy": "steps" if training.save_every else "no",
        "save_steps": training.save_every or 500,
        "logging_steps": 1,
        "logging_first_step": True,
        "report_to": "none",
        "disable_tqdm": True,
        "run_name": config.output_dir.name,
        **(best if extra.get("load_best_model_at_end") else {}),
        **extra,
    }
    with library_errors(extra):
        arguments = TrainingArguments(**values)
    if arguments.load_best_model_at_end and not (arguments.do_eval and training.save_every):
        needed = "needs training.trainer.eval_strategy: steps and training.save_every"
        raise InputError(f"training.trainer.load_best_model_at_end {needed}")
    if arguments.n_gpu > 1:
        raise InputError(
            f"{arguments.n_gpu} GPUs in one process: use `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one GPU"
        )
    return arguments


def check_trainer_fields(extra: dict[str, Any], arguments: type, ours: Mapping[str, str]) -> dict[str, Any]:
    """Check the section `training.trainer`.

    Args:
        extra: the section.
        arguments: the dataclass that has these fields.
        ours: fields of it that other settings replace -> the names of those settings.

    Returns:
        The section, with values converted to the types that the dataclass declares.

    Raises:
        InputError: if a field does not exist or is set elsewhere, or if its value has the wrong type, is negative, or
            is 0 where steps are counted.
    """
    fields = {field.name: field for field in dataclasses.fields(arguments) if field.init}
    values = {}
    for name, value in extra.items():
        if name in ours:
            raise InputError(f"training.trainer.{name} is set by {ours[name]}; set that instead")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            package = arguments.__module__.partition(".")[0]
            hint = f"; did you mean {near[0]}?" if near else f", {package}.{arguments.__name__} has no such field"
            hint = f"; use {OTHER_NAMES[name]}" if name in OTHER_NAMES else hint
            raise InputError(f"training.trainer.{name} is unknown{hint}")
        values[name] = _checked(name, value, fields[name])
    return values


def _checked(name: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    """Return the value of a field, converted to its declared type."""
    declared: Any = field.type
    try:
        value = TypeAdapter(declared, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise InputError(f"training.trainer.{name} must be {said}, got {value!r}") from error
    number = isinstance(value, int | float) and not isinstance(value, bool)
    least = "above 0" if name.endswith("_steps") else "at least 0"
    if number and (not value >= 0 or (value == 0 and least == "above 0")) and value != field.default:
        raise InputError(f"training.trainer.{name} must be {least}, got {value}")
    return value


@contextmanager
def library_errors(section: Mapping[str, Any]) -> Iterator[None]:
    """Turn exceptions of transformers' trainer, or of a `report_to` service, into one-line input errors.

    An exception counts as the library's if, of all frames of the library and of grao, the innermost is the library's.
    Exceptions of a model's forward pass, of a reward or of grao itself pass through, as do those of a full disk or a
    lost process.

    Args:
        section: the section `training.trainer`; the message names the option that the exception mentions.

    Raises:
        InputError: in place of the library's exception.
    """
    try:
        yield
    except Exception as error:
        frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        nearest = next((name for name in reversed(frames) if name.startswith(("grao.", *_LIBRARY))), "grao.")
        if nearest.startswith("grao.") or frames[-1].startswith(_OUTSIDE):
            raise
        text = one_line(error, None)
        mentioned = [name for name, value in section.items() if _occurs(name, text) or _occurs(value, text)]
        if mentioned or len(section) == 1:
            option = f".{(mentioned or [*section])[0]}"
        else:
            option = f" ({', '.join(section)})" if section else ""
        elsewhere = [f"{theirs} is {ours} here" for theirs, ours in _OURS.items() if _occurs(theirs, text)]
        hint = f" ({', '.join(elsewhere)})" if elsewhere else ""
        raise InputError(f"training.trainer{option}: {text}{hint}") from error


def _occurs(value: Any, text: str) -> bool:
    """Whether a text mentions a value, or one of several."""
    words = [str(word) for word in (value if isinstance(value, list | dict) else [value]) if not isinstance(word, bool)]
    return any(
        re.search(rf"\b{re.escape(word).replace('_', '[-_ ]')}", text, re.IGNORECASE) for word in words if word[2:]
    )


def check_library(trainer: Trainer, steps: int) -> None:
    """Create and discard optimizer and schedule, so that bad options fail now and not inside `train`.

    Args:
        trainer: before its training.
        steps: optimizer steps of the schedule.

    Raises:
        InputError: if the model does not support activation checkpointing but the trainer asks for it.
        Exception: whatever transformers raises for a bad option.
    """
    model = cast(PreTrainedModel, trainer.model)
    if trainer.args.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", True):
        raise InputError(f"training.trainer.gradient_checkpointing: {type(model).__name__} does not support it")
    trainer.create_optimizer_and_scheduler(steps)
    trainer.optimizer = trainer.lr_scheduler = None


def check_settings(training: TrainingConfig, plan: Sequence[Stage], accelerator: Accelerator, model: nn.Module) -> None:
    """Reject settings that cannot work and warn of a learning rate that is too small.

    Args:
        training: the section of the recipe.
        plan: the stages of the run.
        accelerator: the trainer's accelerator.
        model: the policy.

    Raises:
        InputError: if there are more processes than prompts per step, or the stages do not work with DeepSpeed or with
            several processes.
    """
    if len(plan) > 1 and accelerator.distributed_type is DistributedType.DEEPSPEED:
        raise InputError(
            "stages: DeepSpeed's optimizer cannot be replaced between stages; use FSDP2 or DDP, or one run per stage"
        )
    if accelerator.num_processes > 1 and any(stage.method.needs.critic for stage in plan[1:]):
        raise InputError("stages: with several processes no later stage may add a critic; make it a run of its own")
    if training.prompts_per_step < accelerator.num_processes:
        raise InputError(
            f"training.prompts_per_step is {training.prompts_per_step}, but there are {accelerator.num_processes} "
            "processes; give each at least one prompt"
        )
    usual, rate = usual_learning_rate(model), training.learning_rate
    if rate * 20 <= usual:
        warnings.warn(
            f"training.learning_rate {rate:g} is for models of billions of weights; "
            f"this one will hardly move, {usual:g} is usual at its size",
            stacklevel=3,
        )
    singly = accelerator.distributed_type in _IN_SINGLE and accelerator.mixed_precision != "no"
    rounding = not singly and "stochastic_round" not in str(training.trainer.get("optim_args"))
    lost = rounded_away(model, rate) if rounding else 0.0
    if lost > _MOSTLY:
        warnings.warn(
            f"training.learning_rate {rate:g}: steps this small are lost to rounding in {lost:.0%} of the weights "
            "trained in half precision; set model.dtype: float32 and training.trainer.bf16: true",
            stacklevel=3,
        )


def check_needs(plan: Sequence[Stage], examples: Sequence[Example], watched: bool) -> None:
    """Check that every method of a run gets the data it needs.

    Args:
        plan: the stages of the run.
        examples: the training examples.
        watched: whether a watch scores the samples with a second reward.

    Raises:
        InputError: if a row lacks a rejected answer that a method needs, or there are no samples to watch.
    """
    methods = [stage.method for stage in plan]
    lacking = [example.at for example in examples if not example.rejected]
    if lacking and (needy := next((method for method in methods if method.needs.rejected), None)):
        raise InputError(
            f"method.name: {needy.name} needs a rejected answer to every prompt; {lacking[0]} has none; "
            "set data.rejected to their column, or remove such rows"
        )
    if watched and not any(method.needs.samples for method in methods):
        names = " and ".join(method.name for method in methods)
        raise InputError(f"watch: {names} does not sample during training, so there is nothing to watch; leave it out")


def drop_too_long(
    config: GRAOConfig, model: nn.Module, encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase
) -> EncodedSet:
    """Drop the examples that are longer than the model's context; they count in `dropped`.

    Args:
        config: the run's settings.
        model: the policy.
        encoded: the encoded examples.
        tokenizer: names a token that the model lacks.

    Raises:
        InputError: if no example is left, the longest prompt leaves no room for a completion, or a token is outside
            the model's vocabulary.
    """
    longest = positions(model)
    for item in encoded.items:
        ids = (*item.prompt_ids, *item.reference_ids, *item.rejected_ids)
        check_tokens(model, tokenizer, item.example.at, ids)
    if not longest:
        return encoded
    items = [
        item
        for item in encoded.items
        if len(item.prompt_ids) + max(len(item.reference_ids), len(item.rejected_ids)) <= longest
    ]
    if not items:
        raise InputError(f"data: every prompt with its reference is longer than the model's {longest} positions")
    prompt = max(len(item.prompt_ids) for item in items)
    if prompt + config.rollout.max_new_tokens > longest:
        raise InputError(
            f"rollout.max_new_tokens is {config.rollout.max_new_tokens} and the longest prompt has {prompt} tokens, "
            f"but the model has {longest} positions; lower it or data.max_prompt_tokens"
        )
    return EncodedSet(items, encoded.dropped + len(encoded.items) - len(items), encoded.truncated)
