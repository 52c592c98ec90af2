"""GRAO in one file: Group Relative Alignment Optimization (arXiv 2508.07750) with only torch and transformers.

    python grao_one_file.py MODEL prompts.jsonl --steps 50 --learning-rate 1e-5 --output aligned

Each line of prompts.jsonl is {"prompt": ..., "reference": ...}. Replace `reward` by your own.

For each prompt, sample a group of answers, score them and the reference, normalise the scores within the group, and
raise or lower the likelihood of each answer accordingly:

    A    = (R - mean) / std                               over the G samples and the reference (eq. 4)
    w_i  = (1 + lambda) * A_i / G                         weight of sample i
    w_y  = max(beta * A_y - lambda * mean_i(A_i), 0)      weight of the reference
    loss = -mean over prompts of [ sum_i w_i * J(o_i) + w_y * J(y) ]      (eq. 3, rearranged)

where J(x) is the mean log-likelihood per token of x. While all samples lose to the reference, w_y dominates and the
model imitates. Once some samples win, their weights take over and it explores. When the samples beat the reference on
average, the weight of the reference would turn negative. Eq. 3 as printed then pushes the reference down. Like the
package by default, this file sets w_y to 0 instead, and only the samples drive the update.

The package also handles missing rewards, other normalisations, LoRA, resuming, several processes and evaluation, and it
is much faster.
"""

import argparse
import json
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Settings:
    """The paper's settings, except for batch size, learning rate and answer length, which suit a small model."""

    group_size: int = 8
    temperature: float = 0.7
    max_new_tokens: int = 128
    beta: float = 0.5
    lambda_: float = 0.6
    prompts_per_step: int = 8
    learning_rate: float = 1e-5
    weight_decay: float = 0.01


def reward(prompt: str, answer: str) -> float:
    """Score of an answer. Here: the number of distinct words, capped at 50 and scaled to 1."""
    return min(len(set(answer.lower().split())), 50) / 50


# --- the method -------------------------------------------------------------------------------------------------


def group_advantages(rewards: Tensor, reference_rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 4, samples and reference in one group: (B, G) and (B,) rewards -> (B, G) and (B,) advantages.

    If all rewards of a group are equal up to rounding, it carries no signal and its advantages are 0.
    """
    group = torch.cat([rewards, reference_rewards[:, None]], dim=1)
    centred = group - group.mean(dim=1, keepdim=True)
    deviation = group.std(dim=1, keepdim=True, correction=0)
    spread = group.amax(dim=1, keepdim=True) - group.amin(dim=1, keepdim=True)
    rounding = 16 * torch.finfo(group.dtype).eps * group.abs().amax(dim=1, keepdim=True)
    advantages = (centred / deviation).masked_fill(spread <= rounding, 0.0)
    return advantages[:, :-1], advantages[:, -1]


def sequence_weights(samples: Tensor, reference: Tensor, beta: float, lambda_: float) -> tuple[Tensor, Tensor]:
    """Eq. 3 in closed form: (B, G) and (B,) advantages -> (B, G) and (B,) weights of log-likelihoods.

    The clamp is not in eq. 3: without it, a reference that is beaten is pushed down without bound.
    """
    reference_weights = beta * reference - lambda_ * samples.mean(dim=1)
    return (1 + lambda_) * samples / samples.shape[1], reference_weights.clamp(min=0)


def mean_loglik(model, prompts: list[list[int]], answers: list[list[int]]) -> Tensor:
    """J of each answer given its prompt, (S,): mean log-likelihood per token, in nats."""
    sequences = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(model.device)
    positions = torch.arange(ids.shape[1], device=ids.device)
    ends = torch.tensor([len(sequence) for sequence in sequences], device=ids.device)[:, None]
    starts = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)[:, None]
    logits = model(input_ids=ids, attention_mask=(positions < ends).long()).logits[:, :-1]
    logps = F.log_softmax(logits.float(), dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    in_answer = ((positions >= starts) & (positions < ends))[:, 1:]
    return (logps * in_answer).sum(dim=1) / in_answer.sum(dim=1)


def grao_loss(
    model, prompts: list[list[int]], samples: list[list[list[int]]], references: list[list[int]],
    rewards: Tensor, reference_rewards: Tensor, beta: float, lambda_: float,
) -> Tensor:  # fmt: skip
    """The loss of B groups. Answers with weight 0 contribute no gradient, so they skip the forward pass."""
    sample_weights, reference_weights = sequence_weights(*group_advantages(rewards, reference_rewards), beta, lambda_)
    weights = torch.cat([sample_weights, reference_weights[:, None]], dim=1).to(model.device)  # (B, G + 1)
    answers = [[*group, reference] for group, reference in zip(samples, references, strict=True)]
    total = torch.zeros((), device=model.device)
    for prompt, group, w in zip(prompts, answers, weights, strict=True):
        active = w.nonzero().squeeze(1).tolist()
        if active:
            loglik = mean_loglik(model, [prompt] * len(active), [group[i] for i in active])
            total = total + (w[active] * loglik).sum()
    return -total / len(prompts)


# --- sampling and training --------------------------------------------------------------------------------------


@torch.no_grad()
def sample_group(model, prompt: list[int], settings: Settings, stops: list[int]) -> list[list[int]]:
    """G sampled answers to one prompt, each including its end token if it has one."""
    model.eval()
    output = model.generate(
        torch.tensor([prompt], device=model.device),
        do_sample=True,
        temperature=settings.temperature,
        top_k=0,
        top_p=1.0,
        num_return_sequences=settings.group_size,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=stops,
        pad_token_id=stops[0],
    )
    model.train()
    answers = output[:, len(prompt) :].tolist()
    ends = [next((i + 1 for i, token in enumerate(answer) if token in stops), len(answer)) for answer in answers]
    return [answer[:end] for answer, end in zip(answers, ends, strict=True)]


def train(model, tokenizer, rows: list[dict], settings: Settings, steps: int, seed: int = 0) -> None:
    """Run `steps` optimiser steps on rows with `prompt` and `reference`."""
    torch.manual_seed(seed)
    shuffle = random.Random(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    for step in range(1, steps + 1):
        batch = shuffle.sample(rows, min(settings.prompts_per_step, len(rows)))
        prompts = [tokenizer(row["prompt"]).input_ids for row in batch]
        references = [[*tokenizer(row["reference"], add_special_tokens=False).input_ids, stops[0]] for row in batch]
        samples = [sample_group(model, prompt, settings, stops) for prompt in prompts]
        scores = [
            [reward(row["prompt"], tokenizer.decode(answer, skip_special_tokens=True)) for answer in group]
            for row, group in zip(batch, samples, strict=True)
        ]
        rewards = torch.tensor(scores)
        reference_rewards = torch.tensor([reward(row["prompt"], row["reference"]) for row in batch])
        loss = grao_loss(
            model, prompts, samples, references, rewards, reference_rewards, settings.beta, settings.lambda_
        )
        optimiser.zero_grad()
        if loss.requires_grad:  # False if no group of the step carried a signal
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        wins = (rewards > reference_rewards[:, None]).float().mean()
        print(f"step {step:4d}  reward {rewards.mean():.3f}  beats the reference {wins:.0%}  loss {loss.item():+.4f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="model folder or hub id")
    parser.add_argument("data", help="JSON lines file with prompt and reference")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--output", default="aligned")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    with open(options.data, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    train(model, tokenizer, rows, Settings(learning_rate=options.learning_rate), options.steps)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)


if __name__ == "__main__":
    main()
