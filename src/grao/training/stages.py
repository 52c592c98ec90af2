"""Decides when each stage of a run ends, and counts the work done.

A stage begins like a separate run from the weights that the previous one left, so a staged run equals several runs by
hand. These weights are saved as a model in the run's folder, such as `stages/1-sft`; a resumed run measures the KL
divergence from them. Every checkpoint holds the `StageProgress`.
"""

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import proxy

from accelerate.utils import broadcast_object_list
from pydantic.dataclasses import dataclass
from transformers import TrainerCallback, TrainerControl, TrainerState

from grao.errors import InputError
from grao.groups import reward_groups, sample_groups
from grao.methods.stage import Peak, Stage
from grao.records.run import update_manifest
from grao.rewards.mix import check_any_scored
from grao.rollouts.base import draw_key
from grao.training.experience import shuffled
from grao.types import Encoded, Role

if TYPE_CHECKING:
    from grao.training.trainer import GRAOTrainer


@dataclass(frozen=True)
class Spent:
    """Work done in a training, over all processes; a prompt counts once per group."""

    steps: int = 0
    """Optimizer steps."""
    sampled: int = 0
    """Tokens sampled."""
    forwarded: int = 0
    """Tokens passed without a gradient: prompts before sampling, and passes of old and frozen policies."""
    backwarded: int = 0
    """Tokens passed forward and backward."""

    @property
    def tokens(self) -> int:
        """Tokens sampled plus tokens trained on."""
        return self.sampled + self.backwarded

    def __add__(self, other: "Spent") -> "Spent":
        """Return the sum."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Spent(*(left + right for left, right in pairs))


@dataclass(frozen=True)
class StageLook:
    """Result of an evaluation on the look prompts, which are kept out of training."""

    step: int
    """Step of the stage."""
    score: float
    """Share of answers that are no worse than the reference."""
    reach: float
    """Share of prompts with an answer that beats the reference."""


@dataclass(frozen=True)
class StageProgress:
    """Position of a run in its stages."""

    stage: int = 0
    """Index of the stage."""
    first: int = 0
    """Steps of the run before this stage."""
    over: bool = False
    """Whether the stage has ended; the next step begins the next one."""
    ended: int = 0
    """Steps of the run when a condition other than a number of steps ended its last stage; 0 if none has."""
    looks: list[StageLook] = field(default_factory=list)
    """Looks in this stage."""
    before: Spent = field(default_factory=Spent)
    """Work before this stage."""
    spent: Spent = field(default_factory=Spent)
    """Work since the run began."""


class Conductor(TrainerCallback):
    """Decides when a stage ends, and tracks the progress of the run.

    Args:
        trainer: samples, scores and saves for the looks.
        plan: the stages.
        most: maximum optimizer steps of each stage.
        look_items: the look prompts, which are kept out of training.
    """

    def __init__(
        self, trainer: "GRAOTrainer", plan: Sequence[Stage], most: Sequence[int], look_items: Sequence[Encoded]
    ) -> None:
        self._trainer: GRAOTrainer = proxy(trainer)  # a reference would be a cycle, and keep the model in memory
        self.plan, self.most, self.look_items = plan, most, look_items
        self.reached = StageProgress()
        self.share: Callable[[], float] = self._share
        """Returns the share of the run's work that is done; a study replaces it."""
        self.ends: list[int] = []
        """Steps of the run at which stages ended, since this process started."""

    @property
    def now(self) -> Stage:
        """The current stage."""
        return self.plan[self.reached.stage]

    @property
    def folder(self) -> Path:
        """Folder of the weights that this stage hands over."""
        return self._folder(self.reached.stage)

    @property
    def start_folder(self) -> Path | None:
        """Folder of the weights that this stage began with; None in the first stage."""
        return self._folder(self.reached.stage - 1) if self.reached.stage else None

    def step(self, step: int) -> int:
        """Convert a step of the run to a step of the current stage; both from 0."""
        return step - self.reached.first

    def steps(self, reached: StageProgress) -> int:
        """Return the maximum steps of the whole run, given its progress."""
        return reached.ended or reached.first + sum(self.most[reached.stage :])

    def spend(self, spent: Spent) -> None:
        """Add work done."""
        self.reached = replace(self.reached, spent=self.reached.spent + spent)

    def advance(self, steps: int) -> None:
        """Make the next stage the current one.

        Args:
            steps: steps of the run so far.
        """
        self.reached = StageProgress(self.reached.stage + 1, steps, before=self.reached.spent, spent=self.reached.spent)
        self.ends.append(steps)
        self._set_steps()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the first look if the first stage has looks: the starting policy may be the best."""
        self.reached = self.reached if state.global_step else StageProgress()
        state.max_steps = self.steps(self.reached)
        peak = self.now.until and self.now.until.peak
        if peak and not self.reached.looks:
            self._look(peak, 0)
            self.reached = replace(self.reached, over=peak_passed(self.reached.looks, peak))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take a look if one is due, and end the stage if a condition of `until` holds."""
        until, steps, reached = self.now.until, self.step(state.global_step), self.reached
        if until is None or reached.over:
            return
        tokens = reached.spent.tokens - reached.before.tokens
        last_step = steps >= self.most[reached.stage]
        ended = last_step or (until.tokens is not None and tokens >= until.tokens)
        ended |= until.share is not None and self.share() >= until.share
        if until.peak and (ended or steps % until.peak.every == 0):
            self._look(until.peak, steps)
        if not ended and not (until.peak and peak_passed(self.reached.looks, until.peak)):
            return
        last = self.reached.stage == len(self.plan) - 1
        self.reached = replace(self.reached, over=not last, ended=state.global_step if last and not last_step else 0)
        if until.peak:
            self._trainer.load_stage_weights(self.folder)
        if last:
            self._set_steps()
            control.should_training_stop = True
        else:
            control.should_evaluate = self._trainer.eval_items is not None

    def _set_steps(self) -> None:
        """Set the maximum steps of the run as they are known now, in the trainer's state and in the manifest."""
        trainer, folder = self._trainer, Path(self._trainer.folder)
        trainer.state.max_steps = self.steps(self.reached)
        if trainer.is_world_process_zero() and (folder / "manifest.json").exists():
            update_manifest(folder, steps=trainer.state.max_steps)

    def _look(self, peak: Peak, steps: int) -> None:
        """Score answers to the look prompts, and save the weights if they are the best so far."""
        trainer, sampling = self._trainer, replace(self._trainer.source.sampling, samples=peak.samples)
        keys = [draw_key(trainer.config.seed, "look", index) for index in range(len(self.look_items))]
        groups = sample_groups(self.look_items, keys, trainer.sampler(), sampling, trainer.tokenizer)
        scored = reward_groups(groups, trainer.source.rewards)
        count = scored.total.isfinite().sum().item()
        score = (scored.total >= 0).sum().item() / count if count else 0.0
        reach = (scored.total > 0).any(dim=1).double().mean().item()
        # All processes have scored the answers; the first one's result counts, so that all take the same decision.
        look, count = broadcast_object_list([StageLook(steps, score, reach), count])
        if not count:
            check_any_scored([scored])
        earlier = [look.score for look in self.reached.looks]
        self.reached = replace(self.reached, looks=[*self.reached.looks, look])
        sampled = sum(sum(group.tokens(Role.SAMPLE)) for group in groups)
        self.spend(Spent(sampled=sampled, forwarded=sum(len(item.prompt_ids) for item in self.look_items)))
        if not earlier or look.score > max(earlier):
            trainer.save_policy(self.folder, final=False)
        trainer.note({"look/score": look.score, "look/best": max([look.score, *earlier])})

    def _share(self) -> float:
        """Estimate the share of the run's tokens done, taking samples to be as long as references on average."""
        source, done = self._trainer.source, self.reached.spent.tokens
        answer = sum(len(item.reference_ids) for item in source.items) / len(source.items)
        ahead = zip(self.plan[self.reached.stage + 1 :], self.most[self.reached.stage + 1 :], strict=True)
        answers = (steps * (2 * source.sampling.samples if stage.method.needs.samples else 1) for stage, steps in ahead)
        return done / (done + source.prompts_per_step * answer * sum(answers) or 1)

    def _folder(self, stage: int) -> Path:
        return Path(self._trainer.folder) / "stages" / f"{stage + 1}-{self.plan[stage].method.name}"


