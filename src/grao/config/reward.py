"""The section of one reward: where it comes from, and how it enters the sum."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from grao.config.basics import STRICT, NonNegativeFloat
from grao.config.judge import JudgeConfig
from grao.config.reward_source import RewardModelConfig
from grao.config.rule import RuleConfig


@dataclass(config=STRICT, frozen=True)
class RewardConfig:
    """One reward: a function, a judge, a reward model or a rule. Several are added with their weights."""

    function: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["rewards.py:score"])] = None
    """`package.module:function` or `file.py:function`, called `f(prompts, completions, **columns)`."""
    judge: JudgeConfig | None = None
    """A language model that compares."""
    model: RewardModelConfig | None = None
    """A trained reward model."""
    rule: RuleConfig | None = None
    """A rule about the text."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Factor in the sum."""
    normalise: bool = False
    """Divide by the deviation within the group first, so that no scale dominates the sum."""
    constraint: bool = False
    """Must not lose: an answer that does ranks below the reference and below all answers that do not."""
    relative: Literal["difference", "sign"] = "difference"
    """R(o, y): `difference` r(o) - r(y), or `sign`, its verdict 1, 0 or -1."""
    tie_band: NonNegativeFloat = 0.0
    """`sign` only: differences up to this size are ties."""
    name: str | None = None
    """Name in logs; by default the function's, the judge's criterion, the rule's, or `model`."""

    def __post_init__(self) -> None:
        sources = {"function": self.function, "judge": self.judge, "model": self.model, "rule": self.rule}
        if sum(source is not None for source in sources.values()) != 1:
            raise ValueError(f"a reward is exactly one of {', '.join(sources)}; for example function: rewards.py:score")
        if self.judge and self.relative == "sign":
            raise ValueError("relative has no effect on a judge, whose verdicts are 1, 0 and -1; leave it out")
        if self.tie_band and self.relative == "difference":
            raise ValueError("tie_band has no effect with relative: difference; set relative: sign")
