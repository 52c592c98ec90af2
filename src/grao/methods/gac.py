"""GAC (Hu et al., arXiv 2605.26184): CHORD-phi whose weight of SFT, mu, follows from the noise of its two signals.

    loss = (1 - mu) * GRPO + mu * SFT, tokens of references by p (1 - p)
    mu*  = (target * D + V_r) / (D + V_s + V_r)

    V_r  variance of the samples' advantages
    V_s  variance of the references' mean log-likelihoods, less the `trim` largest and the `trim` smallest of them
    D    mean over answers of the mean over tokens of (A - p (1 - p))^2, A = 0 for references

The three are means over time (`smoothing`), renewed every `every` steps; mu moves towards mu* as slowly, is drawn to a
schedule (`blend`), moves by at most `cap` a step and stays between `floor` and `ceiling`. Form and constants are those
of the authors' code (github.com/deepnovacore/GAC, `AdaptiveMuController`), but for two: `floor` is 0 here, so that
GRPO is a special case, 0.05 there; and a step's mu comes from the steps before it, not from itself as well. Left out,
for the code leaves it open: how the KL divergence steers `target`, and the normalisation of D that the page of the
paper speaks of. Over several processes V_s is the mean of each one's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from grao.methods.base import Before, State, StepGroups, TokenLoss, TokenView, Weighted, method
from grao.methods.chord import CHORDPhi, mixed, scheduled
from grao.methods.grpo import among_samples, sample_advantages
from grao.settings import NonNegativeInt, PositiveInt, Share
from grao.types import PerAnswer, Role

if TYPE_CHECKING:
    from torch import Tensor

_NOISE = ("noise/samples", "noise/references", "noise/disagreement")
"""V_r, V_s and D of a step, as they are logged and carried."""
_TINY = 1e-8


@method
class GAC(CHORDPhi):
    """GRPO and SFT, weighed by how noisy each of them is (arXiv 2605.26184)."""

    name: Literal["gac"] = "gac"  # type: ignore[assignment]
    """The method."""
    mu: Share = 0.5
    """Weight of SFT at the first step."""
    floor: Share = 0.0
    """Least weight of SFT; 0.05 in the authors' code."""
    ceiling: Share = 0.9
    """Greatest weight of SFT."""
    target: Share = 0.5
    """Weight of SFT where the signals only disagree and have no noise."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """How much of the past each mean over time keeps."""
    every: PositiveInt = 10
    """Steps between two looks at the noise."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of the references that is left out at either end of V_s."""
    cap: Share = 0.01
    """How far the weight of SFT moves in a step, at most."""
    blend: Share = 0.5
    """How much the noise counts beside the schedule."""
    peak: Share = 0.85
    """Greatest weight of SFT in the schedule."""
    valley: Share = 0.15
    """Its weight there in the end."""
    warmup: NonNegativeInt = 200
    """Steps in which it rises."""
    decay: PositiveInt = 800
    """Steps in which it falls."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """As CHORD-phi, but samples without advantage are looked at too: they are part of D."""
        samples, references = mixed(groups, self.mu)
        advantages = sample_advantages(groups.rewards)
        return Weighted(PerAnswer.of(samples, references), among_samples(advantages), PerAnswer.of(advantages, 1.0))

    def loss(self, tokens: TokenView) -> TokenLoss:
        """That of CHORD-phi; beside it each answer's part of D."""
        loss, p = super().loss(tokens), tokens.logps.detach().exp()
        advantages = tokens.spread(tokens.signals.masked_fill(tokens.roles == Role.REFERENCE, 0.0))
        return replace(loss, numbers={**loss.numbers, _NOISE[2]: tokens.mean((advantages - p * (1 - p)).square())})

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """As CHORD-phi, and the two variances."""
        seen = loglik.reference[weighted.weights.reference != 0]
        noise = weighted.advantages.completions.square(), trimmed_variance(seen, self.trim)[None]
        return {**super().report(weighted, loglik), **dict(zip(_NOISE, noise, strict=False))}

    def start(self) -> State:
        """mu, and how many steps it has seen."""
        return {"mu": self.mu, "step": 0}

    def at(self, state: State) -> Self:
        """With the mu of this state."""
        return replace(self, mu=state["mu"])

    def adapt(
        self,
        state: State,
        before: Before,
        lengths: Sequence[int],
        total: Callable[[Tensor], list[float]],
        logged: Mapping[str, float],
    ) -> tuple[State, dict[str, float]]:
        """The next mu, from the noise up to this step."""
        step, mu = int(state["step"]), state["mu"]
        known = {name: state[name] for name in _NOISE if name in state}
        for name in _NOISE if step % self.every == 0 else ():
            new = logged.get(name, math.nan)
            if math.isfinite(new):
                known[name] = self.smoothing * known[name] + (1 - self.smoothing) * new if name in known else new
        noise = [known.get(name, lacking) for name, lacking in zip(_NOISE, (1.0, 1.0, 0.0), strict=True)]
        optimum = best_mix(self.target, *noise)
        wished = _between(self.smoothing * mu + (1 - self.smoothing) * optimum, self.floor, self.ceiling)
        schedule = scheduled(step, self.peak, self.valley, self.warmup, self.decay)
        blended = (1 - self.blend) * schedule + self.blend * wished
        following = _between(_between(blended, mu - self.cap, mu + self.cap), self.floor, self.ceiling)
        return {"mu": following, "step": step + 1, **known}, {"mu/used": mu, "mu/optimum": optimum}


def _between(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def best_mix(target: float, samples: float, references: float, disagreement: float) -> float:
    """mu*, the weight of SFT whose mixed gradient has the least mean squared error."""
    return (target * disagreement + samples) / (disagreement + references + samples + _TINY)


def trimmed_variance(values: Tensor, trim: float) -> Tensor:
    """Population variance of (N,) values without the share `trim` at either end, at least 1e-8; NaN of none."""
    if not len(values):
        return values.new_tensor(math.nan)
    cut = int(len(values) * trim) if len(values) >= 4 else 0
    return values.sort().values[cut : len(values) - cut].var(correction=0).clamp(min=_TINY)
