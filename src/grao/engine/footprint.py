"""Estimate a model's memory in training and sampling from shapes alone, without weights and without a GPU.

The model's own forward and backward pass run on PyTorch's fake tensors, which have shapes but no data, and the bytes of
every storage are counted from its creation to its release. So no formula is needed for what an architecture saves for
the backward pass, mixed precision casts, or checkpointing recomputes. Attention saves what a fused kernel saves.
Left out: workspaces of kernels, and fragmentation of the allocator.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from grao.engine.interface import mode, transformers_model
from grao.engine.memory import PerToken, gradients_dropped
from grao.engine.quantized import FOUR_BITS

_NAME = "grao_counted"
_CACHE_PROBE = 8
"""Tokens of the pass whose cache is measured."""
_QUANTIZED_FROM = 4096
"""8-bit and 4-bit optimisers quantize the state of weights with at least this many elements."""
_CPU = torch.device("cpu")


class Meter(TorchDispatchMode):
    """Count the bytes of all storages that are created inside the context: those now alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {value.untyped_storage()._cdata for value in tree_iter(args) if isinstance(value, Tensor)}
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in inputs:
                self._watch(value.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def released(_: Any) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, released)


@contextmanager
def shapes_only(model: nn.Module) -> Iterator[None]:
    """Let a model on the meta device run inside the context as if it were on a CPU, with fake tensors.

    The model keeps its fake weights afterwards.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    fakes: dict[Tensor, Any] = {}

    def fake_of(value: Tensor) -> Any:
        if value not in fakes:  # tied weights stay tied
            shape: Any = FakeTensor(fake, value.detach(), _CPU)
            fakes[value] = nn.Parameter(shape, value.requires_grad) if isinstance(value, nn.Parameter) else shape
        return fakes[value]

    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None and value.device.type == "meta":
                    values[name] = fake_of(value)
    with fake, _GroupedProducts():  # type: ignore[no-untyped-call]
        yield


def activation_bytes(model: nn.Module, half: torch.dtype | None = None) -> PerToken:
    """Return the peak memory of a forward and backward pass, excluding weights, their gradients and the output layer.

    Args:
        model: inside `shapes_only`, with activation checkpointing enabled if training uses it.
        half: dtype of mixed precision; None without.
    """
    transformers_model(model).set_attn_implementation(_NAME)

    def peak(tokens: int) -> int:
        meter = Meter()
        with mode(model, training=True), meter:
            with torch.autocast("cpu", half, enabled=half is not None):
                loss = model(input_ids=_ids(tokens), use_cache=False, logits_to_keep=1).logits.sum()
            loss.backward()
        return meter.peak

    with gradients_dropped(model):
        return PerToken.through(peak)


def reading_bytes(model: nn.Module) -> PerToken:
    """Return the peak memory of prefilling a prompt, its cache included; `model` must be inside `shapes_only`."""
    transformers_model(model).set_attn_implementation(_NAME)

    def peak(tokens: int) -> int:
        meter = Meter()
        with torch.no_grad(), mode(model, training=False), meter:
            model(input_ids=_ids(tokens), use_cache=True, logits_to_keep=1)
        return meter.peak

    return PerToken.through(peak)


@torch.no_grad()
def cache_bytes(model: nn.Module, tokens: int) -> int:
    """Return the bytes of one row's key-value cache.

    They are extrapolated from the model's own cache after a few tokens; recurrent states do not grow. Layers with a
    sliding window count like the others, because captured sampling keeps all of their tokens.

    Args:
        model: with weights, or inside `shapes_only`.
        tokens: of prompt and answer together.
    """
    with mode(model, training=False):
        ids = _ids(_CACHE_PROBE).to(next(model.parameters()).device)
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    cache: Any = getattr(output, "past_key_values", None) or getattr(output, "cache_params", None)
    total = 0.0
    for layer in getattr(cache, "layers", None) or [cache]:
        states = {name: value for name, value in getattr(layer, "__dict__", {}).items() if isinstance(value, Tensor)}
        growing = [states.pop(name) for name in ("keys", "values") if name in states]
        total += sum(value.nbytes / _CACHE_PROBE * tokens for value in growing)
        total += sum(value.nbytes for value in states.values())
    return round(total)


def drawing_bytes(model: nn.Module) -> int:
    """Return the bytes for drawing one row's next token: logits, probabilities, and their sums in double precision."""
    return 24 * len(transformers_model(model).get_output_embeddings().weight)


