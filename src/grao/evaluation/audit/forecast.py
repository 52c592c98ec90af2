"""What the whole run will take, from what a few groups took: hours on this machine, questions and money.

Left out: the optimiser's own step and loading, which are small beside the rest, checkpoints, and how the lengths of
the samples change while training goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grao.records.audit import Forecast, JudgeForecast


@dataclass(frozen=True)
class Timing:
    """Seconds that the groups of an audit took, all of them together."""

    groups: int
    rollout: float
    reward: float
    update: float | None
    """Forward and backward pass; None where nothing was to be learned."""
    known: float
    """Share of the judges' verdicts that were in the ledger."""


@dataclass(frozen=True)
class Plan:
    """The size of the whole run."""

    steps: int
    prompts_per_step: int
    samples: int
    """Per prompt, G."""
    held_out: int
    """Prompts answered before and after training; 0 without an evaluation."""

    @property
    def groups(self) -> int:
        """Groups of all steps."""
        return self.steps * self.prompts_per_step

    @property
    def sampled(self) -> int:
        """Samples of training and evaluation."""
        return self.groups * self.samples + 2 * self.held_out

    @property
    def comparisons(self) -> int:
        """Rewards of samples; the evaluation has three a prompt: twice against the reference, and after on before."""
        return self.groups * self.samples + 3 * self.held_out


def forecast(timing: Timing, plan: Plan, judges: Sequence[JudgeForecast]) -> Forecast:
    """Seconds per group, scaled to the run by samples (rollout), comparisons (reward) and groups (update)."""
    rollout, reward = timing.rollout / timing.groups, timing.reward / timing.groups
    update = None if timing.update is None else timing.update / timing.groups
    seconds = (rollout * plan.sampled + reward * plan.comparisons) / plan.samples + (update or 0.0) * plan.groups
    return Forecast(
        steps=plan.steps,
        prompts_per_step=plan.prompts_per_step,
        samples=plan.sampled,
        rollout=rollout,
        reward=reward,
        update=update,
        known=timing.known,
        hours=seconds / 3600,
        judges=list(judges),
    )
