"""The recipes of a training run and of a reward model: all settings, as nested dataclasses with one class per section.

The defaults of a run are those of the paper, except for `method.sign` (docs/method.md). The classes are filled from
strict YAML (`grao.config.load`) or constructed in Python.
"""

from dataclasses import field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from grao.config.rewards import RewardConfig
from grao.config.stages import StageConfig, stages_of
from grao.config.vllm import COLDEST, ENGINES, HOTTEST, VLLMConfig
from grao.methods import MethodSection
from grao.methods.grao import GRAO
from grao.methods.stage import Stage
from grao.settings import (
    Dtype,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    PositiveFloat,
    PositiveInt,
    Seed,
    Text,
    WrittenPath,
    settings,
)

Confidence = Annotated[float, Field(gt=0.5, lt=1)]
"""Confidence level of an interval."""
AUTO: Literal["auto"] = "auto"
Size = PositiveInt | Literal["auto"]
"""A limit that bounds memory, or `auto` to fit the device."""
Schedule = Literal["constant", "linear", "cosine"]
"""Learning-rate schedule."""


@settings
class LoraConfig:
    """Train a low-rank adapter (LoRA) instead of all weights."""

    rank: Annotated[PositiveInt, Field(le=16384)] = 16
    """Rank of the adapter."""
    alpha: PositiveInt = 32
    """Scaling: the adapter's output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get an adapter, or `all-linear`."""


@settings
class ModelConfig:
    """The model to align."""

    path: Annotated[PathText, Field(examples=["Qwen/Qwen2.5-0.5B-Instruct"])]
    """Folder of a model, an adapter or a run, or a hub id (safetensors only)."""
    adapter: Literal["continue", "merge"] = "continue"
    """If `path` is an adapter: continue to train it, or merge it first and train all weights or a new adapter."""
    lora: LoraConfig | None = None
    """Train an adapter instead of all weights."""
    dtype: Dtype = "float32"
    """Data type of the trained weights; `auto` is the checkpoint's."""
    quantization: Literal["4bit"] | None = None
    """Store the frozen weights below an adapter in 4 bits (QLoRA); needs grao[quantized]."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation in transformers."""
    end_token: str | None = None
    """Token that ends reference answers; by default the token that ends a turn in the chat template."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments for its chat template, such as enable_thinking: false."""
    trust_remote_code: bool = False
    """Run Python code from the checkpoint. Enable it only if you have read that code."""


@settings
class SourceConfig:
    """A file or a hub dataset."""

    path: Annotated[PathText, Field(examples=["prompts.jsonl"])]
    """A .jsonl, .json, .csv, .parquet or .arrow file, a folder of them, a pattern (`data/*.parquet`) or a hub id."""
    test_path: PathText | None = None
    """A second source, for the held-out prompts. By default they are split off from `path`."""
    subset: str | None = None
    """Subset (configuration) of a hub dataset."""
    folder: str | None = None
    """Folder within a hub dataset, such as `helpful-base`."""
    split: str = "train"
    """Split of a hub dataset, or of a folder whose files are named after splits."""


@settings
class ColumnsConfig:
    """Which columns hold the prompt and the answers."""

    format: Literal["columns", "hh"] = "columns"
    """`columns`: separate columns; `hh`: Anthropic HH, where `chosen` and `rejected` are whole dialogues."""
    prompt: str = "prompt"
    """Column of the prompt: text or a list of chat messages. `a.b` is field `b` of column `a`."""
    reference: str = "reference"
    """Column of the reference answer: text, or a conversation that includes the prompt and ends with the answer."""
    rejected: str | None = None
    """Column of a worse answer, if there is any."""
    chat: bool = False
    """Turn plain-text prompts into user messages of the model's chat template."""
    columns: dict[str, Text] = field(default_factory=dict)
    """Names of other columns for the rewards, as {name in the data: name for rewards}: {reference: solution}."""


@settings
class RowsConfig(ColumnsConfig, SourceConfig):
    """The rows of a source and how many are held out."""

    held_out: NonNegativeInt = 300
    """Prompts held out from training for evaluation; at most half of all prompts."""
    limit: PositiveInt | None = None
    """Use only this many rows, from the start."""


@settings
class PromptsConfig(ColumnsConfig):
    """How rows become prompts; all that `GRAOTrainer` needs to know about its dataset."""

    limit: PositiveInt | None = None
    """Use only this many rows, from the start."""
    max_prompt_tokens: PositiveInt = 1024
    """Maximum prompt length in tokens."""
    long_prompts: Literal["drop", "truncate"] = "drop"
    """What to do with longer prompts: drop and count them, or truncate them on the left."""


