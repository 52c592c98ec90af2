"""`grao reward train`: trains a reward model on pairs of answers and measures its accuracy.

model/       the result in safetensors; AutoModelForSequenceClassification loads it
recipe.yaml  recipe with all defaults
reward.json  accuracy on held-out pairs with its interval, length bias, versions

The folder appears once it is complete; a training that ends early leaves nothing behind. TRL's RewardTrainer does the
optimization, and this is the only module that imports TRL. The pairs are tokenized here (`conversation_ids`), as the
trained model will read them later. There are no checkpoints to resume from.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.chat import conversation_ids, set_arguments
from grao.command import installing
from grao.config.load import dump_recipe
from grao.config.recipe import RewardModelRecipe, RewardTrainingConfig
from grao.config.schema import adapter
from grao.data.load import fingerprint, load_split
from grao.engine.adapters import adapter_at
from grao.engine.limits import positions
from grao.engine.loading import add_adapter, broken_tensor, load_tokenizer, new_reward_model
from grao.errors import InputError
from grao.evaluation.metrics import pair_scores
from grao.records.checkpoints import sync_all
from grao.records.files import replace_text, sync
from grao.records.lock import locked
from grao.records.reward_model import PairScores, RewardModelRecord, write_reward_model
from grao.records.run import git_revision, installed_versions, now
from grao.rewards.model import RewardModel
from grao.studies.prepare import Advance, Screen, check_writable
from grao.training.arguments import check_library, check_trainer_fields, library_errors
from grao.types import Example

_PAIRS_PER_REPORT = 256
"""Held-out pairs between two progress updates."""
_SETTINGS = {"num_train_epochs": "epochs", "lr_scheduler_type": "schedule"}
_SETTINGS |= {name: name for name in ("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm")}
"""Field of trl.RewardConfig -> field of `RewardTrainingConfig` with the same value."""
_OWN_NAMES = {
    **{theirs: f"training.{ours}" for theirs, ours in _SETTINGS.items()},
    "output_dir": "output",
    "seed": "seed",
    "max_steps": "training.steps",
    "per_device_train_batch_size": "training.pairs_at_once",
    "gradient_accumulation_steps": "training.pairs_per_step",
    "center_rewards_coefficient": "training.centre",
    "max_length": "data.max_tokens",
    "gradient_checkpointing": "training.trainer.activation_checkpointing",
}
"""Field of trl.RewardConfig -> the recipe's field that sets it."""
_OFF = {"max_length": None, "bf16": False, "activation_checkpointing": False, "save_strategy": "no"}
"""Fields of trl.RewardConfig whose defaults are unwanted or duplicate this module."""


class _Pair(NamedTuple):
    """An example with a rejected answer, and the token ids of both conversations."""

    example: Example
    chosen: list[int]
    rejected: list[int]


def train_reward_model(recipe: RewardModelRecipe, screen: Screen) -> RewardModelRecord:
    """Train and measure a reward model, and write the folder `recipe.output`.

    Raises:
        InputError: for a mistake in recipe, data or model, or if TRL is missing.
    """
    folder = recipe.output
    for path in (folder, folder.absolute().parent):
        check_writable(path)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"output: {folder} is not empty; choose another folder")
    target = folder.absolute()
    with locked(target.with_name(f".{target.name}.lock")):  # not inside: the folder is created last
        return _train_and_write(recipe, screen)


def _train_and_write(recipe: RewardModelRecipe, screen: Screen) -> RewardModelRecord:
    folder = recipe.output
    try:
        import trl
    except ImportError as error:
        raise InputError(f"training a reward model needs TRL: {installing('reward')}") from error
    started = now()
    with screen.stage("loading data and model"):
        split = load_split(recipe.data, recipe.seed)
        transformers.set_seed(recipe.seed)  # the new output layer is random
        model = new_reward_model(recipe.model.path, recipe.model.dtype, recipe.model.trust_remote_code)
        tokenizer = load_tokenizer(recipe.model.path, recipe.model.trust_remote_code)
        set_arguments(tokenizer, recipe.model.chat_template_kwargs, "model.chat_template_kwargs")
        limit = min(recipe.data.max_tokens, positions(model) or recipe.data.max_tokens)
        train, test = (_pairs(examples, tokenizer, limit) for examples in (split.train, split.test))
    too_long = len(split.train) + len(split.test) - len(train) - len(test)
    left_out = {**split.skipped, **({f"longer than {limit} tokens": too_long} if too_long else {})}
    if base_adapter := adapter_at(recipe.model.path):
        screen.say(f"{recipe.model.path} is {base_adapter.description} of {base_adapter.base}: it is merged")
    screen.say(f"{len(train):,} pairs, {len(test):,} held out")
    for reason, count in left_out.items():
        screen.say(f"left out: {count:,} rows, {reason}")

    screen.phases(2)
    begin = time.perf_counter()
    with screen.stage("training") as advance:
        trained, steps = _train(trl, model, tokenizer, train, recipe, advance)
    seconds = time.perf_counter() - begin
    if name := broken_tensor(trained.named_parameters()):
        raise InputError(f"{name} became NaN or infinite; lower training.learning_rate")
    reward = RewardModel(trained, tokenizer)
    record = RewardModelRecord(
        scores=_measure(reward, test, recipe.confidence, screen),
        trained=len(train),
        left_out=left_out,
        fingerprint=fingerprint([*split.train, *split.test]),
        steps=steps,
        seconds=seconds,
        started=started,
        finished=now(),
        command=f"grao reward train --config {folder}/recipe.yaml --output {folder}-again",
        seed=recipe.seed,
        config=adapter(RewardModelRecipe).dump_python(recipe, mode="json"),
        versions=installed_versions("trl"),
        git=git_revision(),
    )
    if PartialState().is_main_process:
        _write(recipe, reward, record)
    return record


