"""Align language models on prompts with reference answers: Group Relative Alignment Optimization (GRAO)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from grao.errors import InputError, RewardUnavailableError

if TYPE_CHECKING:
    from grao.config.library import GRAOConfig
    from grao.config.recipe import DataConfig, LoraConfig, RolloutConfig, TrainingConfig
    from grao.core import group_advantages, sequence_weights
    from grao.methods.dpo import DPO
    from grao.methods.grao import GRAO
    from grao.methods.grpo import GRPO
    from grao.methods.ppo import PPO
    from grao.methods.sft import SFT
    from grao.training.trainer import GRAOTrainer

__version__ = "0.2.0"

_LAZY = {
    **dict.fromkeys(("DataConfig", "LoraConfig", "RolloutConfig", "TrainingConfig"), "grao.config.recipe"),
    **{name: f"grao.methods.{name.lower()}" for name in ("DPO", "GRAO", "GRPO", "PPO", "SFT")},
    "GRAOConfig": "grao.config.library",
    "GRAOTrainer": "grao.training.trainer",
    "group_advantages": "grao.core",
    "sequence_weights": "grao.core",
}
"""Name -> module. Loaded on first use, because importing pydantic or torch would slow down the command line."""

__all__ = [
    "DPO",
    "GRAO",
    "GRPO",
    "PPO",
    "SFT",
    "DataConfig",
    "GRAOConfig",
    "GRAOTrainer",
    "InputError",
    "LoraConfig",
    "RewardUnavailableError",
    "RolloutConfig",
    "TrainingConfig",
    "group_advantages",
    "sequence_weights",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    classes = import_module("grao.config.other_trainers").CLASSES
    if name in classes:
        raise ImportError(f"grao has no {name}; use {classes[name]} (docs/from-trl.md)")
    raise AttributeError(f"module 'grao' has no attribute {name!r}")
