"""A Trainer with atomic checkpoints that can be resumed on any number of processes.

`grao.records.checkpoints` describes how they are sealed and published, `grao.training.state` what they contain.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, cast

from accelerate.utils import broadcast_object_list, gather_object, set_seed
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from grao.engine.sharded import full_state, is_split
from grao.errors import InputError
from grao.records.checkpoints import DRAFT, OPTIMIZER, fault, last_whole, publish, remove, rotate, seal
from grao.records.lock import locked
from grao.training.state import (
    RandomState,
    TrainingState,
    group_settings,
    load_optimizer,
    load_schedule,
    load_weights,
    optimizer_state,
    read_state,
    run_write,
    write_state,
)


class SavingTrainer(Trainer):
    """A Trainer that writes, verifies and resumes from its own checkpoints.

    Attributes:
        folder: the folder of the run, locked during `train`.
        save_async: write checkpoints in the background while training continues.
        between_steps: whether the weights are those after a complete step.
    """

    folder: Path
    save_async = False
    between_steps = True
    _bad_steps = (0, 0)
    """(skipped steps in a row, number of the last of them)."""
    _draft: Path | None = None
    """The folder of drafts while a checkpoint is being written, else None."""
    _deferred: list[Callable[[], object]]
    """Writes that complete the draft."""
    _writing: Future[None] | None = None
    """On the main process, the pending write of the last checkpoint."""
    _unsettled: Path | None = None
    """A checkpoint that may not be published yet, the same on all processes."""
    _last_whole: Path | None = None
    """The newest checkpoint that this run wrote or resumed from."""
    _looked_at: Path | None = None
    """The result of `last_checkpoint`, known to be complete."""

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> TrainOutput:
        """Train with the run's folder locked; when this returns or raises, no checkpoint is half-written.

        Args:
            resume_from_checkpoint: the folder of a checkpoint, or True for the newest complete one.
            trial: as in transformers.
            ignore_keys_for_eval: as in transformers.

        Raises:
            InputError: if the folder is in use or holds another run, or a checkpoint is damaged.
        """
        if self.is_deepspeed_enabled and self.is_world_process_zero():
            instead = "use FSDP2 if you need them (recipes/accelerate/fsdp2.yaml)"
            warnings.warn(
                f"with DeepSpeed no checkpoints are written, so the run cannot be resumed; {instead}", stacklevel=3
            )
        with locked(self.folder):
            checkpoint = self._checked(resume_from_checkpoint)
            set_seed(self.args.seed)  # whatever has used random numbers, such as an evaluation
            try:
                output = super().train(checkpoint, trial, ignore_keys_for_eval)
                self._settle()
                return output
            except BaseException:  # no collectives here: the other processes may not have failed
                self.is_in_train = False  # transformers does not reset it
                pending, self._unsettled = self._unsettled, None
                if pending and self._writing and self._writing.exception() is None:
                    self._last_whole = pending
                raise

    def last_checkpoint(self) -> tuple[Path | None, list[str]]:
        """Find the newest complete checkpoint (`grao.records.checkpoints`); the result is the same on all processes.

        Returns:
            The checkpoint, None if there is none, and a message for each newer one, all of which are set aside.

        Raises:
            InputError: if it was written by an earlier version.
        """
        result: list[Any] = [None]
        if self.is_world_process_zero():
            try:
                result = [last_whole(Path(self.args.output_dir or ""))]
            except InputError as error:  # all processes raise it
                result = [error]
        (shared,) = broadcast_object_list(result)
        if isinstance(shared, InputError):
            raise shared
        self._looked_at, damaged = shared
        return self._looked_at, damaged

    def save_checkpoint(self) -> bool:
        """Save the last complete step unless it is saved; return False with DeepSpeed or if weights changed since."""
        if self.is_deepspeed_enabled:
            return False
        done = self._last_whole is not None and self._last_whole.name == f"checkpoint-{self.state.global_step}"
        if self.between_steps and not done:
            self._save_checkpoint(self.model_wrapped)
            self._settle()
        return self.between_steps or done

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model, even if it is sharded. With `save_async`, a checkpoint's weights are written later.

        Args:
            output_dir: as in transformers.
            _internal_call: as in transformers: do not push to the hub.
        """
        main, later = self.args.should_save, bool(self._draft and self.save_async)
        if not later and not any(map(is_split, self._policy.parameters())):
            super().save_model(output_dir, _internal_call)
            return
        weights = full_state(self._policy, main, copy=later)
        if main and later:
            Path(str(output_dir)).mkdir(parents=True)
            self._deferred.append(partial(self._save, output_dir, weights))
        elif main:
            self._save(output_dir, weights)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def save_policy(self, folder: Path, final: bool = True) -> None:
        """Write the current policy into a folder of its own, atomically. Every process calls it.

        Args:
            folder: replaced if it exists.
            final: whether this is the result of the run, which `push_to_hub` uploads.
        """
        draft = folder.with_name(f".{folder.name}.part")
        if self.args.should_save:
            remove(draft)
        self.accelerator.wait_for_everyone()  # the draft must be removed before any process writes
        self.save_model(str(draft), _internal_call=not final)
        if self.args.should_save:
            publish(draft, folder)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Write the small files, and leave the rest to `_publish`: in a thread with `save_async`, else at once.

        With DeepSpeed, whose optimizer state only DeepSpeed can read, nothing is written.
        """
        if self.is_deepspeed_enabled:
            return
        self._settle()
        folder, ours = Path(self._get_output_dir(trial)), self.args.should_save
        if known := self.state.best_model_checkpoint:  # the run may have been moved
            self.state.best_model_checkpoint = str(folder / Path(known).name)
        target = folder / f"checkpoint-{self.state.global_step}"
        self._draft, self._deferred = folder / DRAFT, []
        draft = self._draft / target.name
        try:
            if ours:
                remove(self._draft)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            best = self.state.best_model_checkpoint == str(draft)
            if best:  # on every process, for each loads it at the end
                self.state.best_model_checkpoint = str(target)
            if ours and best:
                self.state.save_to_json(str(draft / "trainer_state.json"))
        except BaseException:
            if ours:
                remove(self._draft)
            raise
        finally:
            self._draft = None
        if ours:
            protected = [self.state.best_model_checkpoint]
            self._writing = run_write(partial(self._publish, draft, target, self._deferred, protected), self.save_async)
        self._unsettled = target
        if not self.save_async:
            self._settle()

    def _publish(
        self, draft: Path, target: Path, deferred: list[Callable[[], object]], protected: list[str | None]
    ) -> None:
        """Complete a draft, seal it and move it into place."""
        try:
            for write in deferred:
                write()
            seal(draft)
            publish(draft, target)
            rotate(target, self.args.save_total_limit, protected)
        finally:
            remove(draft.parent)

    def _settle(self, wait: bool = True) -> None:
        """Record the last checkpoint as complete if it is published by now; with `wait`, wait for it.

        Every process calls it.

        Raises:
            OSError: on the main process, if it could not be written.
            SafetensorError: likewise.
            InputError: on the other processes.
        """
        if self._unsettled is None:
            return
        writing = self._writing
        busy = writing is not None and not wait and not writing.done()
        failure = writing.exception() if writing and not busy else None
        if self.accelerator.num_processes > 1:
            busy, failed = broadcast_object_list([busy, failure and str(failure)])
            failure = failure or (InputError(f"the checkpoint could not be written: {failed}") if failed else None)
        if busy:
            return
        checkpoint, self._unsettled, self._writing = self._unsettled, None, None
        if failure:
            raise failure
        self._last_whole = checkpoint
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        """Return the folder of drafts while a checkpoint is being written."""
        return str(self._draft or super()._get_output_dir(trial))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._draft is None:  # the upload starts once the checkpoint is published
            super()._push_from_checkpoint(checkpoint_folder)

    def _checked(self, wanted: str | bool | None) -> str | None:
        """Return the checkpoint to resume from, None for a new training.

        Raises:
            InputError: if it is damaged, or there is none.
        """
        verified, self._looked_at, self._last_whole = self._looked_at, None, None
        if not wanted:
            return None
        if wanted is True:
            checkpoint, damaged = self.last_checkpoint()
            for message in damaged:
                warnings.warn(message, stacklevel=3)
            if checkpoint is None:
                folder = self.args.output_dir
                raise InputError(f"{folder} holds no complete checkpoint; start a new run in another folder")
        else:
            checkpoint = Path(wanted)
            if checkpoint != verified and (why := fault(checkpoint)):
                remedy = "resume_from_checkpoint=True takes the newest complete one"
                raise InputError(f"{wanted} cannot be resumed from: {why}; {remedy}")
        self._last_whole = checkpoint
        return str(checkpoint)

    @property
    def _policy(self) -> nn.Module:
        """The policy without its wrappers."""
        return cast(nn.Module, self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save as transformers does, but not the training arguments, which would be a pickle."""
        super()._save(output_dir, state_dict)
        Path(output_dir or str(self.args.output_dir), "training_args.bin").unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save everything but the policy."""
        optimizer, schedule = cast(Optimizer, self.optimizer), cast(LambdaLR, self.lr_scheduler)
        scaler = self.accelerator.scaler
        tensors, numbers = optimizer_state(self._policy, optimizer, self.save_async, self.args.should_save)
        randoms = gather_object([RandomState.now(self.args.device)])
        if self.args.should_save:
            scale = {} if scaler is None else scaler.state_dict()
            groups = group_settings(optimizer)
            state = TrainingState(schedule.last_epoch, groups, numbers, scale, randoms, self._bad_steps)
            write_state(Path(output_dir), state)
            self._deferred.append(partial(save_file, tensors, Path(output_dir, OPTIMIZER)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state, optimizer = read_state(Path(checkpoint)), cast(Optimizer, self.optimizer)
        load_optimizer(self._policy, optimizer, Path(checkpoint), state)
        load_schedule(cast(LambdaLR, self.lr_scheduler), optimizer, state.schedule)
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self._bad_steps = state.bad_steps

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random state of the process with this index, modulo the number of processes that saved."""
        if checkpoint is not None:
            states = read_state(Path(checkpoint)).random
            states[self.args.process_index % len(states)].restore(self.args.device)

    def _save_scaler(self, output_dir: str) -> None:
        """Do nothing: it is saved with the optimizer."""

    def _save_rng_state(self, output_dir: str) -> None:
        """Do nothing: they are saved with the optimizer."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Do nothing: it is loaded with the optimizer."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self._policy, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._settle()
        best = Path(str(self.args.output_dir), Path(str(self.state.best_model_checkpoint)).name)
        self.state.best_model_checkpoint = str(best)
        self._load_from_checkpoint(str(best))
