"""Models and tokenizers from a folder or the hub: safetensors only, no remote code unless asked for.

And what only a loaded model knows: the tokens that end an answer, its size, and the learning rate that suits it.
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

from grao.engine.adapters import adapter_at, merged, model_folder, whole_weights
from grao.engine.folder import check_model_folder
from grao.engine.interface import base_model
from grao.engine.padded import plain_logps
from grao.engine.quantized import elements, four_bits, scales
from grao.errors import InputError, one_line
from grao.types import TokenIds

_DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16}
_CHECKED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Number formats whose finiteness can be looked at."""
_LOOKED_AT = 1 << 16
"""Weights of a tensor by which rounding is judged."""


def load_model(
    path: str,
    dtype: str = "float32",
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    quantization: str | None = None,
) -> PreTrainedModel:
    """A causal language model. An adapter is merged into its base.

    Args:
        path: model folder, folder of a run, or hub id.
        dtype: `auto`, `float32` or `bfloat16`.
        attention: attention implementation of transformers; a model without `sdpa` takes `eager`, with a warning.
        trust_remote_code: run Python code that comes with the checkpoint.
        quantization: `4bit` holds its linear layers so (QLoRA).

    Raises:
        InputError: if there is no such model, it is no causal language model, or its weights are no safetensors, not
            complete or not finite; if an adapter would be merged into 4 bits, or what those need is not installed.
    """
    if adapter := adapter_at(path):
        if quantization:
            remedy = "train it further (model.adapter: continue), or merge it without model.quantization"
            raise InputError(f"model.quantization: merging {path!r} into weights of 4 bits would round it; {remedy}")
        return merged(adapter, lambda base: load_model(base, dtype, attention, trust_remote_code))
    products = torch.float32 if dtype == "float32" else torch.bfloat16
    more = {"quantization_config": four_bits(products)} if quantization else {}
    tried = f"cannot load {path!r}" if Path(path).exists() else f"no folder {path!r} here, and not from the hub"
    with _loading(path, tried if attention == "sdpa" else f"{tried} with model.attention: {attention}") as folder:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=_DTYPES[dtype],
            attn_implementation=None if attention == "sdpa" else attention,  # None: sdpa where the model has it
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **more,
        )
    model: PreTrainedModel = _sound(loaded[0], path, loaded[1]["missing_keys"])
    if attention != (used := model.config._attn_implementation):
        name = type(model).__name__
        warnings.warn(f"model.attention: {name} has no {attention}, so {used} is taken", stacklevel=2)
    return model


def model_shape(path: str, dtype: str = "float32", trust_remote_code: bool = False) -> PreTrainedModel:
    """A causal language model on the meta device, from config.json alone; of an adapter the base.

    Args and raises: as `load_model`.
    """
    if adapter := adapter_at(path):
        return model_shape(adapter.base, dtype, trust_remote_code)
    with _loading(path, f"cannot make a model of {path!r}") as folder:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        chosen = (config.dtype or torch.float32) if dtype == "auto" else _DTYPES[dtype]
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=chosen, trust_remote_code=trust_remote_code)
    return cast(PreTrainedModel, model)


def load_reward_model(path: str, dtype: str = "auto", trust_remote_code: bool = False) -> PreTrainedModel:
    """A model with one output, the reward of the text that it reads (`AutoModelForSequenceClassification`).

    Args:
        path: model folder or hub id.
        dtype: `auto`, `float32` or `bfloat16`.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        InputError: if there is no such model, it has no safetensors weights, or its checkpoint holds no trained
            output of that kind: a language model would score at random.
    """
    model, missing = _classifier(path, dtype, trust_remote_code)
    _sound(model, path)
    if missing or model.config.num_labels != 1:
        why = f"lacks {', '.join(sorted(missing))}" if missing else f"has {model.config.num_labels} outputs, not one"
        raise InputError(f"model.path: {path!r} is no reward model: it {why}; make one with grao reward train")
    model.eval().requires_grad_(False)
    return model


def new_reward_model(path: str, dtype: str = "float32", trust_remote_code: bool = False) -> PreTrainedModel:
    """A language model (or a reward model) to be trained as one, with a random output where the checkpoint has none.

    Args and raises: as `load_reward_model`, but for the output.
    """
    model, missing = _classifier(path, dtype, trust_remote_code, num_labels=1)
    return _sound(model, path, {name for name in missing if name.startswith(f"{model.base_model_prefix}.")})


def _classifier(path: str, dtype: str, trust_remote_code: bool, **config: int) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the weights that its checkpoint lacks. An adapter is merged into its base."""
    lacking: set[str] = set()
    if adapter := adapter_at(path):

        def load(base: str) -> PreTrainedModel:
            model, missing = _classifier(base, dtype, trust_remote_code, num_labels=1)
            lacking.update(missing)
            return model

        return merged(adapter, load, task=None), lacking - whole_weights(adapter)
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
    """A model without an output layer, for the vectors of its last layer.

    Raises:
        InputError: if there is no such model, or it has no safetensors weights.
    """
    if adapter := adapter_at(path):
        language = adapter.config.task_type == "CAUSAL_LM"  # whose names of layers are those of the whole model
        whole: Any = merged(adapter, load_model) if language else merged(adapter, load_encoder, task=None)
        model: PreTrainedModel = whole.base_model
    else:
        with _loading(path, f"cannot load {path!r} as an encoder") as folder:
            loaded: Any = AutoModel.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, trust_remote_code=False
            )
        model = _sound(loaded[0], path, loaded[1]["missing_keys"])
    model.eval().requires_grad_(False)
    return model


def broken_tensor(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, None if all numbers are finite."""
    for name, tensor in tensors:
        checked = tensor.dtype in _CHECKED and tensor.numel() and tensor.device.type != "meta"
        if checked and not torch.stack(torch.aminmax(tensor.detach())).isfinite().all():  # NaN comes through
            return name
    return None


