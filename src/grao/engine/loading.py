"""Load models and tokenizers from a folder or the hub: safetensors only, no remote code unless requested.

Also here is what depends on the loaded model: its stop tokens, its size, and a usual learning rate.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from grao.engine.adapters import adapter_at, load_merged, model_folder, replaced_weights
from grao.engine.folder import check_model_folder
from grao.engine.interface import base_model
from grao.engine.padded import plain_logps
from grao.engine.quantized import elements, four_bits, scales
from grao.errors import InputError, one_line
from grao.types import TokenIds

_DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16}
_CHECKED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Dtypes that can be checked for NaN and infinity."""
_ROUNDING_SAMPLE = 1 << 16
"""Elements per weight that are checked for rounding."""


def load_model(
    path: str,
    dtype: str = "float32",
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    quantization: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model; an adapter is merged into its base.

    Args:
        path: model folder, run folder, or hub id.
        dtype: `auto`, `float32` or `bfloat16`.
        attention: attention implementation of transformers; a model without `sdpa` uses `eager`, with a warning.
        trust_remote_code: run Python code that comes with the checkpoint.
        quantization: `4bit` quantizes the linear layers (QLoRA); None does not.

    Raises:
        InputError: if there is no such model, it is not a causal language model, or its weights are not safetensors,
            incomplete or not finite; if an adapter would be merged into 4-bit weights, or bitsandbytes is missing.
    """
    if adapter := adapter_at(path):
        if quantization:
            remedy = "train it further (model.adapter: continue), or merge it without model.quantization"
            raise InputError(f"model.quantization: merging {path!r} into 4-bit weights would round it; {remedy}")
        return load_merged(adapter, lambda base: load_model(base, dtype, attention, trust_remote_code))
    compute_dtype = torch.float32 if dtype == "float32" else torch.bfloat16
    options = {"quantization_config": four_bits(compute_dtype)} if quantization else {}
    problem = f"cannot load {path!r}"
    if not Path(path).exists():
        problem = f"there is no folder {path!r}, and it cannot be loaded from the hub"
    with _loading(path, problem if attention == "sdpa" else f"{problem} with model.attention: {attention}") as folder:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=_DTYPES[dtype],
            attn_implementation=None if attention == "sdpa" else attention,  # None: sdpa if the model supports it
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    model: PreTrainedModel = _checked(loaded[0], path, loaded[1]["missing_keys"])
    if attention != (used := model.config._attn_implementation):
        name = type(model).__name__
        warnings.warn(f"model.attention: {name} does not support {attention}, so {used} is used", stacklevel=2)
    return model


def model_shape(path: str, dtype: str = "float32", trust_remote_code: bool = False) -> PreTrainedModel:
    """Build a causal language model on the meta device, from config.json alone; for an adapter, its base.

    Args:
        path: model folder, run folder, or hub id.
        dtype: `auto`, `float32` or `bfloat16`.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        InputError: if there is no such model, or it is not a causal language model.
    """
    if adapter := adapter_at(path):
        return model_shape(adapter.base, dtype, trust_remote_code)
    with _loading(path, f"cannot build a model from {path!r}") as folder:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        chosen = (config.dtype or torch.float32) if dtype == "auto" else _DTYPES[dtype]
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=chosen, trust_remote_code=trust_remote_code)
    return cast(PreTrainedModel, model)


def load_reward_model(path: str, dtype: str = "auto", trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a frozen reward model: one output, the reward of a text (`AutoModelForSequenceClassification`).

    Args:
        path: model folder, run folder, or hub id.
        dtype: `auto`, `float32` or `bfloat16`.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        InputError: if there is no such model, it has no safetensors weights, or its checkpoint does not hold
            exactly one trained output: a plain language model would score at random.
    """
    model, missing = _classifier(path, dtype, trust_remote_code)
    _checked(model, path)
    if missing or model.config.num_labels != 1:
        why = f"lacks {', '.join(sorted(missing))}" if missing else f"has {model.config.num_labels} outputs, not one"
        raise InputError(f"model.path: {path!r} is not a reward model: it {why}; train one with grao reward train")
    model.eval().requires_grad_(False)
    return model


def new_reward_model(path: str, dtype: str = "float32", trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a language model or reward model to be trained as a reward model.

    Its reward output has random weights if the checkpoint has none.

    Args:
        path: model folder, run folder, or hub id.
        dtype: `auto`, `float32` or `bfloat16`.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        InputError: if there is no such model, or it has no safetensors weights.
    """
    model, missing = _classifier(path, dtype, trust_remote_code, num_labels=1)
    return _checked(model, path, {name for name in missing if name.startswith(f"{model.base_model_prefix}.")})


def _classifier(path: str, dtype: str, trust_remote_code: bool, **config: int) -> tuple[PreTrainedModel, set[str]]:
    """Return the model and the names of weights missing from its checkpoint; an adapter is merged into its base."""
    base_missing: set[str] = set()
    if adapter := adapter_at(path):

        def load(base: str) -> PreTrainedModel:
            model, missing = _classifier(base, dtype, trust_remote_code, num_labels=1)
            base_missing.update(missing)
            return model

        return load_merged(adapter, load, task=None), base_missing - replaced_weights(adapter)
    with _loading(path, f"cannot load {path!r} as a reward model") as folder:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=_DTYPES[dtype],
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **config,
        )
    return model, set(report["missing_keys"])


def load_encoder(path: str) -> PreTrainedModel:
    """Load a frozen model without an output layer, for the hidden states of its last layer.

    Raises:
        InputError: if there is no such model, or it has no safetensors weights.
    """
    if adapter := adapter_at(path):
        # The layer names in an adapter of a language model are those of the full model, with its output layer.
        language = adapter.config.task_type == "CAUSAL_LM"
        full: Any = load_merged(adapter, load_model) if language else load_merged(adapter, load_encoder, task=None)
        model: PreTrainedModel = full.base_model
    else:
        with _loading(path, f"cannot load {path!r} as an encoder") as folder:
            loaded: Any = AutoModel.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, trust_remote_code=False
            )
        model = _checked(loaded[0], path, loaded[1]["missing_keys"])
    model.eval().requires_grad_(False)
    return model


def broken_tensor(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity; None if all values are finite."""
    for name, tensor in tensors:
        checkable = tensor.dtype in _CHECKED and tensor.numel() and tensor.device.type != "meta"
        if checkable and not torch.stack(torch.aminmax(tensor.detach())).isfinite().all():  # aminmax propagates NaN
            return name
    return None


def check_finite(model: torch.nn.Module, which: str) -> None:
    """Check that no weight holds NaN or infinity.

    Args:
        model: to check.
        which: names the model; the message begins with it.

    Raises:
        InputError: naming the first such weight.
    """
    if name := broken_tensor((*model.named_parameters(), *scales(model))):
        raise InputError(f"{which}: the weight {name} holds NaN or infinity; use an intact copy of the model")


def _checked(model: PreTrainedModel, path: str, missing: Collection[str] = ()) -> PreTrainedModel:
    """Return the model after checking that all weights came from the checkpoint and are finite.

    A missing pooler is accepted: it is unused here, and many encoder checkpoints come without one.
    """
    if absent := sorted(name for name in missing if "pooler." not in name):
        more = f" and {len(absent) - 1:,} more" if len(absent) > 1 else ""
        problem = f"{path!r} lacks the weight {absent[0]}{more}, which would be random"
        raise InputError(f"model.path: {problem}; is it another kind of model, or is one of its files missing?")
    check_finite(model, f"model.path: {path!r}")
    return model


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer and make sure that it has a padding token.

    Args:
        path: model folder, run folder, or hub id; an adapter without a tokenizer uses its base's.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        InputError: if there is no tokenizer.
    """
    adapter = adapter_at(path)
    if adapter and not adapter.file("tokenizer_config.json"):
        return load_tokenizer(adapter.base, trust_remote_code)
    with _loading(path, f"no tokenizer in {path!r}") as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        tokenizer.decode(tokenizer(["a"], add_special_tokens=False)["input_ids"][0])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stop_token_ids(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every token that ends a completion: from the generation config, else the model, else the tokenizer.

    A model may stop at other tokens than `tokenizer.eos_token_id`; only the generation config lists them.

    Raises:
        InputError: if none of the three names an end token.
    """
    for candidate in (
        model.generation_config.eos_token_id if model.generation_config else None,
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if isinstance(candidate, int):
            return (candidate,)
        if candidate:
            return tuple(dict.fromkeys(candidate))
    raise InputError("the model names no end token: neither generation_config.json nor the tokenizer has an eos_token")


def extend_stops(model: PreTrainedModel | PeftModel, stop_ids: Sequence[int], end: str) -> None:
    """List all stop tokens in the model's generation config, which is saved with it, and warn about the new one.

    Args:
        model: whose generation config is changed.
        stop_ids: every token that ends a completion.
        end: text of the new stop token.
    """
    if isinstance(model, PeftModel):
        consequence = "pass it to generate too, because an adapter is saved without a generation config"
    else:
        consequence = "the trained model will list it"
    problem = f"answers end with {end!r}, which generation_config.json does not list"
    warnings.warn(f"{problem}: sampling stops at it as well; {consequence}", stacklevel=4)
    base = base_model(model)
    if base.generation_config:
        base.generation_config.eos_token_id = list(stop_ids)


@torch.no_grad()
def likeliest_stop(
    model: torch.nn.Module, stop_ids: Sequence[int], prompts: Sequence[TokenIds], answers: Sequence[TokenIds]
) -> int:
    """Return the stop token that the model itself finds most likely after a few answers.

    A generation config may list several, of which the model uses one. References that end with another one would teach
    the model not to stop at the one that it uses.

    Args:
        model: the policy before training.
        stop_ids: the candidates.
        prompts: token ids of a few prompts.
        answers: token ids of an answer to each, without end token.
    """
    if len(stop_ids) == 1:
        return stop_ids[0]
    texts = list(zip(prompts, answers, strict=True))  # scored one by one, since padding affects some models
    stop_logps = [
        torch.stack([plain_logps(model, prompt, [*answer, stop])[-1] for prompt, answer in texts]).mean()
        for stop in stop_ids
    ]
    return stop_ids[int(torch.stack(stop_logps).argmax())]


def add_adapter(
    model: PreTrainedModel,
    rank: int,
    alpha: int,
    dropout: float,
    target_modules: str | list[str],
    task_type: str = "CAUSAL_LM",
) -> PeftModel:
    """Add a LoRA adapter and freeze everything else, except for the output of a reward model (`SEQ_CLS`).

    Args:
        model: to adapt.
        rank: of the update, r.
        alpha: the update is scaled by alpha / r.
        dropout: dropout rate on the adapter's input.
        target_modules: names of the layers to adapt, or `all-linear`.
        task_type: peft's task type.

    Raises:
        InputError: if no layer has one of the given names.
    """
    config = PeftLoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules, task_type=task_type
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"model.lora.target_modules: {one_line(error)}") from error


def parameter_count(model: torch.nn.Module, trainable: bool = False) -> int:
    """Return the number of parameters, or of trainable parameters only."""
    return sum(elements(p) for p in model.parameters() if p.requires_grad or not trainable)


def usual_learning_rate(model: torch.nn.Module) -> float:
    """Return a usual peak learning rate for Adam at this model size; only warnings use it.

    The paper's 1e-6 is for 7 billion parameters and more; small models and adapters need far larger rates.
    """
    trained, total = parameter_count(model, trainable=True), parameter_count(model)
    if trained < total:
        return 1e-4
    sizes_and_rates: Sequence[tuple[float, float]] = ((5e6, 1e-3), (1e8, 1e-4), (1e9, 1e-5), (4e9, 3e-6))
    return next((rate for size, rate in sizes_and_rates if total < size), 1e-6)


def rounded_away(model: torch.nn.Module, step: float) -> float:
    """Return the share of trained half-precision weights that a step of this size would leave unchanged by rounding.

    0 if no half-precision weight is trained. Only the first elements of large weights are checked.
    """
    lost = total = 0.0
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype in (torch.bfloat16, torch.float16):
            sample = weight.detach().flatten()[:_ROUNDING_SAMPLE]
            lost += float(((sample + step == sample) & (sample - step == sample)).float().mean()) * weight.numel()
            total += weight.numel()
    return lost / max(total, 1.0)


@contextmanager
def _loading(path: str, problem: str) -> Iterator[str]:
    """Yield the folder or hub id to load, and turn any failure into a one-line error that begins with `problem`."""
    folder = Path(model_folder(path))
    if folder.is_file():
        raise InputError(f"model.path: {path!r} is a file; set it to the folder that holds config.json")
    if folder.is_dir() and not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        raise InputError(f"model.path: {path!r} is not a model folder: it holds no config.json")
    if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise InputError(f"model.path: there is no folder {path!r}")
    try:
        if folder.is_dir():
            check_model_folder(folder)
        yield str(folder) if folder.is_dir() else path
    except InputError as error:
        raise InputError(f"model.path: {error}") from error
    except Exception as error:  # transformers raises exceptions of any type on damaged files
        raise InputError(f"model.path: {problem}: {one_line(error)}") from error
