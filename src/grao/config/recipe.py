"""The recipe of a run and that of a reward model: all their settings as nested dataclasses, one for each section.

Defaults of a run are the paper's, but for `method.sign` (docs/method.md).
The same classes are filled from strict YAML (`grao.config.load`) and built by hand in Python.
"""

from dataclasses import field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from grao.config.rewards import RewardConfig
from grao.config.stages import StageConfig, planned
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
"""Level of an interval."""
AUTO: Literal["auto"] = "auto"
Size = PositiveInt | Literal["auto"]
"""A bound on memory, or what suits the device."""
Schedule = Literal["constant", "linear", "cosine"]
"""Learning-rate schedule."""


@settings
class LoraConfig:
    """A low-rank adapter instead of full fine-tuning (peft)."""

    rank: Annotated[PositiveInt, Field(le=16384)] = 16
    """Rank of the two factors."""
    alpha: PositiveInt = 32
    """Scale: the update is multiplied with alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get one, or `all-linear`."""


@settings
class ModelConfig:
    """Which model is aligned."""

    path: Annotated[PathText, Field(examples=["Qwen/Qwen2.5-0.5B-Instruct"])]
    """A model or adapter folder, the folder of a run, or a hub id (safetensors only)."""
    adapter: Literal["continue", "merge"] = "continue"
    """An adapter in `path` goes on training, or is merged into its base and all weights, or a new one, are trained."""
    lora: LoraConfig | None = None
    """Train an adapter instead of all weights."""
    dtype: Dtype = "float32"
    """Number format of the trained weights; `auto` takes the checkpoint's."""
    quantization: Literal["4bit"] | None = None
    """Hold the weights below an adapter in 4 bits (QLoRA); needs grao[quantized]."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers."""
    end_token: str | None = None
    """Token that closes a reference answer; by default the one that ends a turn of the chat template."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its chat template, such as enable_thinking: false."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Leave it off unless you have read that code."""


@settings
class SourceConfig:
    """A file or a data set of the hub."""

    path: Annotated[PathText, Field(examples=["prompts.jsonl"])]
    """A .jsonl, .json, .csv, .parquet or .arrow file, a folder of them, a pattern (`data/*.parquet`), or a hub id."""
    test_path: PathText | None = None
    """A second one with the held-out prompts. By default they are split off from `path`."""
    subset: str | None = None
    """Subset of a hub data set."""
    folder: str | None = None
    """Folder within a hub data set, such as `helpful-base`."""
    split: str = "train"
    """Split of a hub data set, or of a folder whose files are named after splits."""


@settings
class ColumnsConfig:
    """Which columns of a row hold its prompt and its answers."""

    format: Literal["columns", "hh"] = "columns"
    """`columns`: one column each; `hh`: Anthropic HH, `chosen` and `rejected` hold two whole dialogues."""
    prompt: str = "prompt"
    """Column of the prompt: text, or a list of chat messages; `a.b` is the field `b` of column `a`."""
    reference: str = "reference"
    """Column of the reference answer: text, or a conversation that ends with it and needs no column of the prompt."""
    rejected: str | None = None
    """Column of a worse answer, if there is one."""
    chat: bool = False
    """Ask each prompt that is text as the message of a user, through the model's chat template."""
    columns: dict[str, Text] = field(default_factory=dict)
    """Other names for further columns, by which rewards know them: {reference: solution}."""


@settings
class RowsConfig(ColumnsConfig, SourceConfig):
    """The rows of a source, and how many are held out."""

    held_out: NonNegativeInt = 300
    """Prompts kept away from training for the evaluation; at most half of all prompts."""
    limit: PositiveInt | None = None
    """Take this many rows from the start."""


@settings
class PromptsConfig(ColumnsConfig):
    """How rows become prompts, wherever they come from: what `GRAOTrainer` needs to know about its data set."""

    limit: PositiveInt | None = None
    """Take this many rows from the start."""
    max_prompt_tokens: PositiveInt = 1024
    """Longest prompt in tokens."""
    long_prompts: Literal["drop", "truncate"] = "drop"
    """What happens to longer ones: dropped and counted, or cut on the left."""


