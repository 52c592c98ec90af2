"""Sharded models: each process keeps a shard of every weight, with FSDP2 (as a DTensor) or DeepSpeed ZeRO-3.

Everything that differs between sharded and replicated models is in this file. Gathering a weight is a collective: all
processes must request the same weights in the same order. Each gathered weight is released before the next one, so
that the full model never has to fit on one device. Left out: CPU offloading, and sharding during loading.
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
"""Inserted into the names of weights by FSDP's activation checkpointing."""


def configure_sharding(accelerator: Accelerator, model: nn.Module) -> bool:
    """Configure how the model will be sharded when training begins; until then each process has all of it.

    With FSDP2 in mixed precision, gradients are reduced in single precision and the loss is not rounded. FSDP2 is also
    used on CPUs, where accelerate would ignore it.

    Args:
        accelerator: of the trainer; its state is changed.
        model: moved to the device of this process.

    Returns:
        Whether FSDP2 will shard the model.

    Raises:
        InputError: for a way of sharding that is not supported.
    """
    fsdp = _fsdp(accelerator)
    if fsdp is None and accelerator.distributed_type is not DistributedType.DEEPSPEED:
        return False
    if fsdp and fsdp.fsdp_version != 2:
        raise InputError(f"{_FILE}: the first version of FSDP is not supported; set fsdp_version: 2")
    if fsdp and fsdp.cpu_ram_efficient_loading:
        raise InputError(f"{_FILE}: every process loads the full model; set fsdp_cpu_ram_efficient_loading: false")
    if fsdp and isinstance(fsdp.cpu_offload, CPUOffloadPolicy):
        raise InputError(f"{_FILE}: offloading weights to the CPU is not supported; set fsdp_offload_params: false")
    if any(map(is_split, model.parameters())):
        raise InputError(f"{_FILE}: the model was sharded while it was loaded; set zero3_init_flag: false")
    if getattr(model, "is_quantized", False):
        raise InputError("model.quantization: 4-bit weights cannot be sharded; use plain data parallelism (DDP)")
    model.to(accelerator.device)
    if fsdp is None:
        return False
    if half := half_precision(accelerator):
        fsdp.mixed_precision_policy = MixedPrecisionPolicy(half, reduce_dtype=torch.float32)
    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = fsdp
    return True


def _fsdp(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """Return accelerate's FSDP settings; None without FSDP.

    They are read again for every trainer, because the plugin remembers the layer classes of the model it has wrapped.
    """
    requested = parse_flag_from_env("ACCELERATE_USE_FSDP")
    possible = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.MULTI_CPU)
    return FullyShardedDataParallelPlugin() if requested and possible else None


def move_to_cpu(model: nn.Module) -> None:
    """Move a model to the CPU before FSDP shards it.

    The GPU already holds the full copy that samples; FSDP moves the shards back block by block.
    """
    if not any(map(is_split, model.parameters())):
        model.to("cpu")


def split_over(accelerator: Accelerator) -> int:
    """Return the number of processes that weights are sharded over in training; 1 if each process has all of them."""
    stage = getattr(accelerator.state.deepspeed_plugin, "zero_stage", 0)
    split = accelerator.distributed_type is DistributedType.FSDP or stage == 3
    return accelerator.num_processes if split else 1


def autocast(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Return the mixed-precision context for a forward pass that bypasses accelerate's wrapper.

    With FSDP2 it does nothing: FSDP2 casts weights and inputs by its own policy.
    """
    fsdp = accelerator.distributed_type is DistributedType.FSDP
    return nullcontext() if fsdp else cast(AbstractContextManager[None], accelerator.autocast())


def half_precision(accelerator: Accelerator) -> torch.dtype | None:
    """Return the dtype of mixed precision; None without mixed precision."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)


def is_split(weight: Tensor) -> bool:
    """Whether this process holds only a shard of the weight."""
    return isinstance(weight, DTensor) or hasattr(weight, "ds_tensor")


@torch.no_grad()
def full_value(weight: Tensor) -> Tensor:
    """Return the full value of a weight, norm or optimizer state; a collective if it is sharded."""
    if isinstance(weight, DTensor):
        return weight.full_tensor()
    if hasattr(weight, "ds_tensor"):
        with import_module("deepspeed").zero.GatheredParameters([weight]):
            return weight.detach().clone()
    return weight.detach()


@torch.no_grad()
def local_shard(weight: Tensor) -> Tensor:
    """Return this process's shard as a view: writing to it changes the weight."""
    if isinstance(weight, DTensor):
        return weight.to_local()
    if hasattr(weight, "ds_tensor"):
        part: Tensor = weight.ds_tensor.detach()
        return part[: max(0, cast(Any, weight).ds_numel - _start(weight))]  # without the padding of the last shard
    return weight.detach()


def _start(weight: Tensor) -> int:
    """Return the offset of this process's shard in the flattened weight (ZeRO-3)."""
    split: Any = weight
    return cast(int, distributed.get_rank(split.ds_process_group) * split.ds_tensor.numel())


def shard_of(value: Tensor, weight: Tensor) -> Tensor:
    """Return this process's shard of a value for a weight, in the layout of `local_shard`.

    Args:
        value: for the full weight, or already this process's shard.
        weight: sharded.
    """
    own = local_shard(weight)
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
    """Return a model's weights by their names in the unsharded model, and release what its last pass gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    weights = {name.replace(_WRAPPED, ""): weight for name, weight in model.named_parameters()}
    for weight in weights.values():
        if hasattr(weight, "ds_tensor"):
            cast(Any, weight).partition()
    return weights


@contextmanager
def swapped_weights(model: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Swap the values of some weights inside the context.

    Args:
        model: sharded or not.
        values: new values by name, full or this process's shards; meanwhile it holds the original values.
    """
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
            part = local_shard(weight)
            value, values[name] = shard_of(value, weight), part.clone()
            part.copy_(value)
        else:
            values[name], weight.data = weight.data, value.to(weight)


def sum_over_processes(accelerator: Accelerator, values: Tensor) -> list[float]:
    """Return the sums over all processes; values are moved to the GPU, because NCCL only reduces GPU tensors."""
    return cast(list[float], accelerator.reduce(values.to(accelerator.device), reduction="sum").tolist())


def full_state(model: nn.Module, keep: bool, copy: bool = False) -> dict[str, Any]:
    """Return the state dict of the full model in CPU memory; a collective, to be called by every process.

    Args:
        model: without its wrappers.
        keep: whether this process wants the result; otherwise it gets an empty dict.
        copy: whether the result must not change as training goes on; frozen weights are never copied.
    """
    named_weights(model)
    gathered: dict[int, Any] = {}
    state: dict[str, Any] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        if id(weight) not in gathered:  # tied weights stay tied
            changes = not isinstance(weight, nn.Parameter) or weight.requires_grad
            gathered[id(weight)] = on_host(weight, keep, copy and changes) if isinstance(weight, Tensor) else weight
        state[name] = gathered[id(weight)]
    return state if keep else {}


def on_host(value: Tensor, keep: bool, copy: bool = False) -> Tensor:
    """Return the full value of a weight or optimizer state in CPU memory; a collective if it is sharded.

    Args:
        value: a weight or state, sharded or not.
        keep: whether this process wants the result; otherwise it gets an empty tensor.
        copy: copy even if the value is already in CPU memory.
    """
    gathered = full_value(value)
    return gathered.to("cpu", copy=copy).contiguous() if keep else gathered.new_empty(0)
