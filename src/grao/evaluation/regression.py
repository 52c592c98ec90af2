"""Logistic regression on verdicts: the ranking of models by Bradley and Terry, and win rates at equal length.

A verdict enters as 1 (won), 1/2 (a tie) or 0, so a tie is half of a win. Several verdicts on one prompt hang together:
standard errors come from the sums over each prompt (the cluster-robust sandwich, with N / (N - 1)), intervals from
Student's t with N - 1 degrees of freedom. Checked through the whole command by `benchmarks/evaluation_coverage.py`.

Left out: ties as an outcome of their own (Rao & Kupper, Davidson), and the prompts' difficulty, which AlpacaEval's
regression learns from the answers of many models.
"""

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy.special import expit, stdtrit

from grao.evaluation.inference import critical_value
from grao.records.numbers import Estimate, Rank

REFERENCE = "reference"
"""What the references are called where they are compared like a model."""
_ELO = 400 / math.log(10)
_STEPS, _STEEPEST = 100, 12.0
"""Newton's steps; log-odds beyond which a maximum counts as infinite."""
_HALF = np.array([0.5])


def logistic(
    design: np.ndarray, outcomes: np.ndarray, prompts: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Coefficients that maximise sum y log s(x b) + (1 - y) log s(-x b), s the logistic function, and their covariance.

    Args:
        design: (M, K), one row a verdict.
        outcomes: (M,) from 0 to 1.
        prompts: M, the prompt of each verdict.

    Returns:
        (K,) and (K, K); None where no finite coefficients are the best, or there are fewer than two prompts.
    """
    beta = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = expit(design @ beta)
        information = design.T @ (design * (chance * (1 - chance))[:, None])
        if np.linalg.matrix_rank(information, hermitian=True) < len(beta):
            return None
        step = np.linalg.solve(information, design.T @ (outcomes - chance))
        beta = beta + step
        if np.abs(beta).max() > _STEEPEST:
            return None
        if np.abs(step).max() < 1e-10:
            break
    chance = expit(design @ beta)
    bread = np.linalg.inv(design.T @ (design * (chance * (1 - chance))[:, None]))
    rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    if (n := len(rows)) < 2:
        return None
    scores = np.zeros((n, len(beta)))
    np.add.at(scores, [rows[prompt] for prompt in prompts], design * (outcomes - chance)[:, None])
    return beta, bread @ (scores.T @ scores) @ bread * n / (n - 1)


def ranking(
    comparisons: Mapping[tuple[str, str], Sequence[float | None]], prompts: Sequence[Hashable], confidence: float = 0.95
) -> list[Rank]:
    """Strengths by Bradley and Terry, P(a beats b) = s(strength_a - strength_b), of all that were compared.

    Where one never loses, or never wins, no finite strength is the best; then every pair counts one tie more.

    Args:
        comparisons: (model, other) -> R of the one's answers against the other's, one per prompt, None = missing;
            `REFERENCE` is the other in some of them.
        prompts: N, the prompt of each answer.
        confidence: nominal coverage of the intervals.

    Returns:
        The strongest first.
    """
    names = [name for name in dict.fromkeys(name for pair in comparisons for name in pair) if name != REFERENCE]
    rows, outcomes, of = [], [], []
    for (model, other), values in comparisons.items():
        row = [float(name == model) - float(name == other) for name in names]
        for value, prompt in zip(values, prompts, strict=True):
            if value is not None:
                rows.append(row)
                outcomes.append((np.sign(value) + 1) / 2)
                of.append(prompt)
    n = len(set(of))
    if not rows:
        return []
    fitted = logistic(np.array(rows), np.array(outcomes), of)
    if fitted is None:
        ties = [[float(name == a) - float(name == b) for name in names] for a, b in comparisons]
        design, seen = np.array(rows + ties), np.concatenate([outcomes, np.repeat(_HALF, len(ties))])
        fitted = logistic(design, seen, [*of, *(("one tie more", pair) for pair in comparisons)])
    if fitted is None:
        return []
    strengths, covariance = fitted
    reach = float(stdtrit(max(n - 1, 1), (1 + confidence) / 2)) * np.sqrt(np.diag(covariance))
    ranks = [Rank(REFERENCE, Estimate(0.0, 0.0, 0.0, n))] if any(REFERENCE in pair for pair in comparisons) else []
    for name, value, wide in zip(names, strengths.tolist(), reach.tolist(), strict=True):
        ranks.append(Rank(name, Estimate(_ELO * value, _ELO * (value - wide), _ELO * (value + wide), n)))
    return sorted(ranks, key=lambda rank: -rank.strength.value)


def length_controlled(
    rewards: Sequence[float | None],
    lengths: Sequence[tuple[int, int]],
    prompts: Sequence[Hashable],
    confidence: float = 0.95,
) -> Estimate | None:
    """The share of wins and half of the ties that answers as long as the references would have had.

    logit P(win) = a + b tanh(d / sd(d)) with d = the answer's length - the reference's (Dubois et al. 2024, the length
    term of AlpacaEval 2); what is left at d = 0 is s(a).

    Args:
        rewards: R of N answers, None = missing.
        lengths: of answer and reference, in any unit.
        prompts: N, the prompt of each answer.
        confidence: nominal coverage.

    Returns:
        None where lengths do not differ, or there is no finite maximum (such as where all answers win).
    """
    known = [(r, a - b, p) for r, (a, b), p in zip(rewards, lengths, prompts, strict=True) if r is not None]
    gaps = np.array([gap for _, gap, _ in known], dtype=float)
    if len(known) < 2 or np.std(gaps) == 0:
        return None
    design = np.column_stack([np.ones(len(known)), np.tanh(gaps / np.std(gaps))])
    fitted = logistic(design, np.array([(np.sign(reward) + 1) / 2 for reward, _, _ in known]), [p for _, _, p in known])
    if fitted is None:
        return None
    n = len({prompt for _, _, prompt in known})
    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * math.sqrt(fitted[1][0, 0])
    level = float(fitted[0][0])
    return Estimate(float(expit(level)), float(expit(level - reach)), float(expit(level + reach)), n)


def detectable(decided: float, n: int, confidence: float = 0.95, power: float = 0.8) -> float:
    """The least net share (wins - losses) / N that a two-sided test finds with this power.

    (z_{1 - alpha / 2} + z_power) sqrt(decided / N), at most 1: the variance of a net share is at most the share of
    decided prompts.

    Args:
        decided: share of prompts that are no tie.
        n: prompts.
        confidence: 1 - alpha.
        power: chance to find it.

    Example: 60 % of 300 prompts decided: 2.80 sqrt(0.6 / 300) = 0.125.
    """
    return min((critical_value(confidence) + critical_value(2 * power - 1)) * math.sqrt(decided / n), 1.0)


def corrected(share: Estimate, error: Estimate) -> Estimate:
    """The true share of wins (ties half) if the judge turns a share e of true verdicts round: (p - e) / (1 - 2 e).

    Rogan & Gladen (American Journal of Epidemiology 107, 1978) with equal errors on either side. Where e has an
    interval too, each side reaches as far as p and e do alone, added as squares (as in `share_difference`).

    Args:
        share: wins and half of the ties, p, with its interval.
        error: e below one half.

    Example: 60 % with e = 10 %: (0.6 - 0.1) / 0.8 = 62.5 %.
    """

    def true(p: float, e: float) -> float:
        return min(max((p - e) / (1 - 2 * min(e, 0.499)), 0.0), 1.0)

    value = true(share.value, error.value)
    others = [true(share.value, e) for e in (error.low, error.high)]
    down = math.hypot(value - true(share.low, error.value), value - min(value, *others))
    up = math.hypot(true(share.high, error.value) - value, max(value, *others) - value)
    return Estimate(value, max(value - down, 0.0), min(value + up, 1.0), share.n)
