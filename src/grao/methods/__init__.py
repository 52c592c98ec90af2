"""One file per alignment method: which answers it learns from, and how much."""

from grao.methods.auto import GRAOAuto
from grao.methods.chord import CHORDMu, CHORDPhi
from grao.methods.dpo import DPO
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.hpt import HPT
from grao.methods.luffy import LUFFY
from grao.methods.make import make_method
from grao.methods.method import Groups, Method, Needs, Role, TokenLoss, Weighted
from grao.methods.ppo import PPO
from grao.methods.sft import SFT
from grao.methods.srft import SRFT
from grao.methods.tokens import Before, TokenView

__all__ = [
    "DPO",
    "GRAO",
    "GRPO",
    "HPT",
    "LUFFY",
    "PPO",
    "SFT",
    "SRFT",
    "Before",
    "CHORDMu",
    "CHORDPhi",
    "GRAOAuto",
    "Groups",
    "Method",
    "Needs",
    "Role",
    "TokenLoss",
    "TokenView",
    "Weighted",
    "make_method",
]
