"""The memory that a model takes in training and in sampling, from shapes alone: no weights, no card.

Its own forward and backward pass run on tensors that have a shape and no numbers (PyTorch's fake tensors), and every
storage is counted from when it is made until it goes. So what an architecture keeps, what mixed precision casts and
what checkpointing computes again need no formula. Attention keeps what a fused kernel keeps. Left out: what a kernel
needs inside, and what the allocator loses between blocks.
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
_FEW = 8
"""Tokens after which a cache is looked at."""
_QUANTIZED_FROM = 4096
"""Weights of a tensor from which optimisers of 8 bits quantize its state."""
_CPU = torch.device("cpu")


class Meter(TorchDispatchMode):
    """Within it, the bytes of all storages that were made and are still there, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {value.untyped_storage()._cdata for value in tree_iter(args) if isinstance(value, Tensor)}
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in given:
                self._watch(value.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone(_: Any) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)


@contextmanager
def shapes_only(model: nn.Module) -> Iterator[None]:
    """Within it, the model on the meta device computes as one on a CPU would, without numbers. It stays so behind."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[Tensor, Any] = {}

    def twin(value: Tensor) -> Any:
        if value not in made:
            shape: Any = FakeTensor(fake, value.detach(), _CPU)
            made[value] = nn.Parameter(shape, value.requires_grad) if isinstance(value, nn.Parameter) else shape
        return made[value]

    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None and value.device.type == "meta":
                    values[name] = twin(value)
    with fake, _ProductsByExpert():  # type: ignore[no-untyped-call]
        yield


def activation_bytes(model: nn.Module, half: torch.dtype | None = None) -> PerToken:
    """The most that a forward and a backward pass hold beside weights and their gradients, but for the output layer.

    Args:
        model: within `shapes_only`; with activation checkpointing switched on if that is wanted.
        half: number format of mixed precision.
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
    """The most that reading a prompt takes before it is answered, its own cache included; `model` as above."""
    transformers_model(model).set_attn_implementation(_NAME)

    def peak(tokens: int) -> int:
        meter = Meter()
        with torch.no_grad(), mode(model, training=False), meter:
            model(input_ids=_ids(tokens), use_cache=True, logits_to_keep=1)
        return meter.peak

    return PerToken.through(peak)


@torch.no_grad()
def cache_bytes(model: nn.Module, tokens: int) -> int:
    """What the cache of one row of so many tokens takes, read off the model's own after a few: layers, key heads,
    widths and number format as they are, states without length. Layers with a sliding window count like the others,
    since captured sampling keeps all of their tokens.

    Args:
        model: with weights, or within `shapes_only`.
        tokens: of prompt and answer.
    """
    with mode(model, training=False):
        ids = _ids(_FEW).to(next(model.parameters()).device)
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    cache: Any = getattr(output, "past_key_values", None) or getattr(output, "cache_params", None)
    total = 0.0
    for layer in getattr(cache, "layers", None) or [cache]:
        held = {name: value for name, value in getattr(layer, "__dict__", {}).items() if isinstance(value, Tensor)}
        growing = [held.pop(name) for name in ("keys", "values") if name in held]
        total += sum(value.nbytes / _FEW * tokens for value in growing) + sum(value.nbytes for value in held.values())
    return round(total)


def drawing_bytes(model: nn.Module) -> int:
    """What drawing a row's next token takes: logits, probabilities and their sums in double precision."""
    return 24 * len(transformers_model(model).get_output_embeddings().weight)


def trained_bytes(model: nn.Module, parts: int = 1, half: torch.dtype | None = None) -> int:
    """Of the weights that are trained; their gradients take as much.

    Args:
        model: on any device, whole.
        parts: processes that FSDP2 will split it over.
        half: number format of mixed precision, in which FSDP2 trains weights in single precision.
    """
    single = parts > 1 and half is not None
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return sum(4 * weight.numel() if single else weight.nbytes for weight in trained) // parts


def frozen_bytes(model: nn.Module, four_bits: bool = False) -> int:
    """Of the weights that are not.

    Args:
        model: on any device.
        four_bits: count the linear layers but for the output as `model.quantization: 4bit` stores them.
    """
    output = transformers_model(model).get_output_embeddings()
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer is not output]
    packed = {id(layer.weight) for layer in linear} if four_bits else set()
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    return sum(round(weight.numel() * FOUR_BITS) if id(weight) in packed else weight.nbytes for weight in frozen)


def optimizer_bytes(model: nn.Module, name: str) -> int:
    """The state of an optimiser, by its name in transformers. One that is not known here counts as Adam.

    torch's keep two numbers a weight in the weight's own format, those of 8 and 4 bits a scale for each block of them.
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
    """What one process has gathered of a model that FSDP2 splits, at most: two blocks, the gradient of one, and what
    stands outside of the blocks with its gradient.

    Args:
        model: on any device, whole.
        half: number format of mixed precision.
    """
    inner = transformers_model(model)
    kinds = set(inner._no_split_modules or ())
    blocks = [_weights(block) for block in inner.modules() if type(block).__name__ in kinds]
    outside = _weights(model) - sum(blocks)
    return (3 * max(blocks, default=0) + 2 * outside) * (half.itemsize if half else next(model.parameters()).itemsize)


def _weights(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def kept_bytes(model: nn.Module, optimizer: str, parts: int, half: torch.dtype | None = None) -> int:
    """What training adds for good to a model that is there, beside gradients: the state of its optimiser, and if it
    will be split into parts one of them, for what is there remains as the copy that samples."""
    if parts == 1:
        return optimizer_bytes(model, optimizer)
    split = trained_bytes(model, parts, half)
    state = optimizer_bytes(model, optimizer) / max(trained_bytes(model), 1)  # for each byte that is trained
    return round(split * (1 + state)) + frozen_bytes(model) // parts


def _ids(tokens: int) -> Tensor:
    return torch.zeros(1, tokens, dtype=torch.long)


class _Counted(torch.autograd.Function):
    """Attention in shapes: keeps its inputs, its output and one number a row, as fused kernels do."""

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


class _ProductsByExpert(TorchDispatchMode):
    """Their shapes in any number format: PyTorch's own rule takes bfloat16 alone, its kernels do not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        left, right, ends = args[:3]
        experts = (len(ends),) if right.dim() == left.dim() else ()
        return left.new_empty(*experts, left.shape[-2], right.shape[-1])


AttentionInterface.register(_NAME, _counted_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
