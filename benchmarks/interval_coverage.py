"""Measures the coverage of `grao.evaluation`'s 95 % intervals, and how often its tests reject a true hypothesis.

    python benchmarks/interval_coverage.py [--quick] [--clusters]

Coverage is exact where all possible counts can be enumerated, and simulated with a fixed seed for the paired table at
N = 300 and 1000. `worst` is the lowest coverage over all settings of N. `ample` is the range over settings with at
least 20 expected events of each kind: N * min(p, 1 - p) for every win share p involved and, for the relative gain, also
N times the share of prompts on which exactly one of the two wins. If the baseline never wins there is no interval,
which counts as covering the truth, because nothing is claimed.

A second table, simulated, is for several runs over the same N prompts (`cluster_coverage.py`); a third shows how often
tests at 5 % reject a true hypothesis. `--clusters` prints these two only.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from cluster_coverage import (
    Truth,
    coverage,
    differences,
    holm_error,
    mcnemar_sizes,
    nets,
    seed_differences,
    seeds,
    shares,
    sign_flip_size,
)
from scipy.special import gammaln, xlogy

from grao.evaluation.inference import half_tie_share, net_share, proportion, relative_gain
from grao.records.numbers import Estimate

SHARES = (0.005, 0.01, 0.02, 0.035, 0.055, 0.08, 0.12, 0.2, 0.35, 0.5)
DRAWS = 4000
RUN_DRAWS = 2000
"""Draws for several runs and for tests; the standard error of a coverage of 95 % is then 0.5 %."""
THINNED = 3
"""Simulate every third setting only, because simulation is slow."""
SEED = 1
AMPLE = 20
"""Expected events of each kind from which a setting counts as `ample`."""


@dataclass(frozen=True)
class Setting:
    """True probabilities of the outcomes of a prompt, and the true value of the estimated quantity."""

    cells: tuple[float, ...]
    truth: float
    rarest: float
    """Probability of the rarest kind of event that the estimate depends on."""


@dataclass(frozen=True)
class Case:
    """An estimator with its settings; `interval` takes the count of every outcome."""

    name: str
    interval: Callable[..., Estimate | None]
    settings: list[Setting]
    enumerate_up_to: int


def cases(shares: list[float]) -> list[Case]:
    """Return the four estimators; outcomes: win, rest | win, loss, tie | both, only model, only baseline, neither.

    Settings with three outcomes lie on a grid, which is finer where there are no ties or no losses.
    """
    fine = [float(p) for p in np.linspace(0.005, 0.995, 1981)]
    verdicts = [(w, loss, max(1 - w - loss, 0.0)) for w, loss in product([0.0, *shares], repeat=2) if 0 < w + loss <= 1]
    verdicts += [edge for w in fine[::10] for edge in ((w, 1 - w, 0.0), (w, 0.0, 1 - w))]
    pairs = [_paired(a, b, overlap) for a, b, overlap in product(shares, shares, (0.0, 0.3, 0.8, 1.0))]
    return [
        Case("proportion", _win_share, [Setting((p, 1 - p), p, min(p, 1 - p)) for p in fine], 1000),
        Case("net_share", _net_share, [Setting(v, v[0] - v[1], _rarest(max(v[:2]))) for v in verdicts], 1000),
        Case(
            "half_tie_share",
            _half_ties,
            [Setting(v, v[0] + v[2] / 2, _rarest(max(v[:2]))) for v in verdicts],
            1000,
        ),
        Case("relative_gain", relative_gain, pairs, 100),
    ]


def exact_coverage(case: Case, settings: list[Setting], n: int) -> list[float]:
    """Return the coverage at every setting, from all possible counts of n prompts."""
    counts = np.array(list(_compositions(n, len(settings[0].cells))))
    low, high = _limits(case, counts)
    log_ways = gammaln(n + 1) - gammaln(counts + 1).sum(axis=1)
    coverages = []
    for setting in settings:
        probability = np.exp(log_ways + xlogy(counts, np.array(setting.cells)).sum(axis=1))
        coverages.append(float(probability[_covers(low, high, setting.truth)].sum()))
    return coverages


def simulated_coverage(case: Case, settings: list[Setting], n: int) -> list[float]:
    """Return the coverage at every setting, from `DRAWS` random evaluations of n prompts."""
    generator = np.random.default_rng(SEED)
    coverages = []
    for setting in settings:
        drawn, times = np.unique(generator.multinomial(n, setting.cells, DRAWS), axis=0, return_counts=True)
        low, high = _limits(case, drawn)
        coverages.append(float(times[_covers(low, high, setting.truth)].sum() / DRAWS))
    return coverages


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Coverage of the confidence intervals, and size of the tests")
    parser.add_argument("--quick", action="store_true", help="N = 20 and 50 only, fewer settings; under a minute")
    parser.add_argument("--clusters", action="store_true", help="only intervals over several runs, and tests")
    arguments = parser.parse_args()
    if not arguments.clusters:
        print_independent(arguments.quick)
    print_clustered(arguments.quick)
    print_sizes(arguments.quick)


def print_independent(quick: bool) -> None:
    """Print the coverage of the intervals of `inference.py`, with one verdict per prompt."""
    win_shares = sorted({*SHARES[:: 3 if quick else 1], *(1 - p for p in SHARES[:: 3 if quick else 1])})
    print_head(15)
    for case in cases(win_shares):
        for n in (20, 50) if quick else (20, 50, 100, 300, 1000):
            exact = n <= case.enumerate_up_to
            settings = case.settings if exact else case.settings[::THINNED]
            coverages = (exact_coverage if exact else simulated_coverage)(case, settings, n)
            where = [", ".join(f"{p:.4f}" for p in setting.cells) for setting in settings]
            rarest = [setting.rarest for setting in settings]
            print_row(f"{case.name:<15}", n, "exact" if exact else "simulated", coverages, rarest, where)


def print_clustered(quick: bool) -> None:
    """Print the coverage of the intervals of `clusters.py`, with several runs over the same prompts."""
    worlds: dict[str, Callable[[int, bool], Iterator[Truth]]] = {
        "share, prompts": shares,
        "net share, prompts": nets,
        "difference, prompts": differences,
        "share, seeds": seeds,
        "difference, seeds": seed_differences,
    }
    print_head(21)
    for name, make in worlds.items():
        for n in (20, 50) if quick else (20, 100, 300):
            truths = list(make(n, quick))[::THINNED]
            coverages = [coverage(truth, 200 if quick else RUN_DRAWS, SEED) for truth in truths]
            rarest, where = [truth.rarest for truth in truths], [truth.where for truth in truths]
            print_row(f"{name:<21}", n, "simulated", coverages, rarest, where)


def print_sizes(quick: bool) -> None:
    """Print the sizes of the tests of `inference.py`."""
    most = 600 if quick else 3000
    exact, mid_p = np.array([mcnemar_sizes(discordant) for discordant in range(1, most + 1)]).T
    for name, sizes in (("mcnemar, exact", exact), ("mcnemar, mid-p", mid_p)):
        print(
            f"{name}: size at most {sizes.max():.4f}, from 501 pairs on {sizes[500:].min():.4f}-{sizes[500:].max():.4f}"
        )
    draws = 200 if quick else RUN_DRAWS
    for n in (6, 8, 10):
        smooth, coarse = (sign_flip_size(n, draws, SEED, grain) for grain in (0.0, 0.5))
        print(f"sign_flip of {n} differences: size {smooth:.4f}, of rounded ones {coarse:.4f}", flush=True)
    drawn = sign_flip_size(30, draws // 2, SEED)
    print(f"sign_flip of 30 differences, signs drawn: size {drawn:.4f} ({draws // 2} draws)", flush=True)
    print(f"holm over 4 sign flips of 8 seeds: familywise error {holm_error(8, 4, draws, SEED):.4f}")


def print_head(width: int) -> None:
    """Print the heading of a table."""
    head = f"{'N':>5} {'settings':>8} {'how':<9} {'worst':>7} {'mean':>7}  {'ample':<15}  worst at"
    print(f"{'interval':<{width}} {head}")


def print_row(name: str, n: int, how: str, coverages: list[float], rarest: list[float], where: list[str]) -> None:
    """Print a line of a table, from the coverage at every setting."""
    worst = int(np.argmin(coverages))
    ample = [c for c, rare in zip(coverages, rarest, strict=True) if n * rare >= AMPLE - 1e-9]
    between = f"{min(ample):.4f}-{max(ample):.4f}" if ample else "none"
    numbers = f"{coverages[worst]:>7.4f} {np.mean(coverages):>7.4f}  {between:<15}"
    print(f"{name} {n:>5} {len(coverages):>8} {how:<9} {numbers}  ({where[worst]})", flush=True)


def _win_share(wins: int, rest: int) -> Estimate:
    return proportion(wins, wins + rest)


def _net_share(wins: int, losses: int, ties: int) -> Estimate:
    return net_share(wins, losses, wins + losses + ties)


def _half_ties(wins: int, losses: int, ties: int) -> Estimate:
    return half_tie_share(wins, ties, wins + losses + ties)


def _paired(a: float, b: float, overlap: float) -> Setting:
    """Return win shares a and b; `overlap` from 0 to 1 moves their joint share from its minimum to its maximum."""
    least = max(0.0, a + b - 1)
    both = least + overlap * (min(a, b) - least)
    cells = np.maximum([both, a - both, b - both, 1 - a - b + both], 0.0)
    cells /= cells.sum()
    return Setting(tuple(cells.tolist()), a / b - 1, min(_rarest(a), _rarest(b), cells[1] + cells[2]))


def _rarest(p: float) -> float:
    return min(p, 1 - p)


def _compositions(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield all ordered sums of `parts` counts that equal n."""
    if parts == 1:
        yield (n,)
        return
    for first in range(n + 1):
        for rest in _compositions(n - first, parts - 1):
            yield (first, *rest)


def _limits(case: Case, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper limits, (rows,); without an interval, minus and plus infinity."""
    estimates = [case.interval(*row) for row in counts.tolist()]
    low = np.array([-np.inf if e is None else e.low for e in estimates])
    high = np.array([np.inf if e is None else e.high for e in estimates])
    return low, high


def _covers(low: np.ndarray, high: np.ndarray, truth: float) -> np.ndarray:
    """Return whether the interval covers the truth, up to rounding, (rows,)."""
    slack = 1e-9 * (1 + abs(truth))
    return np.asarray((low <= truth + slack) & (truth - slack <= high))


if __name__ == "__main__":
    main()
