"""The public surface: a name that comes or goes shows here, and each is documented."""

import importlib
import inspect
import subprocess
import sys

import pytest

import grao

PUBLIC = {
    "grao": [
        "DPOMethodConfig", "DataConfig", "GRAOConfig", "GRAOMethodConfig", "GRAOTrainer", "GRPOMethodConfig",
        "InputError", "LoraConfig", "PPOMethodConfig", "RewardUnavailableError", "RolloutConfig",
        "SFTMethodConfig", "TrainingConfig", "group_advantages", "sequence_weights",
    ],
    "grao.core": [
        "Advantages", "ObjectiveTerms", "Plan", "SequenceWeights", "group_advantages", "objective_terms",
        "plan_packed", "plan_padded", "sequence_weights", "weighted_likelihood_loss",
    ],
    "grao.rewards": [
        "EmbeddingSimilarity", "FunctionReward", "Mix", "MixedRewards", "Objective", "Prompt", "Relative",
        "Reward", "RewardBatch", "RewardModel", "RuleReward", "as_mix", "difference", "load_function",
        "verdict",
    ],
    "grao.rewards.judge": [
        "CRITERIA", "Comparison", "Endpoint", "Estimate", "JudgeReward", "JudgeTally", "Ledger", "LocalJudge",
        "Pair", "PairwiseJudge", "Prices", "ServerJudge", "Template", "Verdict", "load_template", "parse_verdict",
    ],
    "grao.methods": [
        "Before", "CHORDMu", "CHORDPhi", "DPO", "GRAO", "GRAOAuto", "GRPO", "Groups", "HPT", "LUFFY", "Method", "Needs",
        "PPO", "Role", "SFT", "SRFT", "TokenLoss", "TokenView", "Weighted", "make_method",
    ],
    "grao.rollouts": ["Completion", "Generator", "HuggingFaceGenerator", "Sampling", "draw_key"],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_exported_names(module: str):
    found = importlib.import_module(module)
    assert sorted(found.__all__) == PUBLIC[module]
    for name in found.__all__:
        thing = getattr(found, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = grao.Trainer


def test_importing_grao_is_light():
    code = "import grao, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
