"""From the section `method` of a recipe to a method."""

from dataclasses import fields

from grao.config.method import MethodConfig
from grao.methods.auto import GRAOAuto
from grao.methods.chord import CHORDMu, CHORDPhi
from grao.methods.dpo import DPO
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.hpt import HPT
from grao.methods.luffy import LUFFY
from grao.methods.method import Method
from grao.methods.ppo import PPO
from grao.methods.sft import SFT
from grao.methods.srft import SRFT

METHODS: dict[str, type[Method]] = {
    "grao": GRAO,
    "grao-auto": GRAOAuto,
    "sft": SFT,
    "dpo": DPO,
    "grpo": GRPO,
    "ppo": PPO,
    "luffy": LUFFY,
    "chord-mu": CHORDMu,
    "chord-phi": CHORDPhi,
    "hpt": HPT,
    "srft": SRFT,
}
"""By the name in a recipe. A method has the fields of its section, but for the name."""


def make_method(config: MethodConfig) -> Method:
    """The method with its settings."""
    settings = {field.name: getattr(config, field.name) for field in fields(config) if field.name != "name"}
    return METHODS[config.name](**settings)
