"""The published mixtures of imitation and reinforcement, each against a loop written from its formula."""

import math

import pytest
import torch
import torch.nn.functional as F

from grao.methods.base import StepGroups
from grao.methods.chord import CHORDMu, CHORDPhi
from grao.methods.hpt import HPT
from grao.methods.luffy import LUFFY
from grao.methods.srft import SRFT
from grao.types import PerAnswer
from test_methods import REWARDS, answers_of, learn, moved, token_logps, update_of, update_row
from tiny import gradients, relative_gap, tiny_model

G, B, Y = 4, 3, 4
"""Samples, prompts, and the column of the reference."""


def everything() -> tuple[dict[tuple[int, int], tuple[list[int], list[int]]], list[list[float]]]:
    """All answers by (group, column), the reference in column 4, and the rewards of each group."""
    update = update_of(SRFT(), seed=7)
    rewards = [REWARDS[update_row(update, (row, 0))] for row in range(B)]
    answers = {}
    for row, group in enumerate(update.experience.groups):
        for column, answer in enumerate(group.answers[: G + 1]):
            answers[row, column] = (list(group.item.prompt_ids), list(answer.ids))
    return answers, rewards


def standardised(rewards: list[float], ddof: int, epsilon: float = 0.0) -> list[float]:
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - ddof)) + epsilon
    return [(r - mean) / deviation if deviation > epsilon else 0.0 for r in rewards]


def check(model, method, expected: torch.Tensor, budget: int) -> None:
    expected.backward()
    theirs = gradients(model)
    seen = learn(model, method, budget)
    assert seen.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert relative_gap(gradients(model), theirs) < 1e-5


@pytest.mark.parametrize("budget", [20, 10_000])
def test_luffy(budget: int):
    model = moved(tiny_model())
    answers, rewards = everything()
    loss = torch.zeros(())
    for row in range(B):
        joint = standardised([*rewards[row], 0.0], ddof=0)
        z = sum(len(answers[row, column][1]) for column in range(G + 1))
        for column in range(G + 1):
            logps = token_logps(model, *answers[row, column])
            for logp in logps:
                p = logp.exp()
                ratio = p / (p + 0.1) if column == Y else p / p.detach()
                loss = loss - ratio * joint[column] / z / B
    check(model, LUFFY(), loss, budget)


@pytest.mark.parametrize(("step", "mu"), [(0, 0.0), (1, 0.4), (2, 0.8), (4, 0.45), (6, 0.1), (60, 0.1)])
def test_the_weight_of_imitation_in_chord(step: int, mu: float):
    # two steps up to 0.8, then four down to 0.1: half way at step 4
    assert CHORDMu(peak=0.8, valley=0.1, warmup=2, decay=4).mu(step) == pytest.approx(mu)


@pytest.mark.parametrize("budget", [20, 10_000])
def test_chord_mu(budget: int):
    model = moved(tiny_model())
    check(model, CHORDMu(peak=0.3), chord(model, 0.3, lambda p: 1.0), budget)


@pytest.mark.parametrize("budget", [20, 10_000])
def test_chord_phi(budget: int):
    model = moved(tiny_model())
    check(model, CHORDPhi(mu=0.3), chord(model, 0.3, lambda p: float(p * (1 - p))), budget)


def chord(model, mu: float, phi) -> torch.Tensor:
    answers, rewards = everything()
    tokens = sum(len(answers[row, Y][1]) for row in range(B))
    loss = torch.zeros(())
    for row in range(B):
        advantages = standardised(rewards[row], ddof=1, epsilon=1e-4)
        for column in range(G):
            likelihood = token_logps(model, *answers[row, column]).mean()
            loss = loss - (1 - mu) * advantages[column] * likelihood / G / B
        for logp in token_logps(model, *answers[row, Y]):
            loss = loss - mu * phi(logp.detach().exp()) * logp / tokens
    return loss


@pytest.mark.parametrize(("gate", "failed"), [(0.0, {1}), (0.3, {0, 1}), (1.0, {0, 1, 2})])
def test_hpt(gate: float, failed: set[int]):
    # wins of the three groups: 1 of 4, none, 2 of 4
    model = moved(tiny_model())
    answers, rewards = everything()
    mean = sum(len(answers[row, Y][1]) for row in range(B)) / B
    loss = torch.zeros(())
    for row in range(B):
        if REWARDS.index(rewards[row]) in failed:
            loss = loss - token_logps(model, *answers[row, Y]).sum() / mean / B
            continue
        advantages = standardised(rewards[row], ddof=1, epsilon=1e-4)
        for column in range(G):
            loss = loss - advantages[column] * token_logps(model, *answers[row, column]).mean() / G / B
    check(model, HPT(gate=gate), loss, 10_000)


@pytest.mark.parametrize("budget", [20, 10_000])
def test_srft(budget: int):
    model = moved(tiny_model())
    answers, rewards = everything()
    loss = torch.zeros(())
    for row in range(B):
        joint = standardised([*rewards[row], 0.0], ddof=0)
        for column in range(G + 1):
            prompt, answer = answers[row, column]
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
            logps = F.log_softmax(logits, dim=-1)
            entropy = -(logps.exp() * logps).sum(dim=-1).mean().item()
            chosen = logps[range(len(answer)), answer]
            if column == Y:
                loss = loss - 0.5 * math.exp(-entropy) * chosen.mean() / B - joint[Y] * chosen.exp().mean() / B
            elif rewards[row][column] > 0:
                loss = loss - 0.1 * math.exp(entropy) * chosen.mean() / G / B
            elif rewards[row][column] < 0:
                loss = loss + chosen.mean() / G / B
    check(model, SRFT(), loss, budget)


def test_an_unjudged_group_teaches_nothing():
    rewards = torch.full((1, 4), torch.nan, dtype=torch.float64)
    lengths = PerAnswer(torch.full((1, 4), 3), torch.tensor([5]), torch.tensor([0]))
    groups = StepGroups(rewards, lengths, 5.0, 0)
    for method in (LUFFY(), HPT()):
        assert not any(map(any, method.weigh(groups).weights.rows())), method


def test_answers_are_found_again():
    answers, _ = everything()
    assert answers_of(update_of(SRFT())).items() <= answers.items()
