"""The published mixtures of imitation and reinforcement, each against a loop written from its formula."""

import math

import pytest
import torch
import torch.nn.functional as F

from grao.methods.base import Before, StepGroups
from grao.methods.chord import CHORDMu, CHORDPhi
from grao.methods.dapo import DAPO
from grao.methods.dr_grpo import DrGRPO
from grao.methods.gac import GAC, trimmed_variance
from grao.methods.gft import GFT
from grao.methods.grpo import GRPO
from grao.methods.gspo import GSPO
from grao.methods.hpt import HPT
from grao.methods.luffy import LUFFY
from grao.methods.rloo import RLOO
from grao.methods.srft import SRFT
from grao.training.accumulate import StepOutput
from grao.types import PerAnswer
from test_methods import LIMIT, REWARDS, answers_of, learn, moved, token_logps, update_of, update_row
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


def centred(rewards: list[float]) -> list[float]:
    return [reward - sum(rewards) / len(rewards) for reward in rewards]


def check(model, method, expected: torch.Tensor, budget: int) -> StepOutput:
    expected.backward()
    theirs = gradients(model)
    seen = learn(model, method, budget)
    assert seen.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert relative_gap(gradients(model), theirs) < 1e-5
    return seen


@pytest.mark.parametrize(("budget", "normalise"), [(20, True), (10_000, True), (20, False)])
def test_luffy(budget: int, normalise: bool):
    model = moved(tiny_model())
    answers, rewards = everything()
    loss = torch.zeros(())
    for row in range(B):
        joint = standardised([*rewards[row], 0.0], ddof=0)
        z = sum(len(answers[row, column][1]) for column in range(G + 1))
        if not normalise:
            joint, z = centred([*rewards[row], 0.0]), (G + 1) * LIMIT
        for column in range(G + 1):
            logps = token_logps(model, *answers[row, column])
            for logp in logps:
                p = logp.exp()
                ratio = p / (p + 0.1) if column == Y else p / p.detach()
                loss = loss - ratio * joint[column] / z / B
    check(model, LUFFY(normalise=normalise), loss, budget)


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


@pytest.mark.parametrize(
    ("gate", "failed", "normalise"), [(0.0, {1}, True), (0.3, {0, 1}, True), (1.0, {0, 1, 2}, True), (0.0, {1}, False)]
)
def test_hpt(gate: float, failed: set[int], normalise: bool):
    # wins of the three groups: 1 of 4, none, 2 of 4
    model = moved(tiny_model())
    answers, rewards = everything()
    mean = sum(len(answers[row, Y][1]) for row in range(B)) / B
    loss = torch.zeros(())
    for row in range(B):
        if REWARDS.index(rewards[row]) in failed:
            loss = loss - token_logps(model, *answers[row, Y]).sum() / mean / B
            continue
        advantages = standardised(rewards[row], ddof=1, epsilon=1e-4) if normalise else centred(rewards[row])
        for column in range(G):
            logps = token_logps(model, *answers[row, column])
            length = len(logps) if normalise else LIMIT
            loss = loss - advantages[column] * logps.sum() / length / G / B
    check(model, HPT(gate=gate, normalise=normalise), loss, 10_000)


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


@pytest.mark.parametrize("budget", [20, 10_000])
def test_gft(budget: int):
    model = moved(tiny_model())
    answers, rewards = everything()
    tokens = sum(len(answer) for _, answer in answers.values())
    loss, rectified = torch.zeros(()), 0
    for row in range(B):
        advantages = standardised([*rewards[row], 0.0], ddof=1, epsilon=1e-6)
        for column in range(G + 1):
            for logp in token_logps(model, *answers[row, column]):
                p = logp.detach().exp().item()
                rectified += p <= 0.03
                loss = loss - (1.0 if p > 0.03 else p) * advantages[column] * logp / tokens
    assert 0 < rectified < tokens
    check(model, GFT(threshold=0.03), loss, budget)


@pytest.mark.parametrize("budget", [20, 10_000])
def test_gac(budget: int):
    model = moved(tiny_model())
    loss = chord(model, 0.3, lambda p: float(p * (1 - p)))
    answers, rewards = everything()
    disagreement = []
    for (row, column), answer in answers.items():
        advantages = [*standardised(rewards[row], ddof=1, epsilon=1e-4), 0.0]
        p = token_logps(model, *answer).detach().exp()
        disagreement.append(sum((advantages[column] - float(x * (1 - x))) ** 2 for x in p) / len(p))
    seen = check(model, GAC().at({"mu": 0.3}), loss, budget)
    assert seen.numbers["noise/disagreement"].mean().item() == pytest.approx(sum(disagreement) / len(disagreement))


def test_the_noise_that_gac_sees():
    # NLLs 1, ..., 10: a tenth at either end is left out, and 2, ..., 9 have variance (8 * 8 - 1) / 12 = 5.25
    assert trimmed_variance(-torch.arange(1.0, 11.0), 0.1).item() == pytest.approx(5.25)
    assert trimmed_variance(torch.tensor([1.0, 3.0, 8.0]), 0.4).item() == pytest.approx(26 / 3)  # too few to leave out
    assert trimmed_variance(torch.zeros(0), 0.1).isnan()
    method, groups = GAC(), small_group()
    loglik = PerAnswer.of(torch.zeros(1, 4).double(), -2.0)
    noise = method.report(method.weigh(groups), loglik)
    assert noise["noise/samples"].mean().item() == pytest.approx(0.75, rel=1e-3)  # (n - 1) / n, for sigma has n - 1
    assert noise["noise/references"].item() == pytest.approx(0.0, abs=1e-6)
    silent = method.at({"mu": 0.0})
    assert silent.report(silent.weigh(groups), loglik)["noise/references"].isnan()