def check_finite(model: torch.nn.Module, which: str) -> None:
    """Refuses a model that holds NaN or infinity; `which` model it is, for the message.

    Raises:
        InputError: naming the first such weight.
    """
    if name := broken_tensor((*model.named_parameters(), *scales(model))):
        raise InputError(f"{which}: the weight {name} holds NaN or infinity; take an intact copy of the model")


def _sound(model: PreTrainedModel, path: str, missing: Collection[str] = ()) -> PreTrainedModel:
    """The model, if every weight came from the checkpoint and is finite; `missing` are the weights that did not.

    What pools an encoder's vectors for another task may be missing: many checkpoints are without it.
    """
    if lacking := sorted(name for name in missing if "pooler." not in name):
        more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        problem = f"{path!r} lacks the weight {lacking[0]}{more}, which would be random; is it a model of another kind"
        raise InputError(f"model.path: {problem}, or a file of it lost?")
    check_finite(model, f"model.path: {path!r}")
    return model


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model, with a padding token. Where none is beside an adapter, its base's.

    Raises:
        InputError: if there is none.
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
    """Every token that ends a completion: those of the generation config, else of the model, else the tokenizer's.

    A model may end with another token than `tokenizer.eos_token_id`; only the generation config knows.
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
    """Lets `generate` stop at all of these tokens, with a model as it is saved too, and says that `end` is new."""
    problem, adapted = (
        f"answers end with {end!r}, which generation_config.json does not list",
        isinstance(model, PeftModel),
    )
    later = "give it to generate too, for an adapter lists none" if adapted else "the trained model will list it"
    warnings.warn(f"{problem}: sampling stops there too; {later}", stacklevel=4)
    base = base_model(model)
    if base.generation_config:
        base.generation_config.eos_token_id = list(stop_ids)


@torch.no_grad()
def likeliest_stop(
    model: torch.nn.Module, stop_ids: Sequence[int], prompts: Sequence[TokenIds], answers: Sequence[TokenIds]
) -> int:
    """The stop token that the model itself puts behind an answer, measured on a few answers without end token.

    Where a generation config lists several, only the model knows which one it uses; a reference closed with
    another would teach it never to stop.
    """
    if len(stop_ids) == 1:
        return stop_ids[0]
    texts = list(zip(prompts, answers, strict=True))  # each alone, for some models see padding
    last = [
        torch.stack([plain_logps(model, prompt, [*answer, stop])[-1] for prompt, answer in texts]).mean()
        for stop in stop_ids
    ]
    return stop_ids[int(torch.stack(last).argmax())]


def add_adapter(
    model: PreTrainedModel,
    rank: int,
    alpha: int,
    dropout: float,
    target_modules: str | list[str],
    task_type: str = "CAUSAL_LM",
) -> PeftModel:
    """The model with a low-rank adapter; everything else is frozen, but for the output of a reward model (`SEQ_CLS`).

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
    """Number of parameters, or of those that are trained."""
    return sum(elements(p) for p in model.parameters() if p.requires_grad or not trainable)


def usual_learning_rate(model: torch.nn.Module) -> float:
    """A common peak rate for Adam at this size, full weights or adapter: a hint for warnings, nothing more.

    The paper's 1e-6 is for 7 billion parameters and more; small models and adapters need far larger steps.
    """
    trained, everything = parameter_count(model, trainable=True), parameter_count(model)
    if trained < everything:
        return 1e-4
    sizes_and_rates: Sequence[tuple[float, float]] = ((5e6, 1e-3), (1e8, 1e-4), (1e9, 1e-5), (4e9, 3e-6))
    return next((rate for size, rate in sizes_and_rates if everything < size), 1e-6)


def rounded_away(model: torch.nn.Module, step: float) -> float:
    """Share of the trained weights in half precision that stay as they are when a step of this size is added: it is
    below half a unit in their last place. 0 if none is trained in half precision. Of large tensors some are looked at.
    """
    lost = whole = 0.0
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype in (torch.bfloat16, torch.float16):
            some = weight.detach().flatten()[:_LOOKED_AT]
            lost += float(((some + step == some) & (some - step == some)).float().mean()) * weight.numel()
            whole += weight.numel()
    return lost / max(whole, 1.0)


@contextmanager
def _loading(path: str, problem: str) -> Iterator[str]:
    """Gives the folder or hub id, and tells what is wrong with it in one line that begins with `problem`."""
    folder = Path(model_folder(path))
    if folder.is_file():
        raise InputError(f"model.path: {path!r} is a file; give the folder that holds config.json")
    if folder.is_dir() and not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        raise InputError(f"model.path: {path!r} holds no config.json, so it is no model folder")
    if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise InputError(f"model.path: there is no folder {path!r}")
    try:
        if folder.is_dir():
            check_model_folder(folder)
        yield str(folder) if folder.is_dir() else path
    except InputError as error:
        raise InputError(f"model.path: {error}") from error
    except Exception as error:  # whatever transformers stumbles over is in the folder
        raise InputError(f"model.path: {problem}: {one_line(error)}") from error
