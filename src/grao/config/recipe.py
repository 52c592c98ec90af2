"""The recipe: everything a run is told, as nested dataclasses. One section a component.

Defaults are the paper's, but for `method.sign` (docs/method.md).
The same classes are filled from strict YAML (`grao.config.parse`) and built by hand in Python.
"""

import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from grao.config.audit import AuditConfig
from grao.config.basics import STRICT, NonNegativeFloat, PositiveFloat, PositiveInt, Seed
from grao.config.method import GRAOMethodConfig, MethodConfig
from grao.config.reward import RewardConfig


@dataclass(config=STRICT, frozen=True)
class LoraConfig:
    """A low-rank adapter instead of full fine-tuning (peft)."""

    rank: PositiveInt = 16
    """Rank of the two factors."""
    alpha: PositiveInt = 32
    """Scale: the update is multiplied with alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get one, or `all-linear`."""


@dataclass(config=STRICT, frozen=True)
class ModelConfig:
    """Which model is aligned."""

    path: Annotated[str, Field(min_length=1, examples=["Qwen/Qwen2.5-0.5B-Instruct"])]
    """A model folder or hub id (safetensors only)."""
    lora: LoraConfig | None = None
    """Train an adapter instead of all weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Number format of the trained weights; `auto` takes the checkpoint's."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers."""
    end_token: str | None = None
    """Token that closes a reference answer; by default the one the model itself stops at."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Leave it off unless you have read that code."""


@dataclass(config=STRICT, frozen=True)
class DataConfig:
    """Where prompts and reference answers come from."""

    path: Annotated[str, Field(min_length=1, examples=["prompts.jsonl"])]
    """A .jsonl, .json(.gz), .csv or .parquet file, or a hub id."""
    test_path: str | None = None
    """A second file with the held-out prompts. By default they are split off from `path`."""
    subset: str | None = None
    """Subset of a hub data set."""
    folder: str | None = None
    """Folder within a hub data set, such as `helpful-base`."""
    split: str = "train"
    """Split of a hub data set."""
    format: Literal["columns", "hh"] = "columns"
    """`columns`: one column each; `hh`: Anthropic HH, `chosen` and `rejected` hold two whole dialogues."""
    prompt: str = "prompt"
    """Column of the prompt: text, or a list of chat messages."""
    reference: str = "reference"
    """Column of the reference answer."""
    rejected: str | None = None
    """Column of a worse answer, if there is one."""
    held_out: Annotated[int, Field(ge=0)] = 300
    """Prompts kept away from training for the evaluation; at most half of all prompts."""
    limit: PositiveInt | None = None
    """Take this many rows from the start."""
    max_prompt_tokens: PositiveInt = 1024
    """Longest prompt in tokens."""
    long_prompts: Literal["drop", "truncate"] = "drop"
    """What happens to longer ones: dropped and counted, or cut on the left."""


@dataclass(config=STRICT, frozen=True)
class RolloutConfig:
    """How completions are sampled."""

    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions per prompt, G."""
    temperature: PositiveFloat = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus: sample from the smallest set of tokens with this probability."""
    max_new_tokens: PositiveInt = 2048
    """Longest completion in tokens; longer ones are cut and marked truncated."""
    batch_size: PositiveInt = 64
    """Completions that are sampled at once (memory)."""


@dataclass(config=STRICT, frozen=True)
class WatchConfig:
    """A second reward that looks on, and warns when the first is hacked."""

    reward: RewardConfig
    """It must not be the one that is trained on."""
    every: PositiveInt = 10
    """Steps from look to look."""
    prompts: PositiveInt = 32
    """Prompts of a step that it looks at, on each process."""
    stop: bool = False
    """End the training when the first reward is probably being hacked."""


@dataclass(config=STRICT, frozen=True)
class TrainingConfig:
    """The optimisation."""

    steps: PositiveInt | None = None
    """Optimiser steps; by default one pass over the prompts."""
    prompts_per_step: PositiveInt = 64
    """Prompts of one step, over all processes, B."""
    learning_rate: PositiveFloat = 1e-6
    """Peak learning rate (Adam)."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning-rate schedule."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradient clipping; 0 turns it off."""
    token_budget: PositiveInt = 16384
    """Tokens of one micro-batch (memory); changes no result."""
    router_loss: NonNegativeFloat = 0.0
    """Mixtures of experts: weight of the routers' load-balancing loss, over the tokens of a step."""
    drop_truncated: bool = False
    """Leave completions that hit the token limit out of the update."""
    measure_kl: bool = False
    """Log the KL divergence to the starting model on the samples (one more forward pass)."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints; by default only at the end and on Ctrl-C."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further fields of transformers.TrainingArguments, checked (bf16, report_to, eval_strategy, ...)."""


@dataclass(config=STRICT, frozen=True)
class EvaluationConfig:
    """Before and after, on the held-out prompts."""

    enabled: bool = True
    """Evaluate at the start and at the end."""
    temperature: NonNegativeFloat | None = None
    """Sampling temperature; by default the training one; 0 is greedy."""
    max_new_tokens: PositiveInt | None = None
    """Longest answer; by default as in training."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Level of the intervals."""


@dataclass(config=STRICT, frozen=True)
class Recipe:
    """One run, completely."""

    model: ModelConfig
    data: DataConfig
    rewards: Annotated[list[RewardConfig], Field(min_length=1)]
    output: Annotated[Path, Field(examples=["runs/first"])]
    """The run folder; it must not hold another run."""
    watch: WatchConfig | None = None
    seed: Seed = 0
    """Of everything random: split, order, sampling."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    method: MethodConfig = field(default_factory=GRAOMethodConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)


@dataclass(config=STRICT, frozen=True)
class GRAOConfig:
    """What `GRAOTrainer` needs of a recipe; the model, the data and the rewards are objects there."""

    output_dir: Path
    """Checkpoints and metrics go here."""
    seed: Seed = 0
    """Of everything random: order, sampling."""
    end_token: str | None = None
    """Token that closes a reference answer; by default the one the model itself stops at."""
    data: DataConfig = field(default_factory=lambda: DataConfig(path="train_dataset"))
    """Column names, format and prompt length. The rows are the trainer's `train_dataset`, whatever the path says."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    method: MethodConfig = field(default_factory=GRAOMethodConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def total_steps(training: TrainingConfig, prompts: int) -> int:
    """Optimiser steps of a run: as told, or one pass over the prompts."""
    return training.steps or max(1, math.ceil(prompts / training.prompts_per_step))
