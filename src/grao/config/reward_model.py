"""The recipe of a reward model: pairs of a better and a worse answer, and how a model learns to tell them apart."""

from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from grao.config.basics import STRICT, NonNegativeFloat, PositiveFloat, PositiveInt, Seed
from grao.config.recipe import DataConfig, LoraConfig


@dataclass(config=STRICT, frozen=True)
class BackboneConfig:
    """The model that becomes a reward model."""

    path: Annotated[str, Field(min_length=1, examples=["Qwen/Qwen2.5-0.5B-Instruct"])]
    """A language model, or a reward model to be trained further: folder or hub id (safetensors only)."""
    lora: LoraConfig | None = None
    """Train an adapter, which is merged in the end, instead of all weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Number format of the trained weights; `auto` takes the checkpoint's."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Leave it off unless you have read that code."""


@dataclass(config=STRICT, frozen=True)
class PairsConfig:
    """Where the pairs come from: prompts with a better and a worse answer."""

    path: Annotated[str, Field(min_length=1, examples=["pairs.jsonl"])]
    """A .jsonl, .json(.gz), .csv or .parquet file, or a hub id."""
    test_path: str | None = None
    """A second file with the held-out pairs. By default they are split off from `path`."""
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
    reference: str = "chosen"
    """Column of the better answer."""
    rejected: str = "rejected"
    """Column of the worse answer."""
    held_out: PositiveInt = 300
    """Prompts kept away from training, on whose pairs the accuracy is measured; at most half of all prompts."""
    limit: PositiveInt | None = None
    """Take this many rows from the start."""
    max_tokens: PositiveInt = 1024
    """Longest prompt with answer in tokens; pairs with a longer one are left out and counted."""

    @property
    def data(self) -> DataConfig:
        """As a data section, whose limit on prompts is not used."""
        return DataConfig(**{item.name: getattr(self, item.name) for item in fields(self) if item.name != "max_tokens"})


@dataclass(config=STRICT, frozen=True)
class RewardTrainingConfig:
    """The optimisation, by TRL's RewardTrainer: -log sigmoid(r(better) - r(worse))."""

    epochs: PositiveFloat = 1.0
    """Passes over the pairs."""
    steps: PositiveInt | None = None
    """Optimiser steps; by default as many as the epochs take."""
    pairs_per_step: PositiveInt = 64
    """Pairs of one step, over all processes."""
    pairs_at_once: PositiveInt = 8
    """Pairs of one forward pass (memory)."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate (Adam)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning-rate schedule."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradient clipping; 0 turns it off."""
    centre: NonNegativeFloat = 0.0
    """Weight of a pull of the scores towards 0; their differences, which are the reward, do without."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further fields of trl.RewardConfig, checked (bf16, activation_checkpointing, report_to, ...)."""


@dataclass(config=STRICT, frozen=True)
class RewardModelRecipe:
    """One reward model, completely."""

    model: BackboneConfig
    data: PairsConfig
    output: Annotated[Path, Field(examples=["runs/reward"])]
    """The folder for model and record; it must be new or empty."""
    seed: Seed = 0
    """Of everything random: split, order, the new output layer."""
    training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Level of the intervals."""
