"""The ablations of GRAO as a study (paper, table 3)."""

from dataclasses import replace
from typing import Any

from grao.config.study import Study

_WHOLE = {"method.name": "grao", "method.sign": "positive", "method.scope": "joint", "method.normalise": "group"}
"""What an arm has unless it says otherwise, whatever the study's own settings are."""
_TERMS: dict[str, dict[str, Any]] = {
    "": {},
    "no-exploration": {"method.exploration": 0.0},
    "no-imitation": {"method.beta": 0.0},
    "no-regulariser": {"method.lambda": 0.0},
    "scope-samples": {"method.scope": "samples"},
}
_SIGNS = {"grao": "positive", "signed": "signed"}
_REWARDS = {"mean-only": "mean", "batch": "batch", "raw-reward": "none"}
"""What is left of the group-relative reward; that the reference is out of the group is `scope-samples`."""


def ablation(study: Study) -> Study:
    """The same study with the ablation's arms, in a folder of its own.

    Terms and scopes under both sign policies, and rewards that are relative to less than their group.
    """
    arms = {
        f"{family}-{name}".rstrip("-"): {"method.sign": sign, **fields}
        for family, sign in _SIGNS.items()
        for name, fields in _TERMS.items()
    }
    arms |= {name: {"method.normalise": kind} for name, kind in _REWARDS.items()}
    arms = {name: {**_WHOLE, **fields} for name, fields in arms.items()}
    output = study.output.with_name(f"{study.output.name}-ablation")
    return replace(study, arms=arms, over={}, against="grao", output=output)
