"""A Trainer that never applies or saves NaN or infinite values.

A step whose loss or gradient is not finite is skipped: weights, optimizer and schedule stay as they are. Several
skipped steps in a row end the training; weights that are not finite end it at once.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, cast

from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_utils import TrainOutput

from grao.engine.loading import broken_tensor
from grao.engine.sharded import full_value, local_shard, move_to_cpu, named_weights
from grao.errors import BrokenNumbersError
from grao.training.saving import SavingTrainer
from grao.training.state import check_optimizer_state, load_schedule


class CheckedTrainer(SavingTrainer):
    """A Trainer that checks losses, gradients and weights for NaN and infinity.

    Attributes:
        max_bad_steps: end the training after so many skipped steps in a row.
        step: number of the current step, from 1; between steps, of the last one.
        step_skipped: whether this step is skipped because its loss or gradient is not finite.
    """

    max_bad_steps = 3
    step = 0
    step_skipped = False
    _schedule = 0
    """Position of the learning-rate schedule before this step."""
    _bad_losses: tuple[bool, ...] = ()
    """One entry per step skipped since the last log line: whether its loss, not its gradient, was the reason."""

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> TrainOutput:
        """Train, see `SavingTrainer.train`.

        Args:
            resume_from_checkpoint: the folder of a checkpoint, or True for the newest complete one.
            trial: as in transformers.
            ignore_keys_for_eval: as in transformers.

        Raises:
            InputError: as in `SavingTrainer.train`.
            BrokenNumbersError: naming what is not finite, the step, and the last good checkpoint.
        """
        self._bad_losses, self._bad_steps = (), (0, 0)
        if self.is_fsdp_enabled:
            move_to_cpu(cast(nn.Module, self.model))
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        except BrokenNumbersError as error:
            last = f"the last good checkpoint is {self._last_whole}" if self._last_whole else "there is no checkpoint"
            remedy = "if it happens again, start a new run with a lower training.learning_rate"
            said = f"step {self.step}: {error}; this step is not saved, {last}; {remedy}"
            raise BrokenNumbersError(said) from error

    def begin_step(self, step: int) -> None:
        """Reset the state of the step. Every process calls it.

        Args:
            step: its number, from 1.

        Raises:
            OSError: on the main process, if the last checkpoint could not be written in the background.
            InputError: on the others in that case; on all if no checkpoint can hold the optimizer's state.
        """
        self._settle(wait=False)
        if isinstance(self.model, FSDPModule):  # else experts without tokens would block the other processes
            self.model.set_reduce_scatter_unused_params(True)
        if step == 2:  # after the first optimizer step there is state to check
            check_optimizer_state(cast(Optimizer, self.optimizer))
        self.step, self.between_steps, self.step_skipped = step, True, False
        self._schedule = cast(LambdaLR, self.lr_scheduler).last_epoch

    def skip_step(self, what: str, model: nn.Module) -> None:
        """Skip the coming optimizer step. If one process must skip, every process calls it.

        Args:
            what: what is not finite, `loss` or `gradient`.
            model: the policy as wrapped by the trainer.

        Raises:
            BrokenNumbersError: if the weights are not finite either, or `max_bad_steps` steps in a row are skipped.
        """
        why, (row, last) = f"the {what} is not finite", self._bad_steps
        if name := self._broken():
            raise BrokenNumbersError(f"{why}, nor is {name}")
        row = row + 1 if last == self.step - 1 else 1
        self.step_skipped, self._bad_steps = True, (row, self.step)
        self._bad_losses = (*self._bad_losses, what == "loss")
        if row >= self.max_bad_steps:
            raise BrokenNumbersError(f"{why}, {row} steps in a row" if row > 1 else why)
        if self.is_world_process_zero():
            warnings.warn(f"step {self.step}: {why}; the step is skipped", stacklevel=3)
        if self.accelerator.scaler is None:
            return model.zero_grad()
        for weight in model.parameters():  # so that the scaler skips the step
            if weight.grad is not None:
                weight.grad.fill_(math.nan)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add `bad_steps`, the number of steps skipped since the last line, and remove means that are not finite."""
        if "learning_rate" in logs and self._bad_losses:
            broken = {"loss": any(self._bad_losses), "grad_norm": not math.isfinite(logs.get("grad_norm", 0.0))}
            logs = {name: value for name, value in logs.items() if not broken.get(name)}
            logs, self._bad_losses = logs | {"bad_steps": len(self._bad_losses)}, ()
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, see `SavingTrainer.save_model`.

        Args:
            output_dir: as in transformers.
            _internal_call: as in transformers.

        Raises:
            BrokenNumbersError: on all processes, if weights or optimizer state are not finite.
        """
        if name := self._broken():
            raise BrokenNumbersError(f"the values to save are not finite: {name}")
        super().save_model(output_dir, _internal_call)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """Return the gradient norm, and skip the step if it is not finite; the last hook before the optimizer.

        In float16 the loss scale makes gradients overflow now and then; the scaler then skips the step by itself and
        halves the scale.
        """
        norm = cast(Any, super())._get_grad_norm(model, grad_norm=grad_norm)
        if isinstance(norm, Tensor):
            norm = float(full_value(norm))
        norm = norm or 0.0  # DeepSpeed has none before its first step
        scaler = self.accelerator.scaler
        if not math.isfinite(norm) and not self.step_skipped and (scaler is None or scaler.get_scale() < 1):
            self.skip_step("gradient", model)
        return math.nan if self.step_skipped else norm

    def _maybe_log_save_evaluate(self, *arguments: Any, **named: Any) -> None:
        """Undo the schedule's step after a skipped step, then do as transformers does."""
        if self.step_skipped:
            load_schedule(cast(LambdaLR, self.lr_scheduler), cast(Optimizer, self.optimizer), self._schedule)
        super()._maybe_log_save_evaluate(*arguments, **named)

    def _broken(self) -> str | None:
        """Return the name of a weight or optimizer tensor that is not finite on some process, else None."""
        name = broken_tensor(self._tensors())
        return next(filter(None, gather_object([name])), None) if self.accelerator.num_processes > 1 else name

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of weights and optimizer state; of sharded tensors, this process's shard."""
        named: list[tuple[str, Any]] = [*named_weights(self._policy).items()]
        for state in self.optimizer.state.values() if self.optimizer else ():
            named += ((f"the optimizer's {name}", value) for name, value in state.items() if isinstance(value, Tensor))
        yield from ((name, local_shard(value)) for name, value in named)
