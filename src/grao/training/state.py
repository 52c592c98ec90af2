"""What a checkpoint holds, nothing of which has to be unpickled.

model.safetensors      the policy as a plain model folder, or adapter_model.safetensors
optimizer.safetensors  what the optimiser keeps of each weight, under `NAME/WHAT`
training_state.json    its numbers, the schedule, the loss scale, the random states of all processes, steps left out
grao_state.json        what a method, the watch and the log carry from step to step
trainer_state.json     transformers' own: the step, the log

With a critic there is value_head.safetensors, with samples drawn ahead ahead.safetensors.

Tensors are whole, whatever they were split over, and the names are the policy's own: so one process, several (DDP) and
split weights (FSDP2) go on from each other's checkpoints.
Left out: torch.distributed.checkpoint. Its own files hold a pickle, and `get_optimizer_state_dict` makes a step of an
optimiser that has none behind it.
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
    """Of one process."""

    python: list[Any]
    numpy: list[Any]
    cpu: str
    """torch's, hexadecimal."""
    cuda: str | None = None

    @staticmethod
    def now(device: torch.device) -> "RandomState":
        """As it is."""
        version, internal, gauss = random.getstate()
        name, keys, *rest = np.random.get_state()
        cuda = _hex(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None
        numbers = [name, np.asarray(keys).tolist(), *rest]
        return RandomState([version, list(internal), gauss], numbers, _hex(torch.get_rng_state()), cuda)

    def restore(self, device: torch.device) -> None:
        """Makes it so again."""
        version, internal, gauss = self.python
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(self.numpy))
        torch.set_rng_state(_bytes(self.cpu))
        if self.cuda and device.type == "cuda":
            torch.cuda.set_rng_state(_bytes(self.cuda), device)


@dataclass(frozen=True)
class TrainingState:
    """`training_state.json`: what is no tensor."""

    schedule: int
    """Steps of the learning-rate schedule: those that were left out do not count."""
    groups: list[dict[str, Any]]
    """Settings of the optimiser's groups of weights."""
    numbers: dict[str, Any]
    """What the optimiser keeps of a weight and is no tensor, under `NAME/WHAT`."""
    scaler: dict[str, Any]
    """The loss scale of fp16; empty without."""
    random: list[RandomState]
    """Of each process."""
    bad_steps: tuple[int, int] = (0, 0)
    """How many steps in a row were left out, and the last of them."""


@dataclass(frozen=True)
class CarriedState:
    """`grao_state.json`: what is carried from step to step beside weights and optimiser."""

    method: State
    looks: list[Look]
    steps: list[dict[str, float]]
    token_budget: int | None = None
    """What memory that ran out left of it."""
    reached: StageProgress = field(default_factory=StageProgress)
    frozen_texts: list[str] = field(default_factory=list)
    """Of each process, `Observer.frozen_texts`."""


CARRIED = Record("grao_state.json", CarriedState)
_STATE = Record(STATE, TrainingState)
write_state = _STATE.write


def read_state(folder: Path) -> TrainingState:
    """What `write_state` left.

    Raises:
        InputError: if it cannot be read, or is not there.
    """
    state = _STATE.read(folder)
    if state is None:
        raise InputError(f"{folder / STATE} is missing; take another checkpoint")
    return state