# Dataclasses collect fields from the last base class to the first, so the order of the section is: source, columns,
# held_out and limit, prompt length.
@settings
class DataConfig(PromptsConfig, RowsConfig):
    """Prompts and reference answers."""


@settings
class RolloutConfig:
    """How completions are sampled."""

    group_size: Annotated[PositiveInt, Field(ge=2)] = 8
    """Completions per prompt, G."""
    temperature: PositiveFloat = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: draw from the smallest set of tokens with this total probability."""
    max_new_tokens: PositiveInt = 2048
    """Maximum completion length in tokens; longer completions are truncated and marked as such."""
    batch_size: Size = AUTO
    """Completions sampled at once (memory). `auto`: as many as fit on a GPU, at most 256; 64 on a CPU."""
    engine: Text = "auto"
    """Engine: `auto` (`captured` on GPUs, else `transformers`), `vllm`, `vllm-server` or `package.module:Class`."""
    merge_adapter: bool = False
    """Sample from merged copies of the adapted layers: faster, but needs memory for these copies."""
    vllm: VLLMConfig | None = None
    ahead: Annotated[NonNegativeInt, Field(le=1)] = 0
    """1: sample the next step's completions while a judge scores the current ones; they are one step off-policy."""

    @property
    def engine_settings(self) -> dict[str, Any]:
        """Arguments that only this engine takes."""
        return {"settings": self.vllm or VLLMConfig()} if self.engine in ENGINES else {}

    @model_validator(mode="after")
    def _fits_engine(self) -> Self:
        """Reject settings that do not apply to the engine."""
        if self.vllm and self.engine not in ENGINES:
            raise ValueError(f"vllm applies to engine: {' or '.join(ENGINES)}, not to {self.engine}; leave it out")
        if self.merge_adapter and self.engine in ENGINES:
            raise ValueError("merge_adapter has no effect with vLLM, which always gets merged weights; leave it out")
        if self.engine == "vllm-server" and not (self.vllm and self.vllm.server):
            raise ValueError("engine: vllm-server needs the server's address in vllm.server")
        if self.engine in ENGINES and not COLDEST <= self.temperature <= HOTTEST:
            span = f"from {COLDEST:g} to {HOTTEST:g}"
            raise ValueError(f"vLLM samples at temperatures {span}, got {self.temperature:g}")
        return self


@settings
class WatchConfig:
    """A second reward that monitors training and warns of reward hacking."""

    reward: RewardConfig
    """The monitoring reward; it must differ from the training rewards."""
    every: PositiveInt = 10
    """Steps between checks."""
    prompts: PositiveInt = 32
    """Prompts of a step to score, per process."""
    stop: bool = False
    """End training when reward hacking is likely."""


@settings
class TrainingConfig:
    """Optimisation."""

    steps: PositiveInt | None = None
    """Optimiser steps; with stages, those of the last stage. By default one pass over the prompts."""
    prompts_per_step: PositiveInt = 64
    """Prompts per optimiser step, over all processes, B."""
    learning_rate: PositiveFloat = 1e-6
    """Peak learning rate (Adam)."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    schedule: Schedule = "constant"
    """Learning-rate schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear learning-rate warm-up."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Maximum gradient norm (clipping); 0 turns it off."""
    token_budget: Size = AUTO
    """Tokens per micro-batch (memory); does not affect results. `auto`: as many as fit on a GPU, at most 16384."""
    router_loss: NonNegativeFloat = 0.0
    """Mixture of experts: weight of the load-balancing loss of the routers, over the tokens of a step."""
    drop_truncated: bool = False
    """Exclude truncated completions from the update."""
    importance_cap: Annotated[PositiveFloat, Field(ge=1)] | None = None
    """Multiply gradients of samples by min(trainer's probability / sampler's, this cap); by default off."""
    importance_of: Literal["tokens", "sequences"] = "tokens"
    """What `importance_cap` applies to: the ratio of each token, or the product of ratios of each whole sample."""
    measure_kl: bool = False
    """Log the KL divergence to the initial policy on the samples (costs one forward pass)."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints; by default only at the end and on Ctrl-C."""
    save_async: bool = False
    """Write checkpoints in the background, from a copy of the weights in CPU memory."""
    sample_every: NonNegativeInt = 10
    """Steps between logging a group's completions to samples.jsonl and `report_to`; 0: never."""
    max_bad_steps: PositiveInt = 3
    """Steps with a non-finite loss or gradient are skipped; this many in a row end training."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Other fields of transformers.TrainingArguments, validated (bf16, report_to, eval_strategy, ...)."""


