"""GAC (Hu et al., arXiv 2605.26184): CHORD-phi with mu, the weight of SFT, adapted to the noise of both signals.

    loss = (1 - mu) * GRPO + mu * SFT, with reference tokens weighted by p (1 - p)
    mu*  = (target * D + V_r) / (D + V_s + V_r)

    V_r  variance of the samples' advantages
    V_s  variance of the references' mean log-likelihoods, without the `trim` largest and the `trim` smallest
    D    mean over answers of the mean over tokens of (A - p (1 - p))^2, with A = 0 for references

V_r, V_s and D are exponential moving averages (`smoothing`), updated every `every` steps. mu moves towards mu* with the
same smoothing, is blended with a schedule (`blend`), changes by at most `cap` per step and stays between `floor` and
`ceiling`. Formulas and constants follow the authors' code (github.com/deepnovacore/GAC, `AdaptiveMuController`) with
two exceptions: `floor` is 0 instead of 0.05, so that GRPO is a special case, and the mu of a step depends on earlier
steps only. Not implemented, because the code leaves it open: how the KL divergence adapts `target`, and the
normalisation of D mentioned on the paper's page. With several processes V_s is the mean of their variances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from grao.methods.base import Before, State, StepGroups, TokenLoss, TokenView, Weighted, method
from grao.methods.chord import CHORDPhi, mixed_weights, warmup_cosine
from grao.methods.grpo import sample_advantages, without_reference
from grao.settings import NonNegativeInt, PositiveInt, Share
from grao.types import PerAnswer, Role

if TYPE_CHECKING:
    from torch import Tensor

_NOISE = ("noise/samples", "noise/references", "noise/disagreement")
"""V_r, V_s and D, by their names in metrics and state."""
_TINY = 1e-8


@method
class GAC(CHORDPhi):
    """GRPO plus SFT, weighted by how noisy each of them is (arXiv 2605.26184)."""

    name: Literal["gac"] = "gac"  # type: ignore[assignment]
    """The method."""
    mu: Share = 0.5
    """Weight of SFT in the first step."""
    floor: Share = 0.0
    """Smallest weight of SFT; 0.05 in the authors' code."""
    ceiling: Share = 0.9
    """Largest weight of SFT."""
    target: Share = 0.5
    """Weight of SFT if neither signal has noise, however much they disagree."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay factor of the moving averages."""
    every: PositiveInt = 10
    """Steps between updates of the noise estimates."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of the references excluded at either end of the distribution for V_s."""
    cap: Share = 0.01
    """Largest change of the weight of SFT per step."""
    blend: Share = 0.5
    """0: the weight of SFT follows the schedule; 1: it follows the noise."""
    peak: Share = 0.85
    """Largest weight of SFT in the schedule."""
    valley: Share = 0.15
    """Final weight of SFT in the schedule."""
    warmup: NonNegativeInt = 200
    """Steps over which the schedule rises from 0 to `peak`."""
    decay: PositiveInt = 800
    """Steps over which the schedule falls from `peak` to `valley`."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weight as CHORD-phi does, but keep samples whose advantage is 0, since they count in D."""
        samples, references = mixed_weights(groups, self.mu)
        advantages = sample_advantages(groups.rewards)
        return Weighted(PerAnswer.of(samples, references), without_reference(advantages), PerAnswer.of(advantages, 1.0))

    def loss(self, tokens: TokenView) -> TokenLoss:
        """The loss of CHORD-phi; also report each answer's contribution to D."""
        loss, p = super().loss(tokens), tokens.logps.detach().exp()
        advantages = tokens.per_token(tokens.signals.masked_fill(tokens.roles == Role.REFERENCE, 0.0))
        return replace(loss, numbers={**loss.numbers, _NOISE[2]: tokens.mean((advantages - p * (1 - p)).square())})

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the metrics of CHORD-phi, V_r and V_s."""
        references = loglik.reference[weighted.weights.reference != 0]
        noise = weighted.advantages.completions.square(), trimmed_variance(references, self.trim)[None]
        return {**super().report(weighted, loglik), **dict(zip(_NOISE, noise, strict=False))}

    def start(self) -> State:
        """Return mu and the number of steps so far."""
        return {"mu": self.mu, "step": 0}

    def at(self, state: State) -> Self:
        """Return the method with the mu of this state."""
        return replace(self, mu=state["mu"])

    def adapt(
        self,
        state: State,
        before: Before,
        lengths: Sequence[int],
        total: Callable[[Tensor], list[float]],
        logged: Mapping[str, float],
    ) -> tuple[State, dict[str, float]]:
        """Compute the next mu from the noise up to this step."""
        step, mu = int(state["step"]), state["mu"]
        averages = {name: state[name] for name in _NOISE if name in state}
        for name in _NOISE if step % self.every == 0 else ():
            new = logged.get(name, math.nan)
            if math.isfinite(new):
                old = averages.get(name)
                averages[name] = new if old is None else self.smoothing * old + (1 - self.smoothing) * new
        noise = [averages.get(name, default) for name, default in zip(_NOISE, (1.0, 1.0, 0.0), strict=True)]
        optimum = best_mix(self.target, *noise)
        adapted = _clipped(self.smoothing * mu + (1 - self.smoothing) * optimum, self.floor, self.ceiling)
        schedule = warmup_cosine(step, self.peak, self.valley, self.warmup, self.decay)
        blended = (1 - self.blend) * schedule + self.blend * adapted
        next_mu = _clipped(_clipped(blended, mu - self.cap, mu + self.cap), self.floor, self.ceiling)
        return {"mu": next_mu, "step": step + 1, **averages}, {"mu/used": mu, "mu/optimum": optimum}


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def best_mix(target: float, samples: float, references: float, disagreement: float) -> float:
    """Return the optimal weight of SFT, mu*: the one that minimises the mean squared error of the mixed gradient.

    Args:
        target: mu* in the absence of noise.
        samples: V_r, variance of the samples' advantages.
        references: V_s, variance of the references' log-likelihoods.
        disagreement: D, mean squared difference of the two signals.
    """
    return (target * disagreement + samples) / (disagreement + references + samples + _TINY)


def trimmed_variance(values: Tensor, trim: float) -> Tensor:
    """Return the population variance of (N,) values without the share `trim` at either end: >= 1e-8, NaN if N is 0."""
    if not len(values):
        return values.new_tensor(math.nan)
    cut = int(len(values) * trim) if len(values) >= 4 else 0
    return values.sort().values[cut : len(values) - cut].var(correction=0).clamp(min=_TINY)
