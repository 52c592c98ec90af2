"""The interface between the trainer and an alignment method.

A method is one class in one file: its fields are its settings, each with a docstring, and its methods are hooks that
the trainer calls. `weigh` receives B prompts, each with G samples, a reference and possibly a rejected answer, and
returns one weight per answer. If the update is a weighted likelihood, that is all there is to write. Any other method
also defines `loss`, from the log-probabilities of the answers' tokens.
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
"""What a method carries from step to step. Saved in every checkpoint."""

_M = TypeVar("_M", bound="Method")

METHODS: dict[str, type[Method]] = {}
"""All methods by their name in a recipe."""


@dataclass_transform(frozen_default=True)
def method(cls: type[_M]) -> type[_M]:
    """Class decorator: validate the settings of a method and register it under its `name`, for recipes."""
    checked: Any = settings(cls)
    METHODS[checked.name] = checked
    return checked  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Needs:
    """What the trainer has to provide for a method."""

    samples: bool = True
    """Samples with rewards. If False, training samples nothing."""
    references: bool = True
    """The update trains on the references, so they must be texts that the model could generate."""
    rejected: bool = False
    """A rejected answer for every prompt."""
    old: bool = False
    """Log-probabilities from before the first update on the batch."""
    frozen: bool = False
    """Log-probabilities under the frozen initial policy."""
    critic: bool = False
    """A value for every token, from a value head on the policy's last hidden state."""
    whole_groups: bool = False
    """All answers to a prompt in the same micro-batch."""
    updates: int = 1
    """Optimiser steps per batch of samples."""
    resample: int = 0
    """How many times groups without weight may be replaced by groups of other prompts."""


@dataclass(frozen=True)
class StepGroups:
    """The B groups of one step on this process; with `Needs.resample`, all groups drawn so far."""

    rewards: Tensor
    """R(o, y), (B, G) float64, relative to the reference, whose reward is 0; NaN = missing. G is 0 without samples."""
    lengths: PerAnswer
    """Tokens per answer; 0 where there is no rejected answer."""
    mean_reference: float
    """Mean tokens per reference, over all prompts of the step on all processes."""
    step: int
    """Counts from 0."""
    mean_samples: float
    """Mean number of sampled tokens per group, over the groups of all processes that fill the step."""
    limit: int
    """Maximum tokens of a sample, `rollout.max_new_tokens`."""


@dataclass(frozen=True)
class Weighted:
    """The weight of each answer of B groups."""

    weights: PerAnswer
    """Factor of J(answer), or of the answer's `loss`. Finite; an answer with weight 0 needs no forward pass."""
    advantages: Advantages = field(default_factory=lambda: core.Advantages(torch.zeros(0, 0), torch.zeros(0)))
    """Advantages that the weights were computed from, for logging; empty if there are none."""
    signals: PerAnswer | None = None
    """One number per answer for the method's own `loss`, such as its advantage. None if `loss` needs none."""


@dataclass(frozen=True)
class Before:
    """Values of N tokens from before the first update on their batch, without gradient; None where not needed."""

    old: Tensor | None = None
    """(N,), log-probability under the policy before the update."""
    frozen: Tensor | None = None
    """(N,), log-probability under the frozen initial policy."""
    values: Tensor | None = None
    """(N,), the critic's value of the state in which the token was chosen."""
    advantages: Tensor | None = None
    """(N,), token-level advantages, if the method has any."""
    returns: Tensor | None = None
    """(N,), regression targets of the critic."""

    def select(self, lengths: Sequence[int], rows: Sequence[int]) -> Before:
        """Restrict to the tokens of some answers.

        Args:
            lengths: tokens of each of the S answers, N in total.
            rows: indices of the answers to keep, in the order of the result.

        Returns:
            The tokens of these answers, one answer after another.
        """
        parts = {name: values.split(list(lengths)) for name, values in vars(self).items() if values is not None}
        return Before(**{name: torch.cat([answers[row] for row in rows]) for name, answers in parts.items()})


@dataclass(frozen=True)
class TokenView:
    """Input of a method's loss: the S answers of a micro-batch, concatenated to N tokens."""

    logps: Tensor
    """(N,), log pi(x_t | q, x_<t), with gradient."""
    entropies: Tensor
    """(N,), entropy of the policy at each token, in nats. Without gradient."""
    values: Tensor | None
    """(N,), the critic's values, with gradient. None without a critic."""
    before: Before
    """Values of the same tokens from before the first update on the batch."""
    signals: Tensor
    """(S,), `Weighted.signals` of each answer."""
    roles: Tensor
    """(S,), the `Role` of each answer."""
    groups: Tensor
    """(S,), index of each answer's group."""
    lengths: Tensor
    """(S,), tokens of each answer."""

    @property
    def old(self) -> Tensor:
        """(N,), log-probability before the first update; if `Needs.old` is false, the current one without gradient."""
        return self.logps.detach() if self.before.old is None else self.before.old

    @property
    def frozen(self) -> Tensor:
        """(N,), log-probability under the frozen initial policy."""
        return required(self.before.frozen)

    @property
    def log_ratio(self) -> Tensor:
        """(N,), log(pi / pi_old) of each token, with gradient."""
        return self.logps - self.old

    def total(self, values: Tensor) -> Tensor:
        """(N,) -> (S,), sum over each answer's tokens."""
        owners = self.per_token(torch.arange(len(self.lengths), device=self.lengths.device))
        return values.new_zeros(len(self.lengths)).index_add(0, owners, values)

    def mean(self, values: Tensor) -> Tensor:
        """(N,) -> (S,), mean over each answer's tokens."""
        return self.total(values) / self.lengths

    def per_token(self, values: Tensor) -> Tensor:
        """(S,) -> (N,), each answer's value repeated for its tokens."""
        return values.repeat_interleave(self.lengths, output_size=len(self.logps))

    def has_role(self, role: Role) -> Tensor:
        """(N,) bool, whether the token belongs to an answer with this role."""
        return self.per_token(self.roles == role)


