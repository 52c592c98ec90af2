"""What the trainer asks of a method. Everything else is the engine's.

A method is one file: its settings (the fields of a class, each with its docstring) and its hooks. It sees B prompts
with G samples each, a reference and perhaps a rejected answer, and gives every answer a weight. Where the update is a
weighted likelihood that is all; otherwise `loss` turns the log-probabilities of the answers' tokens into a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar, dataclass_transform

from grao.lazy import core, torch
from grao.methods.stage import Stage
from grao.settings import settings
from grao.types import PerAnswer, Role

if TYPE_CHECKING:
    from torch import Tensor

    from grao.core import Advantages

State = dict[str, float]
"""What a method carries from step to step; saved in every checkpoint."""

_M = TypeVar("_M", bound="Method")

METHODS: dict[str, type[Method]] = {}
"""Every method by the name it has in a recipe."""


@dataclass_transform(frozen_default=True)
def method(cls: type[_M]) -> type[_M]:
    """Makes a method of a class with settings: its values are checked, and a recipe finds it by its `name`."""
    checked: Any = settings(cls)
    METHODS[checked.name] = checked
    return checked  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Needs:
    """What a method has to be given."""

    samples: bool = True
    """Samples with rewards; without them nothing is sampled in training."""
    references: bool = True
    """References that the update takes in, so that they must be what the model could say."""
    rejected: bool = False
    """A rejected answer to every prompt."""
    old: bool = False
    """Log-probabilities as they were before the first update on these answers."""
    frozen: bool = False
    """Log-probabilities under the model as it was before training."""
    critic: bool = False
    """A value of every token's state, from a head on the policy's last hidden state."""
    whole_groups: bool = False
    """All answers to a prompt in one micro-batch."""
    updates: int = 1
    """Optimiser steps on one batch of samples."""
    resample: int = 0
    """How often further prompts may take the places of those whose group has no weight."""


@dataclass(frozen=True)
class StepGroups:
    """The B groups of one step on this process, before any weight; with `Needs.resample` all that were drawn."""

    rewards: Tensor
    """R(o, y), (B, G) float64, NaN = missing, relative to a reference of reward 0. Without samples G is 0."""
    lengths: PerAnswer
    """Tokens of each answer; 0 where there is no rejected one."""
    mean_reference: float
    """Tokens of a reference, averaged over all prompts of the step on all processes."""
    step: int
    """From 0."""
    mean_samples: float
    """Tokens of a prompt's G samples together, averaged as the references; of the groups that fill the step."""
    limit: int
    """Most tokens of a sample, `rollout.max_new_tokens`."""


@dataclass(frozen=True)
class Weighted:
    """What each answer of B groups counts."""

    weights: PerAnswer
    """What J(answer), or the answer's `loss`, is multiplied with; finite, 0 = need not be forwarded."""
    advantages: Advantages = field(default_factory=lambda: core.Advantages(torch.zeros(0, 0), torch.zeros(0)))
    """Where the weights came from, for the log; empty if from elsewhere."""
    signals: PerAnswer | None = None
    """What the method's own `loss` is told of each answer; None where it needs nothing."""


@dataclass(frozen=True)
class Before:
    """N tokens as they were before the first update on them: constants. None where no method needs it."""

    old: Tensor | None = None
    """(N,), log-probability under the policy that is about to be updated."""
    frozen: Tensor | None = None
    """(N,), log-probability under the model before training."""
    values: Tensor | None = None
    """(N,), the critic's value of the state before the token."""
    advantages: Tensor | None = None
    """(N,), advantage of each token, where a method has one for each."""
    returns: Tensor | None = None
    """(N,), what the critic is to learn."""

    def select(self, lengths: Sequence[int], rows: Sequence[int]) -> Before:
        """The tokens of the answers `rows`, in this order; `lengths` are the tokens of all answers."""
        parts = {name: values.split(list(lengths)) for name, values in vars(self).items() if values is not None}
        return Before(**{name: torch.cat([of_answers[row] for row in rows]) for name, of_answers in parts.items()})


