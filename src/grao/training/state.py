"""Contents of a checkpoint; none of it is pickled.

model.safetensors      the policy as a plain model folder, or adapter_model.safetensors
optimizer.safetensors  the optimizer's tensors of each weight, under `WEIGHT/KEY`
training_state.json    the optimizer's numbers, schedule, loss scale, random states of all processes, skipped steps
grao_state.json        state that method, watch and log carry from step to step
trainer_state.json     transformers' own: step and log

A critic adds value_head.safetensors, samples drawn ahead add ahead.safetensors.

Tensors are unsharded and named as in the policy, so one process, several (DDP) and sharded weights (FSDP2) can resume
from each other's checkpoints.
Not used: torch.distributed.checkpoint. Its files contain a pickle, and `get_optimizer_state_dict` takes a step with an
optimizer that has no state yet.
"""

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import field
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from pydantic.dataclasses import dataclass
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from grao.engine.sharded import named_weights, on_host
from grao.errors import InputError
from grao.methods.base import State
from grao.records.checkpoints import OPTIMIZER, STATE
from grao.records.files import Record
from grao.training.stages import StageProgress
from grao.training.watch import Look

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class RandomState:
    """Random states of one process."""

    python: list[Any]
    numpy: list[Any]
    cpu: str
    """torch's state, hexadecimal."""
    cuda: str | None = None
    """Likewise, of the GPU; None without one."""

    @staticmethod
    def now(device: torch.device) -> "RandomState":
        """Return the current state."""
        version, internal, gauss = random.getstate()
        name, keys, *rest = np.random.get_state()
        cuda = _hex(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None
        numbers = [name, np.asarray(keys).tolist(), *rest]
        return RandomState([version, list(internal), gauss], numbers, _hex(torch.get_rng_state()), cuda)

    def restore(self, device: torch.device) -> None:
        """Restore this state."""
        version, internal, gauss = self.python
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(self.numpy))
        torch.set_rng_state(_bytes(self.cpu))
        if self.cuda and device.type == "cuda":
            torch.cuda.set_rng_state(_bytes(self.cuda), device)


@dataclass(frozen=True)
class TrainingState:
    """`training_state.json`: everything that is not a tensor."""

    schedule: int
    """Steps of the learning-rate schedule, without skipped ones."""
    groups: list[dict[str, Any]]
    """Settings of the optimizer's parameter groups."""
    numbers: dict[str, Any]
    """Optimizer state of weights that is not a tensor, under `WEIGHT/KEY`."""
    scaler: dict[str, Any]
    """State of the fp16 gradient scaler; empty without one."""
    random: list[RandomState]
    """One per process."""
    bad_steps: tuple[int, int] = (0, 0)
    """(skipped steps in a row, number of the last of them)."""


@dataclass(frozen=True)
class CarriedState:
    """`grao_state.json`: state carried from step to step beside weights and optimizer."""

    method: State
    looks: list[Look]
    """Looks of the watch."""
    steps: list[dict[str, float]]
    """Metrics of steps that are not logged yet."""
    token_budget: int | None = None
    """The smallest budget to which running out of memory has reduced it; None if it never did."""
    reached: StageProgress = field(default_factory=StageProgress)
    frozen_texts: list[str] = field(default_factory=list)
    """`Observer.frozen_texts` of each process."""


CARRIED = Record("grao_state.json", CarriedState)
_STATE = Record(STATE, TrainingState)
write_state = _STATE.write


def read_state(folder: Path) -> TrainingState:
    """Read `training_state.json`.

    Raises:
        InputError: if it is missing or damaged.
    """
    state = _STATE.read(folder)
    if state is None:
        raise InputError(f"{folder / STATE} is missing; choose another checkpoint")
    return state


