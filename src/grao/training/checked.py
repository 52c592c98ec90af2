"""transformers' Trainer, with which no broken number is applied or saved.

A step whose loss or gradient is not finite is left out: weights, optimiser and schedule stay as they are. Several in a
row end the training, and weights that are not finite do so at once.
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
from grao.engine.sharded import leave_device, local, named_weights, whole
from grao.errors import BrokenNumbersError
from grao.training.saving import SavingTrainer
from grao.training.state import check_optimizer_state, load_schedule


class CheckedTrainer(SavingTrainer):
    """A Trainer whose numbers are checked.

    Attributes:
        max_bad_steps: as many steps in a row with a loss or gradient that is not finite end the training.
        step: that is under way or was the last, from 1.
        left_out: whether its loss or gradient is not finite.
    """

    max_bad_steps = 3
    step = 0
    step_skipped = False
    _schedule = 0
    """Steps of the learning-rate schedule before this one."""
    _bad_losses: tuple[bool, ...] = ()
    """One entry for each step left out since the last line of the log: True if its loss was the reason."""

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> TrainOutput:
        """See `SavingTrainer.train`.

        Raises:
            InputError: as there.
            BrokenNumbersError: saying what is broken, at which step, and which checkpoint is the last good one.
        """
        self._bad_losses, self._bad_steps = (), (0, 0)
        if self.is_fsdp_enabled:
            leave_device(cast(nn.Module, self.model))
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        except BrokenNumbersError as error:
            last = f"the last good checkpoint is {self._last_whole}" if self._last_whole else "there is no checkpoint"
            remedy = "if it comes again, begin anew with a lower training.learning_rate"
            said = f"step {self.step}: {error}; nothing of it is saved, {last}; {remedy}"
            raise BrokenNumbersError(said) from error

    def begin_step(self, step: int) -> None:
        """Every process calls it with the number of the step, from 1.

        Raises:
            OSError, InputError: if the last checkpoint could not be written meanwhile, or none could be.
        """
        self._settle(wait=False)
        if isinstance(self.model, FSDPModule):  # or experts that no token has chosen leave others waiting
            self.model.set_reduce_scatter_unused_params(True)
        if step == 2:  # the first of the optimiser is done
            check_optimizer_state(cast(Optimizer, self.optimizer))
        self.step, self.between_steps, self.step_skipped = step, True, False
        self._schedule = cast(LambdaLR, self.lr_scheduler).last_epoch

    def skip_step(self, what: str, model: nn.Module) -> None:
        """Makes nothing of the optimiser's step that comes.

        Every process calls it, if one has a reason.

        Args:
            what: is not finite, `loss` or `gradient`.
            model: as the trainer wrapped it.

        Raises:
            BrokenNumbersError: if the weights are not finite either, or `max_bad_steps` in a row are left out now.
        """
        why, (row, last) = f"the {what} is not finite", self._bad_steps
        if name := self._broken():
            raise BrokenNumbersError(f"{why}, nor is {name}")
        row = row + 1 if last == self.step - 1 else 1
        self.step_skipped, self._bad_steps, self._bad_losses = (
            True,
            (row, self.step),
            (*self._bad_losses, what == "loss"),
        )
        if row >= self.max_bad_steps:
            raise BrokenNumbersError(f"{why}, {row} steps in a row" if row > 1 else why)
        if self.is_world_process_zero():
            warnings.warn(f"step {self.step}: {why}; it is left out", stacklevel=3)
        if self.accelerator.scaler is None:
            return model.zero_grad()
        for weight in model.parameters():  # so that the scaler makes no step of them
            if weight.grad is not None:
                weight.grad.fill_(math.nan)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training line how many steps since the last one were left out, `bad_steps`, and takes away the mean
        of what is not finite."""
        if "learning_rate" in logs and self._bad_losses:
            broken = {"loss": any(self._bad_losses), "grad_norm": not math.isfinite(logs.get("grad_norm", 0.0))}
            logs = {name: value for name, value in logs.items() if not broken.get(name)}
            logs, self._bad_losses = logs | {"bad_steps": len(self._bad_losses)}, ()
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """See `SavingTrainer.save_model`.

        Raises:
            BrokenNumbersError: if weights or optimiser are not finite, on all processes.
        """
        if name := self._broken():
            raise BrokenNumbersError(f"the numbers to save are not finite: {name}")
        super().save_model(output_dir, _internal_call)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """The norm of the gradient, the last thing before the optimiser's step, which a broken one must not reach.

        With float16 a scale makes gradients overflow now and then; then that step is skipped and the scale halved.
        """
        norm = cast(Any, super())._get_grad_norm(model, grad_norm=grad_norm)
        if isinstance(norm, Tensor):
            norm = float(whole(norm))
        norm = norm or 0.0  # before its first step DeepSpeed has none
        scaler = self.accelerator.scaler
        if not math.isfinite(norm) and not self.step_skipped and (scaler is None or scaler.get_scale() < 1):
            self.skip_step("gradient", model)
        return math.nan if self.step_skipped else norm

    def _maybe_log_save_evaluate(self, *arguments: Any, **named: Any) -> None:
        """As transformers' own; after a step that was left out the schedule is where it was before."""
        if self.step_skipped:
            load_schedule(cast(LambdaLR, self.lr_scheduler), cast(Optimizer, self.optimizer), self._schedule)
        super()._maybe_log_save_evaluate(*arguments, **named)

    def _broken(self) -> str | None:
        """The first of the weights, and of what the optimiser keeps of them, that is not finite on any process."""
        found = broken_tensor(self._tensors())
        return next(filter(None, gather_object([found])), None) if self.accelerator.num_processes > 1 else found

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Weights, and what the optimiser keeps of them; of what is split, the part of this process."""
        named: list[tuple[str, Any]] = [*named_weights(self._policy).items()]
        for kept in self.optimizer.state.values() if self.optimizer else ():
            named += ((f"the optimiser's {name}", value) for name, value in kept.items() if isinstance(value, Tensor))
        yield from ((name, local(value)) for name, value in named)