@dataclass(frozen=True)
class TokenView:
    """N tokens of the S answers of a micro-batch, one answer behind the other, as a method's loss sees them."""

    logps: Tensor
    """(N,), log pi(x_t | q, x_<t), with gradient."""
    entropies: Tensor
    """(N,), of the distribution each token was drawn from, in nats. Without gradient."""
    values: Tensor | None
    """(N,), the critic's, with gradient."""
    before: Before
    """Of the same tokens."""
    signals: Tensor
    """(S,), `Weighted.signals` of each answer."""
    roles: Tensor
    """(S,), a `Role` each."""
    groups: Tensor
    """(S,), the number of each answer's group."""
    lengths: Tensor
    """(S,), tokens of each answer."""

    @property
    def old(self) -> Tensor:
        """(N,), log-probability before the first update; while that is being made, the present one as a constant."""
        return self.logps.detach() if self.before.old is None else self.before.old

    @property
    def frozen(self) -> Tensor:
        """(N,), log-probability under the model before training."""
        return known(self.before.frozen)

    @property
    def log_ratio(self) -> Tensor:
        """(N,), log of the probability now over that before the first update, with gradient."""
        return self.logps - self.old

    def total(self, values: Tensor) -> Tensor:
        """(N,) -> (S,), sum over each answer's tokens."""
        owners = self.spread(torch.arange(len(self.lengths), device=self.lengths.device))
        return values.new_zeros(len(self.lengths)).index_add(0, owners, values)

    def mean(self, values: Tensor) -> Tensor:
        """(N,) -> (S,), mean over each answer's tokens."""
        return self.total(values) / self.lengths

    def spread(self, values: Tensor) -> Tensor:
        """(S,) -> (N,), each answer's value for each of its tokens."""
        return values.repeat_interleave(self.lengths, output_size=len(self.logps))

    def only(self, role: Role) -> Tensor:
        """(N,) bool, tokens of answers with this role."""
        return self.spread(self.roles == role)


@dataclass(frozen=True)
class TokenLoss:
    """The losses of S answers."""

    loss: Tensor
    """(S,), with gradient; the mean over a step's prompts of weight times loss is minimised."""
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    """Worth logging, (S,) each, NaN where an answer has none."""


class Method:
    """An alignment method: the hooks, with what most methods do. Settings are the fields of the class below it."""

    name: str = ""
    """In a recipe and in messages."""

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        return Needs()

    @property
    def weighted_likelihood(self) -> bool:
        """Whether the update is a weighted likelihood: the method has no loss of its own."""
        return type(self).loss is Method.loss

    def stages(self) -> list[Stage]:
        """What is learned one after another; most methods are their own only stage."""
        return [Stage(self)]

    def weigh(self, groups: StepGroups) -> Weighted:
        """Rewards and lengths to what each answer counts."""
        raise TypeError(f"{type(self).__name__} has no weigh(groups)")

    def loss(self, tokens: TokenView) -> TokenLoss:
        """The loss of each answer. This default, -J, makes a weighted likelihood; only importance weights call it."""
        return TokenLoss(-tokens.mean(tokens.logps))

    def credit(self, before: Before, signals: Tensor, lengths: Sequence[int]) -> Before:
        """Adds an advantage of every token to what was seen before the update, where a method has one for each.

        Args:
            before: the N tokens of the S answers.
            signals: (S,), `Weighted.signals`.
            lengths: S, tokens of each answer.
        """
        return before

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Numbers worth logging, (B,) each, NaN where a group has none.

        Args:
            weighted: what `weigh` gave.
            loglik: J of each answer, nats per token; 0 where nothing was forwarded.
        """
        return {}

    def start(self) -> State:
        """The state before the first step."""
        return {}

    def at(self, state: State) -> Self:
        """The method in this state."""
        return self

    def adapt(
        self,
        state: State,
        before: Before,
        lengths: Sequence[int],
        total: Callable[[Tensor], list[float]],
        logged: Mapping[str, float],
    ) -> tuple[State, dict[str, float]]:
        """The state for the next step, and what there is to log of the change.

        Args:
            state: of this step.
            before: the N tokens of the S answers as they were before the update.
            lengths: S, tokens of each answer.
            total: adds a tensor up over all processes.
            logged: what is logged of the step, over all processes: the method's own numbers among it.
        """
        return state, {}


def known(value: Tensor | None) -> Tensor:
    """The value, of a method that asked for it in its `needs`."""
    if value is None:
        raise ValueError("a method uses what it does not ask for in its `needs`")
    return value


def scored_share(rewards: Tensor) -> Tensor:
    """(B, G), 1 / (scored samples of the group) where a sample is scored and its group has at least two, else 0."""
    scored = rewards.isfinite()
    count = scored.sum(dim=1, keepdim=True)
    return (scored & (count > 1)) / count.clamp(min=1).to(rewards.dtype)


def kl_estimate(logps: Tensor, frozen: Tensor) -> Tensor:
    """r - 1 - log r with r = pi_start / pi, per token: never negative, unbiased for samples of pi (k3 of Schulman)."""
    gap = frozen - logps
    return gap.exp() - 1 - gap


def group_numbers(advantages: Advantages) -> dict[str, Tensor]:
    """What most methods log of their groups, (B,) each: mean |A|, and which teach nothing or have too few rewards."""
    return {
        "advantage/abs": advantages.completions.abs().nanmean(dim=1),
        "groups/no_signal": advantages.no_signal.double(),
        "groups/dropped": advantages.dropped.double(),
    }


def method_name(section: Any) -> str | None:
    """Which method a section of a recipe means; GRAO where it does not say."""
    name = str(section.get("name", "grao")) if isinstance(section, dict) else getattr(section, "name", None)
    return name if isinstance(name, str) else None
