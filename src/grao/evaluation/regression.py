"""Logistic regression on verdicts: Bradley-Terry ranking of models, and length-controlled win rates.

A verdict enters as 1 (win), 1/2 (tie) or 0 (loss). Verdicts on the same prompt are correlated: standard errors are
clustered by prompt (cluster-robust sandwich, with N / (N - 1)), and intervals use Student's t with N - 1 degrees of
freedom. `benchmarks/evaluation_coverage.py` measures the coverage of these intervals as the whole command prints them.

Left out: ties as a separate outcome (Rao & Kupper, Davidson), and the difficulty of prompts, which AlpacaEval's
regression learns from the answers of many models.
"""

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy.special import expit, stdtrit

from grao.evaluation.inference import critical_value
from grao.records.numbers import Estimate, Rank

REFERENCE = "reference"
"""Name of the references where they are ranked like a model."""
_ELO = 400 / math.log(10)
_STEPS, _STEEPEST = 100, 12.0
"""Limit on Newton steps; log-odds beyond which a maximum counts as infinite."""
_HALF = np.array([0.5])


def logistic(
    design: np.ndarray, outcomes: np.ndarray, prompts: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fit a logistic regression, maximising sum y log s(x b) + (1 - y) log s(-x b) with the logistic function s.

    Args:
        design: (M, K), one row per verdict.
        outcomes: (M,) between 0 and 1.
        prompts: M keys, the prompt of each verdict.

    Returns:
        Coefficients (K,) and their covariance (K, K); None if there is no finite maximum, or fewer than two prompts.
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
    """Rank models by Bradley-Terry strengths, P(a beats b) = s(strength_a - strength_b), in Elo points.

    A model that never loses or never wins has no finite strength; then every pair of models gets one additional tie.

    Args:
        comparisons: (model, other) -> R of the model's answers against the other's, one per prompt, None = missing.
            `other` may be `REFERENCE`.
        prompts: N keys, the prompt of each answer.
        confidence: nominal coverage of the intervals.

    Returns:
        The strongest first; empty if there are no verdicts, or no finite maximum even with the additional ties.
    """
    names = [name for name in dict.fromkeys(name for pair in comparisons for name in pair) if name != REFERENCE]
    rows, outcomes, keys = [], [], []
    for (model, other), values in comparisons.items():
        row = [float(name == model) - float(name == other) for name in names]
        for value, prompt in zip(values, prompts, strict=True):
            if value is not None:
                rows.append(row)
                outcomes.append((np.sign(value) + 1) / 2)
                keys.append(prompt)
    n = len(set(keys))
    if not rows:
        return []
    fitted = logistic(np.array(rows), np.array(outcomes), keys)
    if fitted is None:
        ties = [[float(name == a) - float(name == b) for name in names] for a, b in comparisons]
        design, with_ties = np.array(rows + ties), np.concatenate([outcomes, np.repeat(_HALF, len(ties))])
        fitted = logistic(design, with_ties, [*keys, *(("additional tie", pair) for pair in comparisons)])
    if fitted is None:
        return []
    strengths, covariance = fitted
    reach = float(stdtrit(max(n - 1, 1), (1 + confidence) / 2)) * np.sqrt(np.diag(covariance))
    ranks = [Rank(REFERENCE, Estimate(0.0, 0.0, 0.0, n))] if any(REFERENCE in pair for pair in comparisons) else []
    for name, value, half in zip(names, strengths.tolist(), reach.tolist(), strict=True):
        ranks.append(Rank(name, Estimate(_ELO * value, _ELO * (value - half), _ELO * (value + half), n)))
    return sorted(ranks, key=lambda rank: -rank.strength.value)


def length_controlled(
    rewards: Sequence[float | None],
    lengths: Sequence[tuple[int, int]],
    prompts: Sequence[Hashable],
    confidence: float = 0.95,
) -> Estimate | None:
    """Estimate the length-controlled win rate (ties count half), that of answers as long as the references.

    logit P(win) = a + b tanh(d / sd(d)) with d = length of the answer - length of the reference (the length term of
    AlpacaEval 2, Dubois et al. 2024); the win rate at d = 0 is s(a).

    Args:
        rewards: R of N answers; None = missing.
        lengths: N pairs of lengths of answer and reference, in any unit.
        prompts: N keys, the prompt of each answer.
        confidence: nominal coverage of the interval.

    Returns:
        None if the length differences do not vary, or there is no finite maximum (for example if all answers win).
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
    """Minimum detectable net share (wins - losses) / N of a two-sided test with this power.

    (z_{1 - alpha / 2} + z_power) sqrt(decided / N), at most 1: the variance of a net share is at most decided / N.

    Args:
        decided: share of prompts that are not ties.
        n: number of prompts.
        confidence: 1 - alpha.
        power: probability of detecting the effect.

    Returns:
        The net share, between 0 and 1.

    Example: 60 % of 300 prompts decided: 2.80 sqrt(0.6 / 300) = 0.125.
    """
    return min((critical_value(confidence) + critical_value(2 * power - 1)) * math.sqrt(decided / n), 1.0)


def corrected(share: Estimate, error: Estimate) -> Estimate:
    """Win rate corrected for a judge that flips a share e of the true verdicts: (p - e) / (1 - 2 e).

    Rogan & Gladen (American Journal of Epidemiology 107, 1978) with equal error rates on both sides. If e has an
    interval too, the squared distances of the limits due to p and to e are added (as in `share_difference`).

    Args:
        share: win rate p, ties counted half, with its interval.
        error: error rate e, below one half.

    Returns:
        The corrected win rate and its interval, both limited to 0 to 1.

    Example: 60 % with e = 10 %: (0.6 - 0.1) / 0.8 = 62.5 %.
    """

    def true(p: float, e: float) -> float:
        return min(max((p - e) / (1 - 2 * min(e, 0.499)), 0.0), 1.0)

    value = true(share.value, error.value)
    at_limits = [true(share.value, e) for e in (error.low, error.high)]
    down = math.hypot(value - true(share.low, error.value), value - min(value, *at_limits))
    up = math.hypot(true(share.high, error.value) - value, max(value, *at_limits) - value)
    return Estimate(value, max(value - down, 0.0), min(value + up, 1.0), share.n)