def peak_passed(looks: Sequence[StageLook], peak: Peak) -> bool:
    """Whether the last `patience` looks did not improve on the best before them, or the last reach is `enough`."""
    if peak.enough is not None and looks[-1].reach >= peak.enough:
        return True
    scores, patience = [look.score for look in looks], peak.patience
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


def split_look_prompts(
    items: Sequence[Encoded], plan: Sequence[Stage], seed: int
) -> tuple[list[Encoded], list[Encoded]]:
    """Split the training prompts into those to train on and those for looks.

    Args:
        items: all training prompts.
        plan: the stages; their looks say how many prompts they want.
        seed: of the random choice.

    Returns:
        Prompts to train on, and look prompts: at most a quarter of all, none if no stage has looks.

    Raises:
        InputError: if there are too few prompts for looks.
    """
    requested = max((stage.until.peak.prompts for stage in plan if stage.until and stage.until.peak), default=0)
    count = min(requested, len(items) // 4)
    if requested and not count:
        raise InputError(f"stages: {len(items)} training prompts are too few to keep some for looks; give at least 4")
    look_indices = set(shuffled(len(items), draw_key(seed, "kept"))[:count])
    return (
        [item for index, item in enumerate(items) if index not in look_indices],
        [item for index, item in enumerate(items) if index in look_indices],
    )