def optimizer_state(
    model: nn.Module, optimizer: Optimizer, copy: bool, main: bool = True
) -> tuple[Tensors, dict[str, Any]]:
    """What an optimiser keeps of each weight: tensors on the CPU and numbers, under `NAME/WHAT`.

    Every process calls it, for parts are put together.

    Args:
        model: without what wraps it.
        optimizer: of its weights.
        copy: whether the tensors must stay as they are while training goes on.
        main: whether this process keeps them; on the others they are empty.

    Raises:
        InputError: as `check_optimizer_state`.
    """
    check_optimizer_state(optimizer)
    tensors: Tensors = {}
    numbers: dict[str, Any] = {}
    for name, weight in named_weights(model).items():
        for what, value in optimizer.state.get(weight, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{what}"] = on_host(value, main, copy)
            else:
                numbers[f"{name}/{what}"] = value
    return tensors, numbers


def check_optimizer_state(optimizer: Optimizer) -> None:
    """Raises: InputError if an optimiser keeps of a weight what is neither tensor nor number."""
    for what, value in (pair for kept in optimizer.state.values() for pair in kept.items()):
        plain = type(value) in (Tensor, nn.Parameter, DTensor) or isinstance(value, bool | int | float | None)
        if not plain:
            problem = f"it keeps {what!r} ({type(value).__name__}), which no checkpoint holds"
            raise InputError(f"training.trainer.optim: {problem}; choose another optimiser")


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Of each group of weights, as far as JSON can hold them."""
    kinds = (bool, int, float, str, list, tuple, type(None))
    return [
        {name: value for name, value in group.items() if name != "params" and isinstance(value, kinds)}
        for group in optimizer.param_groups
    ]


def load_optimizer(model: nn.Module, optimizer: Optimizer, folder: Path, state: TrainingState) -> None:
    """What `optimizer_state` and `group_settings` left in a checkpoint; of split weights each process takes its part.

    Raises:
        InputError: if the checkpoint is of weights that are not trained here.
    """
    weights = named_weights(model)
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = {weight: number for number, weight in enumerate(trained)}  # as `Optimizer.state_dict` counts them
    kept: dict[int, dict[str, Any]] = {}

    def keep(key: str, value: Any) -> None:
        name, _, what = key.rpartition("/")
        weight = weights.get(name)
        if weight is None or weight not in numbers:
            raise InputError(f"{folder}: it holds the optimiser's state of {name}, which is not trained here")
        kept.setdefault(numbers[weight], {})[what] = _split(value, weight) if isinstance(value, Tensor) else value

    with safe_open(folder / OPTIMIZER, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            keep(key, file.get_tensor(key))
    for key, value in state.numbers.items():
        keep(key, value)
    groups = optimizer.state_dict()["param_groups"]
    for group, settings in zip(groups, state.groups, strict=True):
        pairs = {name for name, value in group.items() if isinstance(value, tuple)}
        group |= {name: tuple(value) if name in pairs else value for name, value in settings.items()}
    optimizer.load_state_dict({"state": kept, "param_groups": groups})


def load_schedule(scheduler: LambdaLR, optimizer: Optimizer, steps: int) -> None:
    """Sets a schedule to where it is after so many steps. Its total may be another one than when they were made."""
    rates = [base * factor(steps) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    same = [None] * len(rates)
    scheduler.load_state_dict({"last_epoch": steps, "_last_lr": rates, "lr_lambdas": same})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Puts the weights of a checkpoint into the policy, whose critic keeps its own.

    A whole model is loaded as transformers does it, for its names on disk may be others (mixtures of experts).

    Args:
        model: without what wraps it; of split weights each process takes its part.
        folder: with safetensors; nothing else is read.

    Raises:
        InputError: if it holds other weights.
    """
    if isinstance(model, PeftModel):
        active = str(model.active_adapter)
        names = get_peft_model_state_dict(model, model.state_dict(keep_vars=True), active)
        place = folder if active == "default" else folder / active  # as peft saves them
        with safe_open(place / "adapter_model.safetensors", "pt") as file:
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
        raise InputError(f"{folder}: its weights are not those of this model, as {min(odd)} shows; take another one")
    for name, weight in names.items():
        weight.copy_(_split(stored[name], weight))


def run_write(work: Callable[[], None], background: bool) -> Future[None]:
    """Work that is done now, or in a thread; what it raises is in the future."""
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


def _split(value: Tensor, like: Tensor) -> Tensor:
    """The part of this process, if a weight of that shape is split; else a copy of the whole. The first process deals
    the parts out; all of them have read the whole."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements).clone()
    return value.clone()


def _hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
