"""The section `method`: which method, and its own settings. Each class has the fields of the method of that name."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from grao.config.basics import STRICT, NonNegativeFloat, PositiveFloat, PositiveInt, Share


@dataclass(config=STRICT, frozen=True)
class GRAOMethodConfig:
    """GRAO's coefficients (paper, eq. 3 and 4)."""

    name: Literal["grao"] = "grao"
    """The method."""
    beta: NonNegativeFloat = 0.5
    """Weight of imitation."""
    lambda_: Annotated[float, Field(ge=0, allow_inf_nan=False, alias="lambda")] = 0.6
    """Weight of the alignment regulariser."""
    exploration: NonNegativeFloat = 1.0
    """Weight of exploration; 1 in the paper."""
    scope: Literal["joint", "samples"] = "joint"
    """Normalise over samples and reference together, or over the samples alone."""
    sign: Literal["signed", "positive"] = "positive"
    """`signed` is eq. 3 as printed; `positive` never pushes the reference down (docs/method.md says why it is ours)."""
    normalise: Literal["group", "mean", "batch", "none"] = "group"
    """`group` is eq. 4. For ablations: less the group's mean only, over the step's batch, or rewards as they are."""


@dataclass(config=STRICT, frozen=True)
class GRAOAutoMethodConfig:
    """An experiment: imitates where every sample of a group loses, else explores. Not in the paper, not recommended."""

    name: Literal["grao-auto"] = "grao-auto"
    """The method."""
    beta: NonNegativeFloat = 0.02
    """Weight of the reference of a group that loses throughout."""
    rule: Literal["group", "step"] = "group"
    """`step`: that weight times the share of such groups in the step."""


@dataclass(config=STRICT, frozen=True)
class SFTMethodConfig:
    """Imitation of the references; nothing is sampled."""

    name: Literal["sft"] = "sft"
    """The method."""


@dataclass(config=STRICT, frozen=True)
class DPOMethodConfig:
    """References above rejected answers (arXiv 2305.18290); needs `data.rejected`, nothing is sampled."""

    name: Literal["dpo"] = "dpo"
    """The method."""
    beta: PositiveFloat = 0.1
    """How sharply margins count; the smaller, the further the policy may go from where it began."""


@dataclass(config=STRICT, frozen=True)
class GRPOMethodConfig:
    """Samples against each other (arXiv 2402.03300)."""

    name: Literal["grpo"] = "grpo"
    """The method."""
    clip: PositiveFloat = 0.2
    """Half-width of the interval in which a probability ratio counts."""
    kl: NonNegativeFloat = 0.04
    """Weight of the KL divergence to the model before training."""
    updates: PositiveInt = 1
    """Optimiser steps on one batch of samples."""


@dataclass(config=STRICT, frozen=True)
class PPOMethodConfig:
    """Samples against a critic's expectation (arXiv 1707.06347, 2203.02155)."""

    name: Literal["ppo"] = "ppo"
    """The method."""
    clip: PositiveFloat = 0.2
    """Half-width of the interval in which a probability ratio counts."""
    value_clip: PositiveFloat = 0.2
    """How far a value may move in one batch of samples."""
    value: NonNegativeFloat = 0.1
    """Weight of the value loss."""
    kl: NonNegativeFloat = 0.05
    """Penalty for each nat of distance from the model before training."""
    kl_target: PositiveFloat | None = None
    """KL divergence of a sample, in nats, that the penalty is steered to; by default it is fixed."""
    discount: Share = 1.0
    """gamma."""
    trace: Share = 0.95
    """lambda of generalised advantage estimation."""
    updates: PositiveInt = 4
    """Optimiser steps on one batch of samples."""


@dataclass(config=STRICT, frozen=True)
class LUFFYMethodConfig:
    """The reference as an off-policy member of the group (arXiv 2504.14945)."""

    name: Literal["luffy"] = "luffy"
    """The method."""
    shaping: PositiveFloat = 0.1
    """gamma of f(p) = p / (p + gamma), by which a reference's tokens count."""
    clip: PositiveFloat = 0.2
    """Half-width of the interval in which a probability ratio counts."""
    updates: PositiveInt = 1
    """Optimiser steps on one batch of samples."""


@dataclass(config=STRICT, frozen=True)
class CHORDMuMethodConfig:
    """GRPO and SFT with a falling weight of SFT (arXiv 2508.11408)."""

    name: Literal["chord-mu"] = "chord-mu"
    """The method."""
    peak: Share = 0.9
    """Greatest weight of SFT."""
    valley: Share = 0.05
    """Its weight in the end."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps in which it rises."""
    decay: PositiveInt = 200
    """Steps in which it falls."""


@dataclass(config=STRICT, frozen=True)
class CHORDPhiMethodConfig:
    """GRPO and SFT, a reference's tokens weighed by p (1 - p) (arXiv 2508.11408)."""

    name: Literal["chord-phi"] = "chord-phi"
    """The method."""
    mu: Share = 0.1
    """Weight of SFT."""


@dataclass(config=STRICT, frozen=True)
class HPTMethodConfig:
    """SFT on the reference where the group fails, else GRPO (arXiv 2509.04419)."""

    name: Literal["hpt"] = "hpt"
    """The method."""
    gate: Share = 0.0
    """A group fails if at most this share of its samples beats the reference."""


@dataclass(config=STRICT, frozen=True)
class SRFTMethodConfig:
    """Imitation and reinforcement weighed by entropy (arXiv 2506.19767)."""

    name: Literal["srft"] = "srft"
    """The method."""
    imitation: NonNegativeFloat = 0.5
    """Factor of the imitation of the reference."""
    won: NonNegativeFloat = 0.1
    """Factor of samples that beat the reference."""


def _named(section: Any) -> str | None:
    """The method's name; GRAO where none is given."""
    if isinstance(section, dict):
        name = section.get("name", "grao")
        return name if isinstance(name, str) else None
    return getattr(section, "name", None)


MethodConfig = Annotated[
    Annotated[GRAOMethodConfig, Tag("grao")]
    | Annotated[GRAOAutoMethodConfig, Tag("grao-auto")]
    | Annotated[SFTMethodConfig, Tag("sft")]
    | Annotated[DPOMethodConfig, Tag("dpo")]
    | Annotated[GRPOMethodConfig, Tag("grpo")]
    | Annotated[PPOMethodConfig, Tag("ppo")]
    | Annotated[LUFFYMethodConfig, Tag("luffy")]
    | Annotated[CHORDMuMethodConfig, Tag("chord-mu")]
    | Annotated[CHORDPhiMethodConfig, Tag("chord-phi")]
    | Annotated[HPTMethodConfig, Tag("hpt")]
    | Annotated[SRFTMethodConfig, Tag("srft")],
    Discriminator(_named),
]
"""One of them, told apart by its name."""
