"""How often do intervals for new prompts and new trainings at once hold the truth, and how often do their tests err?

    python benchmarks/crossed_coverage.py [--quick]

Three ways to an interval stand beside each other: the squares of both other intervals' reaches added (what
`grao.evaluation.clusters.over_both` does), the crossed bootstrap (percentiles; prompts and runs drawn again
independently), and the two-way variance (mean squares of prompts and of runs less the rest) with Satterthwaite's
degrees of freedom. Then the size at 5 % of the test, and how often all intervals of a sweep hold at once (Bonferroni).

A run answers a prompt rightly where a normal number of the prompt, one of the run and one of the answer add up to
little enough: `prompts` and `runs` are the shares of their variances. Of two arms the prompts' numbers are the same.
Simulated with a fixed seed.
"""

import argparse
from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy.special import ndtri, stdtrit

from grao.evaluation.clusters import NET, SHARE, Kind, both_test, over_both, over_prompts, over_seeds
from grao.records.numbers import Estimate

PROMPTS = 300
ARMS = ((0.02,), (0.1,), (0.2,), (0.5,), (0.05, 0.03), (0.2, 0.17), (0.5, 0.45), (0.5, 0.2), (0.02, 0.02), (0.2, 0.2))
"""The share of one arm, or of two whose difference is estimated."""
OF_PROMPTS, OF_RUNS, RUNS = (0.0, 0.4, 0.8), (0.0, 0.004, 0.03), (3, 5, 8)
"""0.004 of the variance is a standard deviation over seeds of 2 points at a share of 20 %, 0.03 is 5 points."""
DRAWS, RESAMPLES = 200, 400
POINTS = 16
"""Comparisons of a sweep."""


def table(
    rng: np.random.Generator, shares: Sequence[float], of_prompts: float, of_runs: float, runs: int
) -> np.ndarray:
    """(N, R) of 1 and 0, or of the difference of two arms."""
    hard = np.sqrt(of_prompts) * rng.normal(size=(PROMPTS, 1))
    arms = []
    for share in shares:
        trained = np.sqrt(of_runs) * rng.normal(size=(1, runs))
        chance = np.sqrt(1 - of_prompts - of_runs) * rng.normal(size=(PROMPTS, runs))
        arms.append((hard + trained + chance < ndtri(share)).astype(float))
    return arms[0] if len(arms) == 1 else arms[0] - arms[1]


def squares(values: np.ndarray, kind: Kind, confidence: float = 0.95) -> Estimate:
    """What the package does."""
    return over_both(over_prompts(values, kind, confidence), over_seeds(values, kind, confidence), kind)


def bootstrap(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Percentiles of the crossed bootstrap."""
    n, runs = values.shape
    drawn = (rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) for size in (n, runs))
    means = np.einsum("bn,nr,br->b", next(drawn), values, next(drawn), optimize=True) / (n * runs)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def satterthwaite(values: np.ndarray) -> tuple[float, float]:
    """Estimate +- t * standard error, the variance being no less than that of prompts, runs or the rest alone."""
    n, runs = values.shape
    of_prompts, of_runs = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    rest = values - of_prompts - of_runs + values.mean()
    freedom = np.array([n - 1, runs - 1, (n - 1) * (runs - 1)])
    means = np.array([runs * of_prompts.var(ddof=1), n * of_runs.var(ddof=1), (rest**2).sum() / freedom[2]])
    if not means.any():
        return float(values.mean()), float(values.mean())
    variance = max(means[0] + means[1] - means[2], means.max())
    reach = stdtrit(variance**2 / (means**2 / freedom).sum(), 0.975) * np.sqrt(variance / (n * runs))
    return float(values.mean() - reach), float(values.mean() + reach)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="Coverage of intervals over prompts and seeds at once")
    parser.add_argument("--quick", action="store_true", help="a fifth of the draws, a third of the settings")
    quick = parser.parse_args().quick
    draws, rng = DRAWS // (5 if quick else 1), np.random.default_rng(1)
    names = ("squares added", "crossed bootstrap", "Satterthwaite")
    print(f"Coverage at 95 %, {PROMPTS} prompts, {draws} draws a setting: lowest and mean; mean width in points\n")
    print("seeds  " + "".join(f"{name:>26}" for name in names) + "     size of the test at 5 %: mean, highest")
    worst: list[tuple[float, str]] = []
    for runs in RUNS:
        covered, width, size = [], [], []
        for shares, of_prompts, of_runs in list(product(ARMS, OF_PROMPTS, OF_RUNS))[:: 3 if quick else 1]:
            kind, truth = (SHARE, shares[0]) if len(shares) == 1 else (NET, shares[0] - shares[1])
            held, reach, rejected = np.zeros(3), np.zeros(3), 0
            for _ in range(draws):
                values = table(rng, shares, of_prompts, of_runs, runs)
                estimate = squares(values, kind)
                ends = np.array([(estimate.low, estimate.high), bootstrap(values, rng), satterthwaite(values)])
                held += (ends[:, 0] - 1e-9 <= truth) & (truth <= ends[:, 1] + 1e-9)
                reach += ends[:, 1] - ends[:, 0]
                rejected += kind is NET and both_test(values, estimate) <= 0.05
            covered.append(held / draws)
            width.append(100 * reach / draws)
            worst.append((held[0] / draws, f"{shares}, prompts {of_prompts}, runs {of_runs}, {runs} seeds"))
            size += [rejected / draws] if kind is NET and truth == 0 else []
        low, middle, wide = np.min(covered, axis=0), np.mean(covered, axis=0), np.mean(width, axis=0)
        cells = [f"{a:.1%} {b:.1%} {c:5.1f}" for a, b, c in zip(low, middle, wide, strict=True)]
        print(f"{runs:<7}" + "".join(f"{cell:>26}" for cell in cells) + f"     {np.mean(size):.1%}, {np.max(size):.1%}")
    print("\nsquares added, lowest: " + "; ".join(f"{share:.1%} at {where}" for share, where in sorted(worst)[:3]))
    print(f"\nAll {POINTS} intervals of a sweep hold at once (nominal 95 %), {draws} draws")
    for runs, of_runs in product(RUNS, OF_RUNS):
        whole = 0
        for _ in range(draws):
            drawn = [table(rng, (0.2, 0.2), 0.4, of_runs, runs) for _ in range(POINTS)]
            at_once = [squares(each, NET, 1 - 0.05 / POINTS) for each in drawn]
            whole += all(each.low <= 0 <= each.high for each in at_once)
        print(f"{runs} seeds, runs {of_runs}: {whole / (draws):.1%}")


if __name__ == "__main__":
    main()
