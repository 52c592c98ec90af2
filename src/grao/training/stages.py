"""Takes a run from one stage to the next: what ends a stage, and what a stage has behind it.

A stage begins as a run of its own would with the weights the last one left, so a staged run equals several runs by
hand. These weights stand in `stages/1-sft` of the run's folder, a model like any other; a resumed run measures the KL
divergence from there. What is carried (`StageProgress`) is in every checkpoint.
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
from grao.rewards.mix import check_heard
from grao.rollouts.base import draw_key
from grao.training.experience import shuffled
from grao.types import Encoded, Role

if TYPE_CHECKING:
    from grao.training.trainer import GRAOTrainer


@dataclass(frozen=True)
class Spent:
    """The work of a training over all processes, in steps and tokens; a prompt counts once a group."""

    steps: int = 0
    """Of the optimiser."""
    sampled: int = 0
    """Drawn, one after another."""
    forwarded: int = 0
    """That went through the model without a gradient: prompts before their samples, frozen and old policies."""
    backwarded: int = 0
    """That went through it forward and backward."""

    @property
    def tokens(self) -> int:
        """Sampled and trained on."""
        return self.sampled + self.backwarded

    def __add__(self, other: "Spent") -> "Spent":
        """Both together."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Spent(*(mine + theirs for mine, theirs in pairs))


@dataclass(frozen=True)
class StageLook:
    """What a look at the policy showed."""

    step: int
    """Of the stage."""
    score: float
    """Share of the answers that are no worse than the reference."""
    reach: float
    """Share of the prompts with an answer that beats it."""


@dataclass(frozen=True)
class StageProgress:
    """How far a run is in its stages."""

    stage: int = 0
    """Number of the stage, from 0."""
    first: int = 0
    """Steps of the run before it."""
    over: bool = False
    """Whether it has ended; the next step hands over."""
    looks: list[StageLook] = field(default_factory=list)
    """In this stage."""
    before: Spent = field(default_factory=Spent)
    """Before this stage."""
    spent: Spent = field(default_factory=Spent)
    """Since the run began."""