# Dataclasses collect fields from the last base to the first: source, columns, held_out and limit, prompt length.
@settings
class DataConfig(PromptsConfig, RowsConfig):
    """Where prompts and reference answers come from."""


@settings
class RolloutConfig:
    """How completions are sampled."""

    group_size: Annotated[PositiveInt, Field(ge=2)] = 8
    """Completions per prompt, G."""
    temperature: PositiveFloat = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus: sample from the smallest set of tokens with this probability."""
    max_new_tokens: PositiveInt = 2048
    """Longest completion in tokens; longer ones are cut and marked truncated."""
    batch_size: Size = AUTO
    """Completions that are sampled at once (memory); `auto`: what fits on a GPU, 64 on a CPU."""
    engine: Text = "auto"
    """What samples: `auto` (`captured` on GPUs, else `transformers`), `vllm`, `vllm-server`, `package.module:Class`."""
    merge_adapter: bool = False
    """Sample from a copy of the model with the adapter merged: faster, for the memory of its adapted weights."""
    vllm: VLLMConfig | None = None
    ahead: Annotated[NonNegativeInt, Field(le=1)] = 0
    """1: sample the next step's completions while a judge reads this one's; they are one step off-policy."""

    @property
    def engine_settings(self) -> dict[str, Any]:
        """What only this engine is told."""
        return {"settings": self.vllm or VLLMConfig()} if self.engine in ENGINES else {}

    @model_validator(mode="after")
    def _fits_engine(self) -> Self:
        """Says what the section of one engine has to do with another."""
        if self.vllm and self.engine not in ENGINES:
            raise ValueError(f"vllm is for engine: {' or '.join(ENGINES)}, not for {self.engine}; leave it out")
        if self.merge_adapter and self.engine in ENGINES:
            raise ValueError("vLLM gets the adapter merged anyway; leave merge_adapter out")
        if self.engine == "vllm-server" and not (self.vllm and self.vllm.server):
            raise ValueError("engine: vllm-server needs the server's address in vllm.server")
        if self.engine in ENGINES and not COLDEST <= self.temperature <= HOTTEST:
            span = f"from {COLDEST:g} to {HOTTEST:g}"
            raise ValueError(f"vLLM samples at temperatures {span}, got {self.temperature:g}")
        return self


@settings
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


@settings
class TrainingConfig:
    """The optimisation."""

    steps: PositiveInt | None = None
    """Optimiser steps, with stages those of the last; by default one pass over the prompts."""
    prompts_per_step: PositiveInt = 64
    """Prompts of one step, over all processes, B."""
    learning_rate: PositiveFloat = 1e-6
    """Peak learning rate (Adam)."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    schedule: Schedule = "constant"
    """Learning-rate schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradient clipping; 0 turns it off."""
    token_budget: Size = AUTO
    """Tokens of one micro-batch (memory), which change no result; `auto`: up to 16384, on a GPU what fits."""
    router_loss: NonNegativeFloat = 0.0
    """Mixtures of experts: weight of the routers' load-balancing loss, over the tokens of a step."""
    drop_truncated: bool = False
    """Leave completions that hit the token limit out of the update."""
    importance_cap: Annotated[PositiveFloat, Field(ge=1)] | None = None
    """Multiply gradients of samples with min(trainer's probability / sampler's, this); by default not."""
    importance_of: Literal["tokens", "sequences"] = "tokens"
    """What has one such factor: each token, or each sample as a whole."""
    measure_kl: bool = False
    """Log the KL divergence to the starting model on the samples (one more forward pass)."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints; by default only at the end and on Ctrl-C."""
    save_async: bool = False
    """Write checkpoints while training goes on, from a copy of the weights in the machine's memory."""
    sample_every: NonNegativeInt = 10
    """Steps between looks at a group's completions, for samples.jsonl and `report_to`; 0: never."""
    max_bad_steps: PositiveInt = 3
    """Steps in a row with a loss or gradient that is not finite end the training; single ones are left out."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further fields of transformers.TrainingArguments, checked (bf16, report_to, eval_strategy, ...)."""


