"""One file per alignment method: which answers it learns from, and how much."""

from grao.methods.dpo import DPO
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.make import make_method
from grao.methods.method import Groups, Method, Needs, Role, TokenLoss, Weighted
from grao.methods.ppo import PPO
from grao.methods.sft import SFT
from grao.methods.tokens import Before, TokenView

__all__ = [
    "DPO",
    "GRAO",
    "GRPO",
    "PPO",
    "SFT",
    "Before",
    "Groups",
    "Method",
    "Needs",
    "Role",
    "TokenLoss",
    "TokenView",
    "Weighted",
    "make_method",
]