class Conductor(TrainerCallback):
    """Ends stages, and says where the next one begins.

    Args:
        trainer: the policy that is trained; asked to sample, to judge and to save.
        plan: the stages.
        most: optimiser steps of each, at most.
        kept: the prompts that are kept away for looks.
    """

    def __init__(
        self, trainer: "GRAOTrainer", plan: Sequence[Stage], most: Sequence[int], kept: Sequence[Encoded]
    ) -> None:
        self._trainer: GRAOTrainer = proxy(trainer)  # which holds this, and is to go as soon as nobody else wants it
        self.plan, self.most, self.kept = plan, most, kept
        self.reached = StageProgress()
        self.share: Callable[[], float] = self._share
        """Of the whole run's work, what is done."""
        self.ends: list[int] = []
        """Steps of the run at which a stage handed over, since this process began."""

    @property
    def now(self) -> Stage:
        """The stage under way."""
        return self.plan[self.reached.stage]

    @property
    def folder(self) -> Path:
        """Where the weights lie that this stage hands over."""
        return self._folder(self.reached.stage)

    @property
    def start_folder(self) -> Path | None:
        """Where the weights lie that this stage began with; None: where the run did."""
        return self._folder(self.reached.stage - 1) if self.reached.stage else None

    def step(self, step: int) -> int:
        """Of a step of the run, its number in the stage; both from 0."""
        return step - self.reached.first

    def steps(self, reached: StageProgress) -> int:
        """Of the whole run, at most, once it is so far."""
        return reached.first + sum(self.most[reached.stage :])

    def spend(self, spent: Spent) -> None:
        """Counts work that is done."""
        self.reached = replace(self.reached, spent=self.reached.spent + spent)

    def advance(self, steps: int) -> None:
        """Makes the next stage the one under way.

        Args:
            steps: of the run so far.
        """
        self.reached = StageProgress(self.reached.stage + 1, steps, before=self.reached.spent, spent=self.reached.spent)
        self._trainer.state.max_steps = self.steps(self.reached)
        self.ends.append(steps)
        folder = Path(self._trainer.folder)
        if self._trainer.is_world_process_zero() and (folder / "manifest.json").exists():
            update_manifest(folder, steps=self._trainer.state.max_steps)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Looks at the policy that the training begins with, where a stage will be compared with it."""
        self.reached = self.reached if state.global_step else StageProgress()
        state.max_steps = self.steps(self.reached)
        peak = self.now.until and self.now.until.peak
        if peak and not self.reached.looks:
            self._look(peak, 0)
            self.reached = replace(self.reached, over=peak_passed(self.reached.looks, peak))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the stage if it is time to."""
        until, steps, reached = self.now.until, self.step(state.global_step), self.reached
        if until is None or reached.over:
            return
        tokens = reached.spent.tokens - reached.before.tokens
        ended = steps >= self.most[reached.stage] or (until.tokens is not None and tokens >= until.tokens)
        ended |= until.share is not None and self.share() >= until.share
        if until.peak and (ended or steps % until.peak.every == 0):
            self._look(until.peak, steps)
        if not ended and not (until.peak and peak_passed(self.reached.looks, until.peak)):
            return
        last = self.reached.stage == len(self.plan) - 1
        self.reached = replace(self.reached, over=not last)
        if until.peak:
            self._trainer.load_stage_weights(self.folder)
        if last:
            state.max_steps, control.should_training_stop = state.global_step, True
        else:
            control.should_evaluate = self._trainer.eval_items is not None

    def _look(self, peak: Peak, steps: int) -> None:
        """Judges answers to the prompts kept away, and keeps the weights if they are the best so far."""
        trainer, sampling = self._trainer, replace(self._trainer.source.sampling, samples=peak.samples)
        keys = [draw_key(trainer.config.seed, "look", index) for index in range(len(self.kept))]
        groups = sample_groups(self.kept, keys, trainer.sampler(), sampling, trainer.tokenizer)
        scored = reward_groups(groups, trainer.source.rewards)
        known = scored.total.isfinite().sum().item()
        score = (scored.total >= 0).sum().item() / known if known else 0.0
        reach = (scored.total > 0).any(dim=1).double().mean().item()
        # Every process has judged them; what the first one heard counts, or some would go on and others not.
        look, known = broadcast_object_list([StageLook(steps, score, reach), known])
        if not known:
            check_heard([scored])
        earlier = [look.score for look in self.reached.looks]
        self.reached = replace(self.reached, looks=[*self.reached.looks, look])
        sampled = sum(sum(group.tokens(Role.SAMPLE)) for group in groups)
        self.spend(Spent(sampled=sampled, forwarded=sum(len(item.prompt_ids) for item in self.kept)))
        if not earlier or look.score > max(earlier):
            trainer.save_policy(self.folder, final=False)
        trainer.note({"look/score": look.score, "look/best": max([look.score, *earlier])})

    def _share(self) -> float:
        """As far as it is known: a step that samples is taken to be as long as references make it."""
        source, done = self._trainer.source, self.reached.spent.tokens
        answer = sum(len(item.reference_ids) for item in source.items) / len(source.items)
        ahead = zip(self.plan[self.reached.stage + 1 :], self.most[self.reached.stage + 1 :], strict=True)
        answers = (steps * (2 * source.sampling.samples if stage.method.needs.samples else 1) for stage, steps in ahead)
        return done / (done + source.prompts_per_step * answer * sum(answers) or 1)

    def _folder(self, stage: int) -> Path:
        return Path(self._trainer.folder) / "stages" / f"{stage + 1}-{self.plan[stage].method.name}"


def peak_passed(looks: Sequence[StageLook], peak: Peak) -> bool:
    """Whether the last looks were no better than the best of those before them, or there is enough to explore from."""
    if peak.enough is not None and looks[-1].reach >= peak.enough:
        return True
    scores, patience = [look.score for look in looks], peak.patience
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


def split_look_prompts(
    items: Sequence[Encoded], plan: Sequence[Stage], seed: int
) -> tuple[list[Encoded], list[Encoded]]:
    """The prompts to train on, and those for the looks of the stages: at most a quarter of all.

    Raises:
        InputError: if there are looks and no prompt for them.
    """
    wanted = max((stage.until.peak.prompts for stage in plan if stage.until and stage.until.peak), default=0)
    count = min(wanted, len(items) // 4)
    if wanted and not count:
        raise InputError(f"stages: of {len(items)} training prompts none can be kept away for looks; give at least 4")
    chosen = set(shuffled(len(items), draw_key(seed, "kept"))[:count])
    return (
        [item for index, item in enumerate(items) if index not in chosen],
        [item for index, item in enumerate(items) if index in chosen],
    )