@settings
class EvaluationConfig:
    """Evaluation on the held-out prompts, before and after training."""

    enabled: bool = True
    """Evaluate before and after training."""
    temperature: NonNegativeFloat | None = None
    """Sampling temperature; by default that of training. 0 is greedy."""
    max_new_tokens: PositiveInt | None = None
    """Maximum answer length in tokens; by default that of training."""
    confidence: Confidence = 0.95
    """Confidence level of the intervals."""


@settings
class AuditConfig:
    """The reward audit: `grao reward audit`, and a short check before training."""

    before_training: Literal["warn", "stop", "skip"] = "warn"
    """Score a few obviously bad answers first: if they score well, warn or stop the run; or skip the check."""
    pairs: PositiveInt = 200
    """Pairs of reference and rejected answer to compare, one per prompt."""
    edits: NonNegativeInt = 50
    """References to compare with themselves, unchanged and with trivial edits."""
    prompts: PositiveInt = 64
    """Training prompts for which the model samples a group: the first that the run will use."""
    second: RewardConfig | None = None
    """Another reward to compare with; by default the reward of `watch`."""
    labels: PathText | None = None
    """Human preferences on the pairs: rows with id or prompt, and preferred (reference, rejected or tie)."""
    output: WrittenPath | None = None
    """Output folder of the audit; by default the run folder's name plus -audit."""


@settings
class Recipe:
    """All settings of a training run."""

    model: ModelConfig
    data: DataConfig
    rewards: Annotated[list[RewardConfig], Field(min_length=1)]
    output: Annotated[WrittenPath, Field(examples=["runs/first"])]
    """The run folder; it must not contain another run."""
    watch: WatchConfig | None = None
    seed: Seed = 0
    """Random seed of split, order and sampling."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    method: MethodSection = field(default_factory=GRAO)
    stages: list[StageConfig] = field(default_factory=list)
    """Several methods that train one after another; replaces `method`."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)

    @property
    def plan(self) -> list[Stage]:
        """The stages of the run, at least one.

        Raises:
            InputError: if the stages do not fit together.
        """
        return stages_of(self.method, self.stages, self.training.schedule)


@settings
class BackboneConfig:
    """The model to turn into a reward model."""

    path: Annotated[PathText, Field(examples=["Qwen/Qwen2.5-0.5B-Instruct"])]
    """A language model, or a reward model to train further: folder or hub id (safetensors only)."""
    lora: LoraConfig | None = None
    """Train an adapter instead of all weights; it is merged at the end."""
    dtype: Dtype = "float32"
    """Data type of the trained weights; `auto` is the checkpoint's."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments for its chat template, such as enable_thinking: false."""
    trust_remote_code: bool = False
    """Run Python code from the checkpoint. Enable it only if you have read that code."""


@settings
class PairsConfig(RowsConfig):
    """The preference pairs: prompts with a better and a worse answer."""

    path: Annotated[PathText, Field(examples=["pairs.jsonl"])]
    """A .jsonl, .json, .csv, .parquet or .arrow file, a folder of them, a pattern (`data/*.parquet`) or a hub id."""
    test_path: PathText | None = None
    """A second source, for the held-out pairs. By default they are split off from `path`."""
    reference: str = "chosen"
    """Column of the better answer."""
    rejected: str = "rejected"
    """Column of the worse answer."""
    held_out: PositiveInt = 300
    """Prompts held out from training, to measure the accuracy on their pairs; at most half of all prompts."""
    max_tokens: PositiveInt = 1024
    """Maximum length of prompt and answer together, in tokens; longer pairs are dropped and counted."""


@settings
class RewardTrainingConfig:
    """Optimisation with TRL's RewardTrainer: -log sigmoid(r(better) - r(worse))."""

    epochs: PositiveFloat = 1.0
    """Passes over the pairs."""
    steps: PositiveInt | None = None
    """Optimiser steps; by default given by `epochs`."""
    pairs_per_step: PositiveInt = 64
    """Pairs per optimiser step, over all processes."""
    pairs_at_once: PositiveInt = 8
    """Pairs per forward pass (memory)."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate (Adam)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    schedule: Schedule = "linear"
    """Learning-rate schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear learning-rate warm-up."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Maximum gradient norm (clipping); 0 turns it off."""
    centre: NonNegativeFloat = 0.0
    """Weight of a regulariser that centres scores at 0; rewards, which are differences of scores, do not need it."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Other fields of trl.RewardConfig, validated (bf16, activation_checkpointing, report_to, ...)."""


@settings
class RewardModelRecipe:
    """All settings of the training of a reward model."""

    model: BackboneConfig
    data: PairsConfig
    output: Annotated[WrittenPath, Field(examples=["runs/reward"])]
    """Output folder for the model and its record; it must be new or empty."""
    seed: Seed = 0
    """Random seed of split, order and the new output layer."""
    training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    confidence: Confidence = 0.95
    """Confidence level of the intervals."""