def test_the_balance_of_gac_by_hand():
    def after(method: GAC, state: dict[str, float], *noise: float) -> dict[str, float]:
        names = "noise/samples", "noise/references", "noise/disagreement"
        return method.adapt(state, Before(), [], torch.Tensor.tolist, dict(zip(names, noise, strict=True)))[0]

    # mu* = (0.5 * 0.5 + 1) / (0.5 + 0.5 + 1) = 0.625; 0.9 * 0.5 + 0.1 * 0.625 = 0.5125; half of it beside half of 0.1
    method = GAC(smoothing=0.9, every=2, cap=1.0, peak=0.1, warmup=0)
    first = after(method, method.start(), 1.0, 0.5, 0.5)
    assert first["mu"] == pytest.approx(0.5 * 0.1 + 0.5 * 0.5125)
    second = after(method, first, 9.0, 9.0, 9.0)  # no look at this step
    assert [second[name] for name in first if "noise" in name] == [1.0, 0.5, 0.5]
    third = after(method, second, 2.0, 0.5, float("nan"))  # nor where there was nothing to look at
    assert third["noise/samples"] == pytest.approx(0.9 * 1.0 + 0.1 * 2.0)
    assert third["noise/disagreement"] == 0.5
    # far below where it is: no more than the cap, and never below the floor
    assert after(GAC(), {"mu": 0.5, "step": 0}, 0.0, 1.0, 0.0)["mu"] == pytest.approx(0.49)
    assert after(GAC(floor=0.495), {"mu": 0.5, "step": 0}, 0.0, 1.0, 0.0)["mu"] == pytest.approx(0.495)


def test_grpo_is_gac_without_imitation():
    method = GAC(mu=0.0, ceiling=0.0)
    state = method.adapt(method.start(), Before(), [], torch.Tensor.tolist, {"noise/samples": 1.0})[0]
    assert state["mu"] == 0
    model = moved(tiny_model())
    learn(model, GRPO(kl=0.0))
    expected = gradients(model)
    learn(model, method.at(state))
    assert relative_gap(gradients(model), expected) < 1e-6


def small_group() -> StepGroups:
    """Rewards 1, 0, -1, -1 of samples with 3 tokens each, a reference with 5; 8 tokens are allowed."""
    rewards = torch.tensor([[1.0, 0.0, -1.0, -1.0]], dtype=torch.float64)
    lengths = PerAnswer(torch.full((1, 4), 3), torch.tensor([5]), torch.tensor([0]))
    return StepGroups(rewards, lengths, mean_reference=5.0, step=0, mean_samples=12.0, limit=8)


PLAIN = [1.25, 0.25, -0.75, -0.75]
"""Less their mean of -0.25."""
SCALED = [distance / (2.75 / 3) ** 0.5 for distance in PLAIN]
"""Divided by the deviation, with n - 1."""
JOINT = [1.2, 0.2, -0.8, -0.8, 0.2]
"""With the reference in the group the mean is -0.2."""
BY_HAND = {
    "rloo": (RLOO(kl=0.0), [1 / 4] * 4 + [0], [5 / 3, 1 / 3, -1, -1]),  # 1 - (-2 / 3), 0 - (-1 / 3), -1 - 0
    "dr-grpo": (DrGRPO(), [3 / 8 / 4] * 4 + [0], PLAIN),
    "dapo": (DAPO(), [3 / 12] * 4 + [0], SCALED),
    "gspo": (GSPO(), [1 / 4] * 4 + [0], SCALED),
    "gft": (GFT(), [3 / 17] * 4 + [5 / 17], [distance / 0.7**0.5 for distance in JOINT]),  # 2.8 / 4 = 0.7
    "gac": (GAC(), [0.5 / 4] * 4 + [0.5], [*SCALED, 1.0]),
    "luffy": (LUFFY(normalise=False), [3 / 8 / 5] * 4 + [5 / 8 / 5], JOINT),
    "hpt": (HPT(normalise=False), [distance * 3 / 8 / 4 for distance in PLAIN] + [0], None),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_weights_of_a_small_group_by_hand(name: str):
    method, weights, told = BY_HAND[name]
    weighted = method.weigh(small_group())
    (row,) = weighted.weights.rows()
    assert row == pytest.approx([*weights, 0])
    if told is not None:
        (signals,) = weighted.signals.rows()
        assert signals[: len(told)] == pytest.approx(told, rel=2e-4)  # 1e-4 is added to the deviation


def test_an_unjudged_group_teaches_nothing():
    rewards = torch.full((1, 4), torch.nan, dtype=torch.float64)
    lengths = PerAnswer(torch.full((1, 4), 3), torch.tensor([5]), torch.tensor([0]))
    groups = StepGroups(rewards, lengths, 5.0, 0, 12.0, 8)
    for method in (LUFFY(), LUFFY(normalise=False), HPT(), RLOO(), DrGRPO(), DAPO(), GSPO(), GFT()):
        assert not any(map(any, method.weigh(groups).weights.rows())), method


def test_answers_are_found_again():
    answers, _ = everything()
    assert answers_of(update_of(SRFT())).items() <= answers.items()
