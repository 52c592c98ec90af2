"""Models split over processes: each keeps a part of every weight, with FSDP2 (a DTensor) or DeepSpeed ZeRO-3.

What sets them apart from a model that every process has whole stands here. Gathering is a collective: all processes ask
for the same weights in the same order, and a weight is gone again before the next one. Left out: weights that wait in
the host's memory, and those that are split while they are loaded.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from grao.errors import InputError

_FILE = "accelerate's configuration"
_WRAPPED = "_checkpoint_wrapped_module."
"""What FSDP's activation checkpointing puts into the names of weights."""


def begin_splitting(accelerator: Accelerator, model: nn.Module) -> bool:
    """Settles how a model will be split once training begins. Until then it is whole, on the device of its process.

    With FSDP2 in mixed precision gradients are added up in single precision, and the loss is not rounded. On CPUs,
    where accelerate passes over FSDP, it splits too.

    Returns:
        Whether FSDP will.

    Raises:
        InputError: for a way of splitting that is not supported.
    """
    fsdp = _fsdp(accelerator)
    if fsdp is None and accelerator.distributed_type is not DistributedType.DEEPSPEED:
        return False
    if fsdp and fsdp.fsdp_version != 2:
        raise InputError(f"{_FILE}: the first version of FSDP is not supported; set fsdp_version: 2")
    if fsdp and fsdp.cpu_ram_efficient_loading:
        raise InputError(f"{_FILE}: every process loads the whole model; set fsdp_cpu_ram_efficient_loading: false")
    if fsdp and isinstance(fsdp.cpu_offload, CPUOffloadPolicy):
        raise InputError(f"{_FILE}: weights in the host's memory are not supported; set fsdp_offload_params: false")
    if any(map(is_split, model.parameters())):
        raise InputError(f"{_FILE}: the model was split while it was loaded; set zero3_init_flag: false")
    if getattr(model, "is_quantized", False):
        raise InputError("model.quantization: weights of 4 bits are not split; start one copy on each GPU")
    model.to(accelerator.device)
    if fsdp is None:
        return False
    if half := half_precision(accelerator):
        fsdp.mixed_precision_policy = MixedPrecisionPolicy(half, reduce_dtype=torch.float32)
    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = fsdp
    return True


def _fsdp(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """What accelerate's configuration says of FSDP, None without it: read anew, for it keeps the layers of a model."""
    asked = parse_flag_from_env("ACCELERATE_USE_FSDP")
    able = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.MULTI_CPU)
    return FullyShardedDataParallelPlugin() if asked and able else None


def leave_device(model: nn.Module) -> None:
    """Takes a model to the host before FSDP cuts it: its card has the copy that samples, and room for one block."""
    if not any(map(is_split, model.parameters())):
        model.to("cpu")


def split_over(accelerator: Accelerator) -> int:
    """The number of processes that the weights are split over while training, 1 where each has all of them."""
    stage = getattr(accelerator.state.deepspeed_plugin, "zero_stage", 0)
    split = accelerator.distributed_type is DistributedType.FSDP or stage == 3
    return accelerator.num_processes if split else 1


def autocast(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Mixed precision for a forward pass that does not begin at what accelerate wrapped; FSDP2 brings its own."""
    fsdp = accelerator.distributed_type is DistributedType.FSDP
    return nullcontext() if fsdp else cast(AbstractContextManager[None], accelerator.autocast())


def half_precision(accelerator: Accelerator) -> torch.dtype | None:
    """The number format of mixed precision; None without."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)


def is_split(weight: Tensor) -> bool:
    """Whether this process has a part of it only."""
    return isinstance(weight, DTensor) or hasattr(weight, "ds_tensor")


@torch.no_grad()
def whole(weight: Tensor) -> Tensor:
    """All of a weight, or of a norm or state that is split like one; a collective if it is split."""
    if isinstance(weight, DTensor):
        return weight.full_tensor()
    if hasattr(weight, "ds_tensor"):
        with import_module("deepspeed").zero.GatheredParameters([weight]):
            return weight.detach().clone()
    return weight.detach()


@torch.no_grad()
def local(weight: Tensor) -> Tensor:
    """The part of this process, in place: what is written into it is written into the weight."""
    if isinstance(weight, DTensor):
        return weight.to_local()
    if hasattr(weight, "ds_tensor"):
        part: Tensor = weight.ds_tensor.detach()
        return part[: max(0, cast(Any, weight).ds_numel - _start(weight))]  # behind it the last process has padding
    return weight.detach()


def _start(weight: Tensor) -> int:
    """The place of this process's part in a weight that ZeRO-3 keeps as a row of numbers."""
    split: Any = weight
    return cast(int, distributed.get_rank(split.ds_process_group) * split.ds_tensor.numel())


def part_of(value: Tensor, weight: Tensor) -> Tensor:
    """This process's part of a whole value for a weight, as `local` has it; what is a part already stays as it is."""
    own = local(weight)
    if value.shape == own.shape:
        return value.to(own)
    if isinstance(weight, DTensor):
        mesh = weight.device_mesh
        for axis, placement in enumerate(weight.placements):
            if placement.is_shard():
                dim = cast(Any, placement).dim
                parts, index = value.chunk(mesh.size(axis), dim), mesh.get_local_rank(axis)
                value = parts[index] if index < len(parts) else value.narrow(dim, 0, 0)
    else:
        value = value.flatten()[_start(weight) :][: own.numel()]
    return value.to(own, copy=True)


def named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's weights, by the names that they have when it is whole. What its last pass gathered is given up."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    weights = {name.replace(_WRAPPED, ""): weight for name, weight in model.named_parameters()}
    for weight in weights.values():
        if hasattr(weight, "ds_tensor"):
            cast(Any, weight).partition()
    return weights


@contextmanager
def exchanged(model: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Within it, weights have other values, whole or the parts of this process; `values` has their own meanwhile."""
    _exchange(model, values)
    try:
        yield
    finally:
        _exchange(model, values)


@torch.no_grad()
def _exchange(model: nn.Module, values: dict[str, Tensor]) -> None:
    weights = named_weights(model)
    for name, value in values.items():
        weight = weights[name]
        if is_split(weight):
            part = local(weight)
            value, values[name] = part_of(value, weight), part.clone()
            part.copy_(value)
        else:
            values[name], weight.data = weight.data, value.to(weight)


def summed(accelerator: Accelerator, values: Tensor) -> list[float]:
    """The sums over all processes; between GPUs only what lies on them can be added up."""
    return cast(list[float], accelerator.reduce(values.to(accelerator.device), reduction="sum").tolist())


def whole_state(model: nn.Module, keep: bool, copy: bool = False) -> dict[str, Any]:
    """The state dict of the whole model in the host's memory, where it is to be kept; elsewhere nothing.

    Args:
        model: without what wraps it; every process calls it.
        keep: whether this process wants it.
        copy: whether it must stay as it is while training goes on; what is not trained does so anyway.
    """
    named_weights(model)
    seen: dict[int, Any] = {}
    state: dict[str, Any] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        if id(weight) not in seen:  # tied weights stay one
            moves = not isinstance(weight, nn.Parameter) or weight.requires_grad
            seen[id(weight)] = on_host(weight, keep, copy and moves) if isinstance(weight, Tensor) else weight
        state[name] = seen[id(weight)]
    return state if keep else {}


def on_host(value: Tensor, keep: bool, copy: bool = False) -> Tensor:
    """All of a weight or of what an optimiser keeps of it, in the host's memory; empty where it is not to be kept."""
    gathered = whole(value)
    return gathered.to("cpu", copy=copy).contiguous() if keep else gathered.new_empty(0)
