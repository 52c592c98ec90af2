"""Measures the coverage of intervals that generalize over prompts and seeds at once, and the error rate of their test.

    python benchmarks/crossed_coverage.py [--quick]

Three kinds of intervals are compared: the root of the summed squares of the half-widths over prompts and over seeds
(`grao.evaluation.clusters.over_both`), the crossed bootstrap (percentiles; prompts and runs resampled independently),
and the two-way variance (mean squares of prompts and of runs minus the residual) with Satterthwaite's degrees of
freedom. Then the size of the test at 5 %, and how often all intervals of a sweep hold at once (Bonferroni).

A run answers a prompt correctly if the sum of three normal variables, of the prompt, the run and the answer, is below a
threshold; `prompts` and `runs` are the first two's shares of the variance. Two arms share the prompts' variables.
Simulated with a fixed seed.
"""

import argparse
from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy.special import ndtri, stdtrit

from grao.evaluation.clusters import NET, SHARE, Quantity, both_test, over_both, over_prompts, over_seeds
from grao.records.numbers import Estimate

PROMPTS = 300
ARMS = ((0.02,), (0.1,), (0.2,), (0.5,), (0.05, 0.03), (0.2, 0.17), (0.5, 0.45), (0.5, 0.2), (0.02, 0.02), (0.2, 0.2))
"""The share of one arm, or of two whose difference is estimated."""
PROMPT_VARIANCES, RUN_VARIANCES, RUNS = (0.0, 0.4, 0.8), (0.0, 0.004, 0.03), (3, 5, 8)
"""At a share of 20 %, 0.004 of the variance is a standard deviation over seeds of 2 points, 0.03 one of 5 points."""
DRAWS, RESAMPLES = 200, 400
POINTS = 16
"""Comparisons in a sweep."""


def outcomes(
    rng: np.random.Generator, shares: Sequence[float], prompt_variance: float, run_variance: float, runs: int
) -> np.ndarray:
    """Return outcomes 1 and 0, or the difference of two arms, (N, R)."""
    prompt_part = np.sqrt(prompt_variance) * rng.normal(size=(PROMPTS, 1))
    arms = []
    for share in shares:
        run_part = np.sqrt(run_variance) * rng.normal(size=(1, runs))
        rest = np.sqrt(1 - prompt_variance - run_variance) * rng.normal(size=(PROMPTS, runs))
        arms.append((prompt_part + run_part + rest < ndtri(share)).astype(float))
    return arms[0] if len(arms) == 1 else arms[0] - arms[1]


def squares(values: np.ndarray, kind: Quantity, confidence: float = 0.95) -> Estimate:
    """Return the package's interval."""
    return over_both(over_prompts(values, kind, confidence), over_seeds(values, kind, confidence), kind)


def bootstrap(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the percentile interval of the crossed bootstrap."""
    n, runs = values.shape
    drawn = (rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) for size in (n, runs))
    means = np.einsum("bn,nr,br->b", next(drawn), values, next(drawn), optimize=True) / (n * runs)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def satterthwaite(values: np.ndarray) -> tuple[float, float]:
    """Return mean +- t * standard error; the variance is at least that of prompts, runs or residual alone."""
    n, runs = values.shape
    by_prompt, by_run = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    residual = values - by_prompt - by_run + values.mean()
    freedom = np.array([n - 1, runs - 1, (n - 1) * (runs - 1)])
    mean_squares = np.array([runs * by_prompt.var(ddof=1), n * by_run.var(ddof=1), (residual**2).sum() / freedom[2]])
    if not mean_squares.any():
        return float(values.mean()), float(values.mean())
    variance = max(mean_squares[0] + mean_squares[1] - mean_squares[2], mean_squares.max())
    half_width = stdtrit(variance**2 / (mean_squares**2 / freedom).sum(), 0.975) * np.sqrt(variance / (n * runs))
    return float(values.mean() - half_width), float(values.mean() + half_width)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Coverage of intervals over prompts and seeds at once")
    parser.add_argument("--quick", action="store_true", help="a fifth of the draws, a third of the settings")
    quick = parser.parse_args().quick
    draws, rng = DRAWS // (5 if quick else 1), np.random.default_rng(1)
    names = ("squares added", "crossed bootstrap", "Satterthwaite")
    print(f"Coverage at 95 %, {PROMPTS} prompts, {draws} draws per setting: lowest and mean; mean width in points\n")
    print("seeds  " + "".join(f"{name:>26}" for name in names) + "     size of the test at 5 %: mean, highest")
    worst: list[tuple[float, str]] = []
    for runs in RUNS:
        covered, width, size = [], [], []
        settings = list(product(ARMS, PROMPT_VARIANCES, RUN_VARIANCES))[:: 3 if quick else 1]
        for shares, prompt_variance, run_variance in settings:
            kind, truth = (SHARE, shares[0]) if len(shares) == 1 else (NET, shares[0] - shares[1])
            hits, widths, rejected = np.zeros(3), np.zeros(3), 0
            for _ in range(draws):
                values = outcomes(rng, shares, prompt_variance, run_variance, runs)
                estimate = squares(values, kind)
                limits = np.array([(estimate.low, estimate.high), bootstrap(values, rng), satterthwaite(values)])
                hits += (limits[:, 0] - 1e-9 <= truth) & (truth <= limits[:, 1] + 1e-9)
                widths += limits[:, 1] - limits[:, 0]
                rejected += kind is NET and both_test(values, estimate) <= 0.05
            covered.append(hits / draws)
            width.append(100 * widths / draws)
            where = f"{shares}, prompts {prompt_variance}, runs {run_variance}, {runs} seeds"
            worst.append((hits[0] / draws, where))
            size += [rejected / draws] if kind is NET and truth == 0 else []
        low, middle, wide = np.min(covered, axis=0), np.mean(covered, axis=0), np.mean(width, axis=0)
        cells = [f"{a:.1%} {b:.1%} {c:5.1f}" for a, b, c in zip(low, middle, wide, strict=True)]
        print(f"{runs:<7}" + "".join(f"{cell:>26}" for cell in cells) + f"     {np.mean(size):.1%}, {np.max(size):.1%}")
    print("\nsquares added, lowest: " + "; ".join(f"{share:.1%} at {where}" for share, where in sorted(worst)[:3]))
    print(f"\nAll {POINTS} intervals of a sweep hold at once (nominal 95 %), {draws} draws")
    for runs, run_variance in product(RUNS, RUN_VARIANCES):
        all_hold = 0
        for _ in range(draws):
            tables = [outcomes(rng, (0.2, 0.2), 0.4, run_variance, runs) for _ in range(POINTS)]
            intervals = [squares(table, NET, 1 - 0.05 / POINTS) for table in tables]
            all_hold += all(interval.low <= 0 <= interval.high for interval in intervals)
        print(f"{runs} seeds, runs {run_variance}: {all_hold / draws:.1%}")


if __name__ == "__main__":
    main()
