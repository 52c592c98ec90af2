"""transformers' Trainer, with which nothing broken is applied, saved or resumed from, and one run writes into a folder.

A loss, gradient or weight that is not finite ends the training before it is applied or saved. Checkpoints are whole or
not there, and are looked at before a run goes on from them (`grao.records.checkpoints`).
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from grao.engine.loading import broken_tensor
from grao.errors import BrokenNumbersError, InputError
from grao.records.checkpoints import DRAFT, fault, last_whole, publish, remove, rotate, seal
from grao.records.lock import locked


class CheckedTrainer(Trainer):
    """A Trainer whose numbers and checkpoints are checked.

    Attributes:
        folder: of the run; no other process may write into it during `train`.
        step: that is under way or was the last, from 1.
        between_steps: whether the weights are as a complete step left them.
    """

    folder: Path
    step = 0
    between_steps = True
    _draft: Path | None = None
    _last_whole: Path | None = None
    """The newest checkpoint that this run wrote or went on from."""
    _looked_at: Path | None = None
    """What `last_checkpoint` gave and is known to be whole."""

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> TrainOutput:
        """As transformers' own, but no other process may write into the folder meanwhile, and numbers that are not
        finite end it before they are applied.

        Args:
            resume_from_checkpoint: the folder of a checkpoint, or True for the newest that is whole.
            trial, ignore_keys_for_eval: as in transformers.

        Raises:
            InputError: if the folder is in use or holds another run, or a checkpoint is not as it was written.
            BrokenNumbersError: saying what is broken, at which step, and which checkpoint is the last good one.
        """
        with locked(self.folder):
            checkpoint = self._checked(resume_from_checkpoint)
            set_seed(self.args.seed)  # whatever was done before, such as an evaluation
            try:
                return super().train(checkpoint, trial, ignore_keys_for_eval)
            except BrokenNumbersError as error:
                last = (
                    f"the last good checkpoint is {self._last_whole}" if self._last_whole else "there is no checkpoint"
                )
                remedy = "if it comes again, begin anew with a lower training.learning_rate"
                raise BrokenNumbersError(
                    f"step {self.step}: {error}; nothing of it is saved, {last}; {remedy}"
                ) from error

    def last_checkpoint(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is whole, the same on all processes, and a line on each newer one, which is set
        aside. See `grao.records.checkpoints`."""
        found: list[Any] = [last_whole(Path(self.args.output_dir or ""))] if self.is_world_process_zero() else [None]
        self._looked_at, passed = broadcast_object_list(found)[0]
        return self._looked_at, passed

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As transformers' own.

        Raises:
            BrokenNumbersError: if weights or optimiser are not finite.
        """
        if name := broken_tensor(self._tensors()):
            raise BrokenNumbersError(f"the numbers to save are not finite: {name}")
        super().save_model(output_dir, _internal_call)

    def save_checkpoint(self) -> bool:
        """Saves what the last complete step left, unless that is done; False if the step after it has begun to move
        the weights."""
        done = self._last_whole is not None and self._last_whole.name == f"checkpoint-{self.state.global_step}"
        if self.between_steps and not done:
            self._save_checkpoint(self.model_wrapped)
        return self.between_steps or done

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """A checkpoint that is whole or not there: see `grao.records.checkpoints`."""
        folder, ours = Path(self._get_output_dir(trial)), self.args.should_save
        name = f"checkpoint-{self.state.global_step}"
        self._draft = folder / DRAFT
        try:
            if ours:
                remove(self._draft)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process has written its random state
            best = self.state.best_model_checkpoint == str(self._draft / name)
            if best:  # known to every process, for each loads it in the end
                self.state.best_model_checkpoint = str(folder / name)
            if ours and best:
                self.state.save_to_json(str(self._draft / name / "trainer_state.json"))
            if ours:
                self._publish(self._draft / name, folder / name)
        finally:
            if ours:
                remove(self._draft)
            self._draft = None
        self.accelerator.wait_for_everyone()
        self._last_whole = folder / name
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder / name))

    def _publish(self, draft: Path, checkpoint: Path) -> None:
        """Seals a draft and puts it in its place."""
        seal(draft)
        publish(draft, checkpoint)
        rotate(checkpoint, self.args.save_total_limit, [self.state.best_model_checkpoint])

    def _get_output_dir(self, trial: Any) -> str:
        """While a checkpoint is written, the folder of drafts."""
        return str(self._draft or super()._get_output_dir(trial))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._draft is None:  # it is uploaded in the background, once it is where it stays
            super()._push_from_checkpoint(checkpoint_folder)

    def _checked(self, wanted: str | bool | None) -> str | None:
        """The checkpoint to go on from.

        Raises:
            InputError: if it is not whole, or there is none.
        """
        known, self._looked_at, self._last_whole = self._looked_at, None, None
        if not wanted:
            return None
        if wanted is True:
            checkpoint, passed = self.last_checkpoint()
            for line in passed:
                warnings.warn(line, stacklevel=3)
            if checkpoint is None:
                raise InputError(f"{self.args.output_dir} holds no whole checkpoint; begin anew in another folder")
        else:
            checkpoint = Path(wanted)
            if checkpoint != known and (why := fault(checkpoint)):
                remedy = "resume_from_checkpoint=True takes the newest that is whole"
                raise InputError(f"{wanted} cannot be resumed from: {why}; {remedy}")
        self._last_whole = checkpoint
        return str(checkpoint)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Weights, and what the optimiser keeps of them."""
        yield from self.accelerator.unwrap_model(self.model).named_parameters()
        for kept in self.optimizer.state.values() if self.optimizer else ():
            yield from ((f"the optimiser's {name}", value) for name, value in kept.items() if isinstance(value, Tensor))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """The norm of the gradient, the last thing before the optimiser's step, which a broken one must not reach.

        With float16 a scale makes gradients overflow now and then; then that step is skipped and the scale halved.
        """
        norm = float(cast(Any, super())._get_grad_norm(model, grad_norm=grad_norm))
        scaler = self.accelerator.scaler
        if not math.isfinite(norm) and (scaler is None or scaler.get_scale() < 1):
            raise BrokenNumbersError("the gradient is not finite")
        return norm
