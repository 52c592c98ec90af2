"""How often do the 95 % intervals of `grao.evaluation` hold the true value, and its tests a true hypothesis?

    python benchmarks/interval_coverage.py [--quick] [--clusters]

Exact wherever all possible counts can be enumerated (probability of each count times whether its interval holds
the truth), simulated with a fixed seed for the paired table at N = 300 and 1000. `worst` is the lowest coverage
over all settings of N, `ample` the range over those with at least 20 expected events of each kind: N * min(p, 1 - p)
for every win share p in play, and for the relative gain also the prompts on which exactly one of the two wins.
Where the baseline never wins there is no interval, which counts as holding the truth: nothing is claimed.

A second table, simulated, is about several runs over the same N prompts (worlds: `cluster_coverage.py`); a third about
how often tests at 5 % reject what is true. `--clusters` prints these two only.
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
"""Of several runs, and of tests: standard error of a coverage of 95 % is 0.5 %."""
THINNED = 3
"""Only every third setting is simulated: random draws are slow, and their counts seldom repeat."""
SEED = 1
AMPLE = 20


@dataclass(frozen=True)
class Setting:
    """One truth: the probability of each outcome of a prompt, and the number to be estimated."""

    cells: tuple[float, ...]
    truth: float
    rarest: float
    """Probability of the rarest kind of event that the estimate rests on."""


@dataclass(frozen=True)
class Case:
    """An estimator with its truths; `interval` takes the counts of every outcome."""

    name: str
    interval: Callable[..., Estimate | None]
    settings: list[Setting]
    enumerate_up_to: int


def cases(shares: list[float]) -> list[Case]:
    """The four estimators. Outcomes: win, rest | win, loss, tie | both, only model, only baseline, neither.

    Truths of three outcomes lie on a grid and, closer together, on the edges without ties and without losses.
    """
    fine = [float(p) for p in np.linspace(0.005, 0.995, 1981)]
    verdicts = [(w, loss, max(1 - w - loss, 0.0)) for w, loss in product([0.0, *shares], repeat=2) if 0 < w + loss <= 1]
    verdicts += [edge for w in fine[::10] for edge in ((w, 1 - w, 0.0), (w, 0.0, 1 - w))]
    pairs = [_paired(a, b, overlap) for a, b, overlap in product(shares, shares, (0.0, 0.3, 0.8, 1.0))]
    return [
        Case("proportion", _of_win, [Setting((p, 1 - p), p, min(p, 1 - p)) for p in fine], 1000),
        Case("net_share", _of_verdicts, [Setting(v, v[0] - v[1], _rarest(max(v[:2]))) for v in verdicts], 1000),
        Case("half_tie_share", _of_ties, [Setting(v, v[0] + v[2] / 2, _rarest(max(v[:2]))) for v in verdicts], 1000),
        Case("relative_gain", relative_gain, pairs, 100),
    ]


def exact_coverage(case: Case, settings: list[Setting], n: int) -> list[float]:
    """Coverage at every setting, from all possible counts of n prompts."""
    counts = np.array(list(_compositions(n, len(settings[0].cells))))
    low, high = _limits(case, counts)
    ways = gammaln(n + 1) - gammaln(counts + 1).sum(axis=1)
    held = []
    for setting in settings:
        weight = np.exp(ways + xlogy(counts, np.array(setting.cells)).sum(axis=1))
        held.append(float(weight[_holds(low, high, setting.truth)].sum()))
    return held


def simulated_coverage(case: Case, settings: list[Setting], n: int) -> list[float]:
    """The same from `DRAWS` random evaluations of n prompts at every setting."""
    generator = np.random.default_rng(SEED)
    held = []
    for setting in settings:
        drawn, times = np.unique(generator.multinomial(n, setting.cells, DRAWS), axis=0, return_counts=True)
        low, high = _limits(case, drawn)
        held.append(float(times[_holds(low, high, setting.truth)].sum() / DRAWS))
    return held


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="Coverage of the confidence intervals, and size of the tests")
    parser.add_argument("--quick", action="store_true", help="N = 20 and 50 only, fewer settings; under a minute")
    parser.add_argument("--clusters", action="store_true", help="only intervals over several runs, and tests")
    arguments = parser.parse_args()
    if not arguments.clusters:
        print_independent(arguments.quick)
    print_clustered(arguments.quick)
    print_sizes(arguments.quick)


def print_independent(quick: bool) -> None:
    """The intervals of `inference.py`, one verdict per prompt."""
    chosen = sorted({*SHARES[:: 3 if quick else 1], *(1 - p for p in SHARES[:: 3 if quick else 1])})
    print_head(15)
    for case in cases(chosen):
        for n in (20, 50) if quick else (20, 50, 100, 300, 1000):
            exact = n <= case.enumerate_up_to
            settings = case.settings if exact else case.settings[::THINNED]
            held = (exact_coverage if exact else simulated_coverage)(case, settings, n)
            where = [", ".join(f"{p:.4f}" for p in setting.cells) for setting in settings]
            rarest = [setting.rarest for setting in settings]
            print_row(f"{case.name:<15}", n, "exact" if exact else "simulated", held, rarest, where)


def print_clustered(quick: bool) -> None:
    """The intervals of `clusters.py`, several runs over the same prompts."""
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
            held = [coverage(truth, 200 if quick else RUN_DRAWS, SEED) for truth in truths]
            rarest, where = [truth.rarest for truth in truths], [truth.where for truth in truths]
            print_row(f"{name:<21}", n, "simulated", held, rarest, where)


def print_sizes(quick: bool) -> None:
    """The tests of `inference.py`."""
    most = 600 if quick else 3000
    exact, middle = np.array([mcnemar_sizes(discordant) for discordant in range(1, most + 1)]).T
    for name, sizes in (("mcnemar, exact", exact), ("mcnemar, mid-p", middle)):
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
    """The first line of a table."""
    head = f"{'N':>5} {'settings':>8} {'how':<9} {'worst':>7} {'mean':>7}  {'ample':<15}  worst at"
    print(f"{'interval':<{width}} {head}")


def print_row(name: str, n: int, how: str, held: list[float], rarest: list[float], where: list[str]) -> None:
    """One line of a table, from the coverage at every setting."""
    worst = int(np.argmin(held))
    ample = [c for c, rare in zip(held, rarest, strict=True) if n * rare >= AMPLE - 1e-9]
    between = f"{min(ample):.4f}-{max(ample):.4f}" if ample else "none"
    print(
        f"{name} {n:>5} {len(held):>8} {how:<9} {held[worst]:>7.4f} {np.mean(held):>7.4f}  {between:<15}  "
        f"({where[worst]})",
        flush=True,
    )


def _of_win(wins: int, rest: int) -> Estimate:
    return proportion(wins, wins + rest)


def _of_verdicts(wins: int, losses: int, ties: int) -> Estimate:
    return net_share(wins, losses, wins + losses + ties)


def _of_ties(wins: int, losses: int, ties: int) -> Estimate:
    return half_tie_share(wins, ties, wins + losses + ties)


def _paired(a: float, b: float, overlap: float) -> Setting:
    """Win shares a and b whose joint share lies at `overlap` between its least and its greatest possible value."""
    least = max(0.0, a + b - 1)
    both = least + overlap * (min(a, b) - least)
    cells = np.maximum([both, a - both, b - both, 1 - a - b + both], 0.0)
    cells /= cells.sum()
    return Setting(tuple(cells.tolist()), a / b - 1, min(_rarest(a), _rarest(b), cells[1] + cells[2]))


def _rarest(p: float) -> float:
    return min(p, 1 - p)


def _compositions(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write n as an ordered sum of `parts` counts."""
    if parts == 1:
        yield (n,)
        return
    for first in range(n + 1):
        for rest in _compositions(n - first, parts - 1):
            yield (first, *rest)


def _limits(case: Case, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) lower and upper limits; without an interval, the whole line."""
    estimates = [case.interval(*row) for row in counts.tolist()]
    low = np.array([-np.inf if e is None else e.low for e in estimates])
    high = np.array([np.inf if e is None else e.high for e in estimates])
    return low, high


def _holds(low: np.ndarray, high: np.ndarray, truth: float) -> np.ndarray:
    """(rows,) whether the interval holds the truth, up to rounding."""
    slack = 1e-9 * (1 + abs(truth))
    return np.asarray((low <= truth + slack) & (truth - slack <= high))


if __name__ == "__main__":
    main()