@dataclass(frozen=True)
class TokenLoss:
    """The losses of S answers."""

    loss: Tensor
    """(S,), with gradient. Training minimises sum(weight * loss) / B, with B the prompts of the step."""
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    """Metrics to log, (S,) each; NaN where an answer has no value."""


class Method:
    """Base class of alignment methods: the hooks and their defaults. Settings are the fields of the subclasses."""

    name: str = ""
    """Name in recipes and messages."""

    @property
    def needs(self) -> Needs:
        """What the trainer has to provide."""
        return Needs()

    @property
    def weighted_likelihood(self) -> bool:
        """Whether the update is a weighted likelihood, that is, the method does not override `loss`."""
        return type(self).loss is Method.loss

    def stages(self) -> list[Stage]:
        """Return the stages of training: for most methods a single one, the method itself."""
        return [Stage(self)]

    def weigh(self, groups: StepGroups) -> Weighted:
        """Compute the weight of each answer.

        Args:
            groups: rewards and lengths of the step's groups.

        Returns:
            Weights, and what the method needs later for `loss` and `report`.

        Raises:
            TypeError: if the method does not define this hook; only a plan of `stages` may leave it out.
        """
        raise TypeError(f"{type(self).__name__} must define weigh(groups)")

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Compute the loss of each answer.

        The default is -J, which makes the update a weighted likelihood. The trainer then uses a faster path and
        calls this default only to apply importance weights.

        Args:
            tokens: the tokens of a micro-batch.

        Returns:
            Losses (S,), and metrics to log.
        """
        return TokenLoss(-tokens.mean(tokens.logps))

    def credit(self, before: Before, signals: Tensor, lengths: Sequence[int]) -> Before:
        """Add token-level advantages and returns, for methods that have them.

        Called once per batch of samples. The trainer then standardises the advantages over the tokens of the step.

        Args:
            before: values of the N tokens of S answers from before the update.
            signals: (S,), `Weighted.signals`.
            lengths: tokens of each of the S answers.

        Returns:
            `before` with `advantages` and `returns` filled in; by default `before` itself.
        """
        return before

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Compute metrics to log.

        Args:
            weighted: the result of `weigh`.
            loglik: J of each answer, nats per token; 0 for answers without a forward pass.

        Returns:
            Name -> values (B,), NaN where a group has no value.
        """
        return {}

    def start(self) -> State:
        """Return the initial state."""
        return {}

    def at(self, state: State) -> Self:
        """Return the method with its settings updated from the state."""
        return self

    def adapt(
        self,
        state: State,
        before: Before,
        lengths: Sequence[int],
        total: Callable[[Tensor], list[float]],
        logged: Mapping[str, float],
    ) -> tuple[State, dict[str, float]]:
        """Compute the state for the next step.

        Args:
            state: state of this step.
            before: values of the N tokens of S answers from before the update.
            lengths: tokens of each of the S answers.
            total: function that sums a tensor over all processes.
            logged: metrics of the step over all processes, including those of `loss` and `report`.

        Returns:
            The next state, and metrics to log.
        """
        return state, {}


def required(value: Tensor | None) -> Tensor:
    """Return a value that the method declared in its `needs`.

    Raises:
        ValueError: if the method did not declare it.
    """
    if value is None:
        raise ValueError("the method uses a value that its `needs` do not declare")
    return value


def scored_share(rewards: Tensor) -> Tensor:
    """Return (B, G) shares: 1 / (scored samples of the group) for scored samples if there are at least two, else 0."""
    scored = rewards.isfinite()
    count = scored.sum(dim=1, keepdim=True)
    return (scored & (count > 1)) / count.clamp(min=1).to(rewards.dtype)


def kl_estimate(logps: Tensor, frozen: Tensor) -> Tensor:
    """Return the per-token estimate of KL(pi || pi_init): r - 1 - log r with r = pi_init / pi (Schulman's k3).

    It is never negative, and unbiased for samples from pi.

    Args:
        logps: (N,), log-probabilities of the tokens under the policy pi.
        frozen: (N,), the same under the initial policy.

    Returns:
        (N,), in nats.
    """
    gap = frozen - logps
    return gap.exp() - 1 - gap


def group_numbers(advantages: Advantages) -> dict[str, Tensor]:
    """Return metrics of most methods, (B,) each: mean |A|, groups without signal, groups with too few rewards."""
    return {
        "advantage/abs": advantages.completions.abs().nanmean(dim=1),
        "groups/no_signal": advantages.no_signal.double(),
        "groups/dropped": advantages.dropped.double(),
    }


def method_name(section: Any) -> str | None:
    """Return the name of the method in a recipe section, by default `grao`; None if there is none."""
    name = str(section.get("name", "grao")) if isinstance(section, dict) else getattr(section, "name", None)
    return name if isinstance(name, str) else None
