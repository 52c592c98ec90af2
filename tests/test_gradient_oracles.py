"""The update's gradient against three independent ones: a naive loop, the one-file example, and TRL's GRPO loss."""

import importlib.util
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from grao.core import group_advantages, sequence_weights, weighted_likelihood_loss
from grao.engine.padded import completion_likelihood
from tiny import END, gradients, letter_tokenizer, random_groups, relative_gap, tiny_model

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "grao_one_file.py"
BETA, LAMBDA = 0.5, 0.6


def rewards_of(prompts: int, samples: int, seed: int) -> torch.Tensor:
    """Verdicts, with the first group lost and the second without signal."""
    verdicts = torch.randint(-1, 2, (prompts, samples), generator=torch.Generator().manual_seed(seed)).float()
    verdicts[0], verdicts[1] = -1.0, 0.0
    return verdicts


def grao_gradient(model, prompts, groups, references, rewards, sign="signed") -> dict[str, torch.Tensor]:
    """Through the package: weights, likelihood, loss."""
    weights = sequence_weights(group_advantages(rewards, torch.zeros(len(rewards))), BETA, LAMBDA, sign=sign)
    flat = torch.cat([weights.completions, weights.reference[:, None]], dim=1).flatten()
    answers = [answer for group, y in zip(groups, references, strict=True) for answer in (*group, y)]
    repeated = [prompt for prompt in prompts for _ in range(len(groups[0]) + 1)]
    model.zero_grad()
    weighted_likelihood_loss(flat, completion_likelihood(model, repeated, answers).mean, len(prompts)).backward()
    return gradients(model)


def loglik(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """J of one answer, token by token, no batching and no padding."""
    total = torch.zeros((), dtype=next(model.parameters()).dtype)
    for place, token in enumerate(answer):
        logits = model(input_ids=torch.tensor([prompt + answer[:place]])).logits[0, -1]
        total = total + torch.log_softmax(logits, dim=-1)[token]
    return total / len(answer)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "moe"])
def test_a_naive_loop_over_equation_3(kind: str):
    prompts, groups, references = random_groups(seed=1, prompts=3, samples=3, longest=5)
    rewards = rewards_of(3, 3, seed=1)
    model = tiny_model(kind)
    found = grao_gradient(model, prompts, groups, references, rewards)

    advantages = group_advantages(rewards, torch.zeros(3))
    model.zero_grad()
    objective = torch.zeros(())
    for b, prompt in enumerate(prompts):
        j_y, a_y = loglik(model, prompt, references[b]), advantages.reference[b]
        for answer, a in zip(groups[b], advantages.completions[b], strict=True):
            j = loglik(model, prompt, answer)
            objective = objective + (a * j + BETA * a_y * j_y + LAMBDA * a * (j - j_y)) / len(groups[b])
    (-objective / len(prompts)).backward()
    assert relative_gap(found, gradients(model)) < 1e-5


def test_in_double_precision_the_naive_loop_agrees_to_rounding():
    prompts, groups, references = random_groups(seed=2, prompts=2, samples=3, longest=4)
    rewards = torch.tensor([[1.0, 0.0, -1.0], [-1.0, -1.0, 1.0]])
    model = tiny_model("gpt2").double()  # no part of it falls back to single precision
    found = grao_gradient(model, prompts, groups, references, rewards.double())
    advantages = group_advantages(rewards.double(), torch.zeros(2).double())
    model.zero_grad()
    loss = 0.0
    for b, prompt in enumerate(prompts):
        j_y = loglik(model, prompt, references[b])
        for answer, a in zip(groups[b], advantages.completions[b], strict=True):
            j = loglik(model, prompt, answer)
            loss = loss - (a * j + BETA * advantages.reference[b] * j_y + LAMBDA * a * (j - j_y)) / 6
    loss.backward()
    assert relative_gap(found, gradients(model)) < 1e-10


def test_the_one_file_example():
    spec = importlib.util.spec_from_file_location("grao_one_file", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    prompts, groups, references = random_groups(seed=3)
    rewards = rewards_of(3, 4, seed=3)
    rewards[2] = torch.tensor([1.0, 1.0, 0.0, 1.0])  # a reference that is beaten
    model = tiny_model()
    found = grao_gradient(model, prompts, groups, references, rewards, sign="positive")
    model.zero_grad()
    example.grao_loss(model, prompts, groups, references, rewards, torch.zeros(3), BETA, LAMBDA).backward()
    assert relative_gap(gradients(model), found) < 1e-6


@pytest.fixture(scope="module")
def trl_trainer(tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    """TRL's trainer, set to the plain policy gradient: one iteration, no KL, mean per sequence."""
    arguments = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        loss_type="grpo",
        beta=0.0,
        num_iterations=1,
        temperature=1.0,
        num_generations=2,
        per_device_train_batch_size=2,
        report_to="none",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
    )
    return GRPOTrainer(
        model=tiny_model(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=letter_tokenizer(),
    )


@pytest.mark.parametrize("seed", [4, 5])
def test_trl_with_rewritten_advantages(trl_trainer: GRPOTrainer, seed: int):
    prompts, groups, references = random_groups(seed)
    rewards = rewards_of(3, 4, seed)
    model = trl_trainer.model
    found = grao_gradient(model, prompts, groups, references, rewards)

    weights = sequence_weights(group_advantages(rewards, torch.zeros(3)), BETA, LAMBDA, sign="signed")
    flat = torch.cat([weights.completions, weights.reference[:, None]], dim=1).flatten()
    answers = [answer for group, y in zip(groups, references, strict=True) for answer in (*group, y)]
    rows = [prompt for prompt in prompts for _ in range(5)]
    prompt_ids, prompt_mask = padded([row[::-1] for row in rows])
    completion_ids, completion_mask = padded(answers)
    inputs = {
        "prompt_ids": prompt_ids.flip(1),
        "prompt_mask": prompt_mask.flip(1),
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": flat * len(flat) / len(prompts),  # TRL takes the mean over sequences
        "num_items_in_batch": completion_mask.sum(),
    }
    model.zero_grad()
    model.train()
    trl_trainer.current_gradient_accumulation_steps = 1
    trl_trainer._compute_loss(model, inputs).backward()
    assert relative_gap(found, gradients(model)) < 1e-5
    whole = torch.cat([value.flatten() for value in found.values()])
    theirs = torch.cat([value.flatten() for value in gradients(model).values()])
    assert ((whole - theirs).norm() / theirs.norm()).item() < 1e-6


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [END] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