def optimizer_state(
    model: nn.Module, optimizer: Optimizer, copy: bool, main: bool = True
) -> tuple[Tensors, dict[str, Any]]:
    """Return the optimizer's state of each weight under `WEIGHT/KEY`: tensors on the CPU, and numbers.

    Every process calls it, for shards are gathered.

    Args:
        model: without its wrappers.
        optimizer: of its weights.
        copy: copy the tensors, so that training can continue before they are written.
        main: whether this process needs them; on others the tensors are empty.

    Raises:
        InputError: see `check_optimizer_state`.
    """
    check_optimizer_state(optimizer)
    tensors: Tensors = {}
    numbers: dict[str, Any] = {}
    for name, weight in named_weights(model).items():
        for key, value in optimizer.state.get(weight, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = on_host(value, main, copy)
            else:
                numbers[f"{name}/{key}"] = value
    return tensors, numbers


def check_optimizer_state(optimizer: Optimizer) -> None:
    """Check that a checkpoint can hold the optimizer's state.

    Args:
        optimizer: after its first step.

    Raises:
        InputError: if it keeps anything but tensors and numbers.
    """
    for key, value in (pair for state in optimizer.state.values() for pair in state.items()):
        plain = type(value) in (Tensor, nn.Parameter, DTensor) or isinstance(value, bool | int | float | None)
        if not plain:
            problem = f"its state {key!r} ({type(value).__name__}) cannot be saved in a checkpoint"
            raise InputError(f"training.trainer.optim: {problem}; choose another optimizer")


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the JSON-serializable settings of each parameter group."""
    kinds = (bool, int, float, str, list, tuple, type(None))
    return [
        {name: value for name, value in group.items() if name != "params" and isinstance(value, kinds)}
        for group in optimizer.param_groups
    ]


def load_optimizer(model: nn.Module, optimizer: Optimizer, folder: Path, state: TrainingState) -> None:
    """Restore what `optimizer_state` and `group_settings` saved; of sharded weights each process takes its shard.

    Args:
        model: without its wrappers.
        optimizer: of its weights.
        folder: the checkpoint.
        state: its `training_state.json`.

    Raises:
        InputError: if the checkpoint has state of weights that are not trained now.
    """
    weights = named_weights(model)
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = {weight: number for number, weight in enumerate(trained)}  # as `Optimizer.state_dict` counts them
    restored: dict[int, dict[str, Any]] = {}

    def restore(entry: str, value: Any) -> None:
        name, _, key = entry.rpartition("/")
        weight = weights.get(name)
        if weight is None or weight not in numbers:
            raise InputError(f"{folder}: it holds the optimizer state of {name}, which is not trained now")
        shard = _shard(value, weight) if isinstance(value, Tensor) else value
        restored.setdefault(numbers[weight], {})[key] = shard

    with safe_open(folder / OPTIMIZER, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            restore(key, file.get_tensor(key))
    for key, value in state.numbers.items():
        restore(key, value)
    groups = optimizer.state_dict()["param_groups"]
    for group, settings in zip(groups, state.groups, strict=True):
        pairs = {name for name, value in group.items() if isinstance(value, tuple)}
        group |= {name: tuple(value) if name in pairs else value for name, value in settings.items()}
    optimizer.load_state_dict({"state": restored, "param_groups": groups})


def load_schedule(scheduler: LambdaLR, optimizer: Optimizer, steps: int) -> None:
    """Set a schedule to its state after so many steps; its total number of steps may have changed since."""
    rates = [base * factor(steps) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    unchanged = [None] * len(rates)
    scheduler.load_state_dict({"last_epoch": steps, "_last_lr": rates, "lr_lambdas": unchanged})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights of a checkpoint into the policy; its critic is left alone.

    A full model is loaded by transformers, because weights may have other names on disk (mixtures of experts).

    Args:
        model: without its wrappers; of sharded weights each process takes its shard.
        folder: with safetensors files; others are ignored.

    Raises:
        InputError: if its weights do not match the model's.
    """
    if isinstance(model, PeftModel):
        active = str(model.active_adapter)
        names = get_peft_model_state_dict(model, model.state_dict(keep_vars=True), active)
        adapter_folder = folder if active == "default" else folder / active  # as peft saves them
        with safe_open(adapter_folder / "adapter_model.safetensors", "pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        odd = names.keys() ^ stored.keys()
    else:
        kind: Any = next(each for each in type(model).__mro__ if not issubclass(each, FSDPModule))
        widest = max((weight.dtype for weight in model.parameters()), key=lambda dtype: dtype.itemsize)
        options = {"dtype": widest, "use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        loaded, report = kind.from_pretrained(folder, **options)
        stored, odd = dict(loaded.named_parameters()), report["missing_keys"]
        names = {name: weight for name, weight in named_weights(model).items() if name in stored}
    if odd:
        raise InputError(f"{folder}: its weights do not match this model, see {min(odd)}; choose another checkpoint")
    for name, weight in names.items():
        weight.copy_(_shard(stored[name], weight))


def run_write(work: Callable[[], None], background: bool) -> Future[None]:
    """Run `work` now, or in a thread; the future holds its exception."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    if background:
        Thread(target=run, name="checkpoint").start()
    else:
        run()
    return future


def _shard(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's shard if `like` is sharded and of the same shape, else a copy of the whole.

    All processes have read the whole tensor; the first one distributes the shards.
    """
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements).clone()
    return value.clone()


def _hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
