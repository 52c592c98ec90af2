"""The part of the trainer that changes between stages: method, optimizer and schedule."""

from pathlib import Path
from typing import Any, cast

from torch.optim import Optimizer

from grao.errors import InputError
from grao.methods.base import Method, State
from grao.training.checked import CheckedTrainer
from grao.training.experience import ExperienceSource
from grao.training.learner import Learner
from grao.training.stages import Conductor
from grao.training.state import CARRIED, load_weights


class StagedTrainer(CheckedTrainer):
    """A Trainer whose method, optimizer and schedule are those of the current stage.

    Attributes:
        conductor: tracks the current stage.
        learner: computes gradients.
        source: provides samples and their weights.
        method: the method of the current stage.
    """

    conductor: Conductor
    learner: Learner
    source: ExperienceSource
    method: Method
    _method_state: State
    _initial_scale: dict[str, Any] | None = None
    """State of the fp16 gradient scaler before the first step; empty without a scaler."""

    def hand_over(self) -> None:
        """Begin the next stage, with the weights that this one leaves and a new optimizer."""
        until, old_optimizer = self.conductor.now.until, self.optimizer
        if not (until and until.peak):  # with looks, the best weights have been saved there
            self.save_policy(self.conductor.folder, final=False)
        self.conductor.advance(self.state.global_step)
        self.begin_stage()
        self.optimizer = self.lr_scheduler = None
        self.create_optimizer()
        self.accelerator._optimizers.remove(old_optimizer)
        self.optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        self.create_scheduler(self.state.max_steps)
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler
        self._bad_steps = (0, 0)
        if self._initial_scale:
            self.accelerator.scaler.load_state_dict(self._initial_scale)

    def load_stage_weights(self, folder: Path) -> None:
        """Load the weights that a stage handed over into the policy.

        Args:
            folder: of the stage.

        Raises:
            InputError: if it is missing.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is missing, but the run resumes from it; restore it, or start a new run")
        load_weights(self._policy, folder)

    def begin_stage(self) -> None:
        """Switch to the method of the current stage."""
        self.method = self.conductor.now.method
        self._method_state = self.method.start()
        self.learner.begin(self.method)
        self.source.sampled, self.source.steps = {}, self.conductor.most[self.conductor.reached.stage]

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Create the schedule of the current stage, with its learning rate."""
        stage, chosen = self.conductor.now, cast(Optimizer, optimizer or self.optimizer)
        for group in chosen.param_groups if stage.learning_rate else ():
            group["lr"] = group["lr"] * stage.learning_rate / self.args.learning_rate
        return super().create_scheduler(self.conductor.most[self.conductor.reached.stage], chosen)

    def _checked(self, wanted: str | bool | None) -> str | None:
        """Also restore the checkpoint's stage, before optimizer and schedule are created."""
        checkpoint = super()._checked(wanted)
        if self._initial_scale is None:
            self._initial_scale = self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}
        carried = CARRIED.read(Path(checkpoint)) if checkpoint else None
        if carried and carried.reached.stage < self.conductor.reached.stage:
            raise InputError(f"{checkpoint} is of an earlier stage than this trainer has reached; create a new trainer")
        if carried:
            self.conductor.reached = carried.reached
            self.args.max_steps = carried.reached.ended or self.args.max_steps
        return checkpoint

    def _load_best_model(self) -> None:
        reached = self.conductor.reached
        super()._load_best_model()
        self.conductor.reached = reached