@settings
class EvaluationConfig:
    """Before and after, on the held-out prompts."""

    enabled: bool = True
    """Evaluate at the start and at the end."""
    temperature: NonNegativeFloat | None = None
    """Sampling temperature; by default the training one; 0 is greedy."""
    max_new_tokens: PositiveInt | None = None
    """Longest answer; by default as in training."""
    confidence: Confidence = 0.95
    """Level of the intervals."""


@settings
class AuditConfig:
    """What `grao reward audit` looks at, and the short form of it before a training."""

    before_training: Literal["warn", "stop", "skip"] = "warn"
    """Ask the rewards about a few texts that are plainly wrong; `stop` ends the run if they do well."""
    pairs: PositiveInt = 200
    """Reference and rejected answers that are compared, one pair a prompt."""
    edits: NonNegativeInt = 50
    """References that are compared with themselves, as they are and trivially edited."""
    prompts: PositiveInt = 64
    """Training prompts that the model answers with a group each: the first that the run will see."""
    second: RewardConfig | None = None
    """Another reward to compare with; by default that of `watch`."""
    labels: PathText | None = None
    """People's preferences on the pairs: rows of id or prompt, and preferred (reference, rejected, tie)."""
    output: WrittenPath | None = None
    """Folder of the audit; by default the run folder's name with -audit."""


@settings
class Recipe:
    """One run, completely."""

    model: ModelConfig
    data: DataConfig
    rewards: Annotated[list[RewardConfig], Field(min_length=1)]
    output: Annotated[WrittenPath, Field(examples=["runs/first"])]
    """The run folder; it must not hold another run."""
    watch: WatchConfig | None = None
    seed: Seed = 0
    """Of everything random: split, order, sampling."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    method: MethodSection = field(default_factory=GRAO)
    stages: list[StageConfig] = field(default_factory=list)
    """Several methods one after another, in place of `method`."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)

    @property
    def plan(self) -> list[Stage]:
        """What is learned, one stage after another."""
        return planned(self.method, self.stages, self.training.schedule)


@settings
class BackboneConfig:
    """The model that becomes a reward model."""

    path: Annotated[PathText, Field(examples=["Qwen/Qwen2.5-0.5B-Instruct"])]
    """A language model, or a reward model to be trained further: folder or hub id (safetensors only)."""
    lora: LoraConfig | None = None
    """Train an adapter, which is merged in the end, instead of all weights."""
    dtype: Dtype = "float32"
    """Number format of the trained weights; `auto` takes the checkpoint's."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its chat template, such as enable_thinking: false."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Leave it off unless you have read that code."""


@settings
class PairsConfig(RowsConfig):
    """Where the pairs come from: prompts with a better and a worse answer."""

    path: Annotated[PathText, Field(examples=["pairs.jsonl"])]
    """A .jsonl, .json(.gz), .csv or .parquet file, or a hub id."""
    test_path: PathText | None = None
    """A second file with the held-out pairs. By default they are split off from `path`."""
    reference: str = "chosen"
    """Column of the better answer."""
    rejected: str = "rejected"
    """Column of the worse answer."""
    held_out: PositiveInt = 300
    """Prompts kept away from training, on whose pairs the accuracy is measured; at most half of all prompts."""
    max_tokens: PositiveInt = 1024
    """Longest prompt with answer in tokens; pairs with a longer one are left out and counted."""


@settings
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
    schedule: Schedule = "linear"
    """Learning-rate schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradient clipping; 0 turns it off."""
    centre: NonNegativeFloat = 0.0
    """Weight of a pull of the scores towards 0; their differences, which are the reward, do without."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further fields of trl.RewardConfig, checked (bf16, activation_checkpointing, report_to, ...)."""


@settings
class RewardModelRecipe:
    """One reward model, completely."""

    model: BackboneConfig
    data: PairsConfig
    output: Annotated[WrittenPath, Field(examples=["runs/reward"])]
    """The folder for model and record; it must be new or empty."""
    seed: Seed = 0
    """Of everything random: split, order, the new output layer."""
    training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    confidence: Confidence = 0.95
    """Level of the intervals."""