def trained_bytes(model: nn.Module, parts: int = 1, half: torch.dtype | None = None) -> int:
    """Return the bytes of the trained weights per process; their gradients take as much again.

    Args:
        model: on any device, not yet sharded.
        parts: processes that FSDP2 will shard it over.
        half: dtype of mixed precision; with it, FSDP2 keeps the trained weights in single precision.
    """
    single = parts > 1 and half is not None
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return sum(4 * weight.numel() if single else weight.nbytes for weight in trained) // parts


def frozen_bytes(model: nn.Module, four_bits: bool = False) -> int:
    """Return the bytes of the frozen weights.

    Args:
        model: on any device.
        four_bits: count all linear layers except the output layer as `model.quantization: 4bit` stores them.
    """
    output = transformers_model(model).get_output_embeddings()
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer is not output]
    packed = {id(layer.weight) for layer in linear} if four_bits else set()
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    return sum(round(weight.numel() * FOUR_BITS) if id(weight) in packed else weight.nbytes for weight in frozen)


def optimizer_bytes(model: nn.Module, name: str) -> int:
    """Return the bytes of an optimizer's state; an unknown optimizer counts as Adam.

    PyTorch's Adam keeps two numbers per weight in the weight's own dtype; 8-bit and 4-bit optimizers keep smaller
    numbers and one scale per block of them.

    Args:
        model: on any device.
        name: of the optimizer in transformers (`TrainingArguments.optim`).
    """
    numbers = 0 if name == "sgd" else 1 if "lion" in name or "adagrad" in name or "rmsprop" in name else 2
    total = 0.0
    for weight in model.parameters():
        count, shape = weight.numel(), weight.shape
        if not weight.requires_grad:
            continue
        if name == "adafactor":
            total += 4 * (count / shape[-1] + count / shape[-2] if len(shape) > 1 else count)
        elif "8bit" in name or "4bit" in name:
            size, block = (1.0, 256) if "8bit" in name else (0.5, 128)
            total += numbers * count * (size + 4 / block if count >= _QUANTIZED_FROM else 4.0)
        else:
            total += numbers * count * (4 if "32bit" in name else weight.itemsize)
    return round(total)


def gathered_bytes(model: nn.Module, half: torch.dtype | None) -> int:
    """Return the most bytes that FSDP2 gathers on one process.

    These are two blocks (one in use, one prefetched), the gradient of one, and the weights outside the blocks with
    their gradients.

    Args:
        model: on any device, not yet sharded.
        half: dtype of mixed precision; None without.
    """
    inner = transformers_model(model)
    kinds = set(inner._no_split_modules or ())
    blocks = [_weights(block) for block in inner.modules() if type(block).__name__ in kinds]
    outside = _weights(model) - sum(blocks)
    return (3 * max(blocks, default=0) + 2 * outside) * (half.itemsize if half else next(model.parameters()).itemsize)


def _weights(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def kept_bytes(model: nn.Module, optimizer: str, parts: int, half: torch.dtype | None = None) -> int:
    """Return the bytes that training adds permanently to a loaded model, besides gradients.

    These are the optimizer's state and, if the model will be sharded, this process's shard: the loaded model then
    remains as the copy that samples.

    Args:
        model: on any device, not yet sharded.
        optimizer: its name in transformers.
        parts: processes that the model will be sharded over; 1 if it will not.
        half: dtype of mixed precision; None without.
    """
    if parts == 1:
        return optimizer_bytes(model, optimizer)
    shard = trained_bytes(model, parts, half)
    state_per_byte = optimizer_bytes(model, optimizer) / max(trained_bytes(model), 1)
    return round(shard * (1 + state_per_byte)) + frozen_bytes(model) // parts


def _ids(tokens: int) -> Tensor:
    return torch.zeros(1, tokens, dtype=torch.long)


class _Counted(torch.autograd.Function):
    """Attention on shapes alone: saves its inputs, its output and one number per query, as fused kernels do."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor):  # type: ignore[no-untyped-def]
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, by_output: Tensor):  # type: ignore[no-untyped-def]
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


def _counted_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    output: Tensor = _Counted.apply(query, key, value)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


class _GroupedProducts(TorchDispatchMode):
    """Shape rule of the experts' grouped matmul for any dtype: PyTorch's own rule only accepts bfloat16."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        left, right, ends = args[:3]
        experts = (len(ends),) if right.dim() == left.dim() else ()
        return left.new_empty(*experts, left.shape[-2], right.shape[-1])


AttentionInterface.register(_NAME, _counted_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
