"""A reward model learns from pairs: TRL's RewardTrainer. The one module that imports TRL.

The pairs come tokenised (`grao.models.conversation`), so that the model is later asked about what it was trained on.
Left out: checkpoints to go on from. What is stopped early is lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from grao.config.recipe import LoraConfig
from grao.config.reward_model import RewardTrainingConfig
from grao.errors import InputError
from grao.training.arguments import check_trainer_fields

_OURS = {
    "output_dir": "output",
    "seed": "seed",
    "max_steps": "training.steps",
    "num_train_epochs": "training.epochs",
    "per_device_train_batch_size": "training.pairs_at_once",
    "gradient_accumulation_steps": "training.pairs_per_step",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "lr_scheduler_type": "training.schedule",
    "warmup_steps": "training.warmup_steps",
    "max_grad_norm": "training.max_grad_norm",
    "center_rewards_coefficient": "training.centre",
    "max_length": "data.max_tokens",
    "gradient_checkpointing": "training.trainer.activation_checkpointing",
}
"""Fields of trl.RewardConfig that have a name of their own here."""


@dataclass(frozen=True)
class PairIds:
    """A pair as the model reads it: prompt and answer together, each as token ids."""

    better: list[int]
    worse: list[int]


def trl_module() -> Any:
    """The package `trl`, imported when it is needed.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import trl
    except ImportError as error:
        raise InputError("training a reward model needs TRL: pip install 'grao[reward]'") from error
    return trl


def train_on_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PairIds],
    config: RewardTrainingConfig,
    lora: LoraConfig | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[PreTrainedModel, int]:
    """The model, trained so that the better answers score higher, and the optimiser steps it took.

    Args:
        model: with one output (`new_reward_model`); it is changed.
        tokenizer: its, with a padding token.
        pairs: at least one.
        config: of the optimisation.
        lora: trains an adapter and the output, merged into the model in the end.
        seed: of the order of the pairs.
        progress: called with steps done and in all.

    Raises:
        InputError: if TRL is missing, or a setting is wrong.
    """
    trl = trl_module()
    rows = Dataset.from_dict({"chosen_ids": [p.better for p in pairs], "rejected_ids": [p.worse for p in pairs]})
    with TemporaryDirectory() as folder:
        try:
            trainer = trl.RewardTrainer(
                model=_adapted(model, lora) if lora else model,
                args=_arguments(config, seed, folder),
                train_dataset=rows,
                processing_class=tokenizer,
                callbacks=[_Shown(progress)],
            )
        except InputError:
            raise
        except (ValueError, TypeError, ImportError) as error:
            raise InputError(f"training.trainer: {' '.join(str(error).split())}") from error
        for printing in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printing)
        trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return trained.merge_and_unload() if lora else trained, trainer.state.global_step


def _arguments(config: RewardTrainingConfig, seed: int, folder: str) -> Any:
    reward_config = trl_module().RewardConfig
    check_trainer_fields(config.trainer, reward_config, _OURS)
    at_once, rounds = _rounds(config)
    return reward_config(
        **{
            "output_dir": folder,
            "seed": seed,
            "max_steps": config.steps or -1,
            "num_train_epochs": config.epochs,
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": rounds,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            "lr_scheduler_type": config.schedule,
            "warmup_steps": config.warmup_steps,
            "max_grad_norm": config.max_grad_norm,
            "center_rewards_coefficient": config.centre or None,
            "max_length": None,
            "bf16": False,
            "activation_checkpointing": False,
            "dataloader_pin_memory": torch.cuda.is_available(),
            "save_strategy": "no",
            "report_to": "none",
            **config.trainer,
        }
    )


def _rounds(config: RewardTrainingConfig) -> tuple[int, int]:
    """Pairs at once on each process, and how many times: together exactly the pairs of a step."""
    processes = PartialState().num_processes
    share, rest = divmod(config.pairs_per_step, processes)
    if rest or not share:
        raise InputError(
            f"training.pairs_per_step is {config.pairs_per_step}; {processes} processes need a multiple of {processes}"
        )
    at_once = max(size for size in range(1, min(config.pairs_at_once, share) + 1) if share % size == 0)
    return at_once, share // at_once


def _adapted(model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    """The model with an adapter; its output is trained whole."""
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="SEQ_CLS",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"model.lora.target_modules: {' '.join(str(error).split())}") from error


class _Shown(TrainerCallback):
    """Tells how far the training is."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Passes it on."""
        self._progress(state.global_step, state.max_steps)