def _pairs(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[_Pair]:
    """Return the pairs of up to `limit` tokens."""
    if incomplete := next((example for example in examples if example.rejected is None), None):
        remedy = "fill its cell in the column that data.rejected names, or leave the row out"
        raise InputError(f"{incomplete.at}: has no rejected answer; {remedy}")
    prompts, sources = [example.prompt for example in examples], [example.at for example in examples]
    chosen = conversation_ids(tokenizer, prompts, [example.reference for example in examples], sources)
    rejected = conversation_ids(tokenizer, prompts, [example.rejected or "" for example in examples], sources)
    pairs = list(map(_Pair, examples, chosen, rejected))
    lengths = [max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    if min(lengths) > limit:
        problem = f"every pair is longer than {limit} tokens (the shortest has {min(lengths)})"
        raise InputError(f"data.max_tokens: {problem}; raise it, or use a model with more positions")
    return [pair for pair, length in zip(pairs, lengths, strict=True) if length <= limit]


def _measure(reward: RewardModel, pairs: Sequence[_Pair], confidence: float, screen: Screen) -> PairScores:
    """Score the pairs through `RewardModel`, as a run does, not through the trainer.

    Raises:
        InputError: if a score is NaN or infinite: training has broken the model.
    """
    chosen: list[float] = []
    rejected: list[float] = []
    with screen.stage(f"scoring {len(pairs):,} held-out pairs") as advance:
        for start in range(0, len(pairs), _PAIRS_PER_REPORT):
            chunk = [pair.example for pair in pairs[start : start + _PAIRS_PER_REPORT]]
            prompts = [example.prompt for example in chunk]
            chosen += reward.scores(prompts, [example.reference for example in chunk]).tolist()
            rejected += reward.scores(prompts, [example.rejected or "" for example in chunk]).tolist()
            advance(len(chosen), len(pairs))
    if not all(map(math.isfinite, chosen + rejected)):
        raise InputError("the scores became NaN or infinite; lower training.learning_rate")
    lengths = [len(pair.chosen) for pair in pairs], [len(pair.rejected) for pair in pairs]
    return pair_scores(chosen, rejected, *lengths, confidence)


def _write(recipe: RewardModelRecipe, reward: RewardModel, record: RewardModelRecord) -> None:
    folder = recipe.output.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".reward-model-") as parent:
        draft = Path(parent, folder.name)
        reward.model.save_pretrained(draft / "model")
        reward.tokenizer.save_pretrained(draft / "model")
        replace_text(draft / "recipe.yaml", dump_recipe(recipe))
        write_reward_model(draft, record)
        sync_all(draft)
        draft.rename(folder)
        sync(folder.parent)


def _train(
    trl: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[_Pair],
    recipe: RewardModelRecipe,
    advance: Advance,
) -> tuple[PreTrainedModel, int]:
    """Train the model; return it and the number of optimizer steps.

    With `model.lora`, an adapter and the output layer are trained, then merged into the model.

    Raises:
        InputError: if a setting is wrong.
    """
    lora, config = recipe.model.lora, recipe.training
    extra = check_trainer_fields(config.trainer, trl.RewardConfig, _OWN_NAMES)
    batch, accumulation = _batch_size(config)
    adapted = add_adapter(model, **vars(lora), task_type="SEQ_CLS") if lora else model
    columns = {"chosen_ids": [pair.chosen for pair in pairs], "rejected_ids": [pair.rejected for pair in pairs]}
    with TemporaryDirectory() as folder:
        settings = {
            **{theirs: getattr(config, ours) for theirs, ours in _SETTINGS.items()},
            "output_dir": folder,
            "seed": recipe.seed,
            "max_steps": config.steps or -1,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "center_rewards_coefficient": config.centre or None,
            "dataloader_pin_memory": torch.cuda.is_available(),
            "report_to": "none",
            **_OFF,
            **extra,
        }
        with library_errors(extra):
            arguments, data = trl.RewardConfig(**settings), Dataset.from_dict(columns)
            trainer = trl.RewardTrainer(model=adapted, args=arguments, train_dataset=data, processing_class=tokenizer)
            check_library(trainer, recipe.training.steps or 1)
        for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(_Progress(advance))
        with library_errors(extra):
            trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return trained.merge_and_unload() if lora else trained, trainer.state.global_step


def _batch_size(config: RewardTrainingConfig) -> tuple[int, int]:
    """Return batch size per process and gradient accumulation steps that make up exactly `pairs_per_step`."""
    pairs, processes = config.pairs_per_step, PartialState().num_processes
    share, rest = divmod(pairs, processes)
    if rest or not share:
        raise InputError(f"training.pairs_per_step is {pairs}; {processes} processes need a multiple of {processes}")
    at_once = max(size for size in range(1, min(config.pairs_at_once, share) + 1) if share % size == 0)
    return at_once, share // at_once


class _Progress(transformers.TrainerCallback):
    """Reports steps done and in total; raises if the gradient is not finite."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def on_step_end(self, args: Any, state: transformers.TrainerState, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_step_end`."""
        self._advance(state.global_step, state.max_steps)

    def on_log(
        self, args: Any, state: transformers.TrainerState, control: Any, logs: Any = None, **kwargs: Any
    ) -> None:
        """See `TrainerCallback.on_log`. With float16 a gradient may overflow; its step is then skipped."""
        if not args.fp16 and not math.isfinite((logs or {}).get("grad_norm", 0.0)):
            raise InputError(f"step {state.global_step}: the gradient is not finite; lower training.learning_rate")
