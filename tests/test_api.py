"""The public surface: a name that comes or goes shows here, and each is documented."""

import importlib
import inspect
import subprocess
import sys

import pytest

import grao

PUBLIC = {
    "grao": [
        "DPO", "DataConfig", "GRAO", "GRAOConfig", "GRAOTrainer", "GRPO", "InputError", "LoraConfig", "PPO",
        "RewardUnavailableError", "RolloutConfig", "SFT", "TrainingConfig", "group_advantages", "sequence_weights",
    ],
    "grao.core": [
        "ADVANTAGES", "Advantages", "ObjectiveTerms", "SequenceWeights", "group_advantages", "merge_ties",
        "objective_terms", "rounding", "sequence_weights", "spread", "weighted_likelihood_loss",
    ],
    "grao.types": [
        "Answer", "Batch", "Encoded", "Example", "Group", "PerAnswer", "Role", "canonical",
    ],
    "grao.methods.base": [
        "Before", "Method", "Needs", "StepGroups", "TokenLoss", "TokenView", "Weighted", "group_numbers",
        "kl_estimate", "method", "method_name", "required", "scored_share",
    ],
    "grao.rollouts.base": ["Generator", "OwnPrecision", "Sampling", "draw_key", "make_generator"],
    "grao.rewards.base": [
        "CountedReward", "EarlyReward", "Reward", "RewardBatch", "Scored", "ScoredReward", "ask", "difference",
        "moved_by_rounding", "relative_of", "result_of", "sign_relative", "start_awaitable", "with_exact_ties",
    ],
    "grao.rewards.functions": ["FunctionReward", "load_function"],
    "grao.rewards.mix": [
        "Mix", "MixedRewards", "WeightedReward", "as_mix", "check_any_scored", "concatenated", "constrained",
        "make_reward", "make_rewards", "normalised",
    ],
    "grao.rewards.model": ["EmbeddingSimilarity", "RewardModel", "forward_rows", "local_device"],
    "grao.rewards.rules": [
        "RuleReward", "exact_match", "final_number", "format_fit", "json_validity", "language_share", "length_fit",
        "numeric_match", "overlap", "refusal", "regex_match", "repetition", "verbatim_overlap",
    ],
    "grao.rewards.judge.base": [
        "EarlyJudge", "JudgeTally", "JudgedPair", "KNOWN", "OrderedPair", "Pair", "PairwiseJudge", "combine",
        "orders_of",
    ],
    "grao.rewards.judge.client": ["Endpoint", "Failure", "JudgeClient", "backoff"],
    "grao.rewards.judge.ledger": ["Budget", "JudgeAnswer", "Ledger", "Question"],
    "grao.rewards.judge.local": ["LocalJudge"],
    "grao.rewards.judge.reward": ["JudgeReward"],
    "grao.rewards.judge.server": ["CostEstimate", "ServerJudge", "ledger_path"],
    "grao.rewards.judge.wording": [
        "PairVerdict", "Template", "context_text", "load_template", "parse_verdict",
    ],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_exported_names(module: str):
    found = importlib.import_module(module)
    defined = [n for n, thing in vars(found).items() if n[0] != "_" and getattr(thing, "__module__", "") == module]
    names = getattr(found, "__all__", defined)
    assert sorted(names) == PUBLIC[module]
    for name in names:
        thing = getattr(found, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = grao.Trainer


def test_importing_grao_is_light():
    code = "import grao, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
