"""Coverage of the intervals of `grao.evaluation.clusters`, and how often tests reject a true hypothesis.

`python benchmarks/interval_coverage.py` prints the tables. Simulated with a fixed seed, except for McNemar's test,
whose size is enumerated.

Prompts differ in difficulty: a prompt's success probability follows a beta distribution, its verdict probabilities a
Dirichlet distribution, so that two answers to a prompt have the given correlation. For a paired difference, both arms'
probabilities are the same quantile of two beta distributions: what is hard for one is hard for the other. Over seeds,
every run has its own true share, normally distributed around the truth, and is measured on N prompts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import beta, binom

from grao.evaluation.clusters import NET, difference, over_prompts, over_seeds
from grao.evaluation.inference import holm, sign_flip
from grao.records.numbers import Estimate

SHARES = (0.005, 0.01, 0.02, 0.055, 0.12, 0.2, 0.35, 0.5)
CORRELATIONS = (0.0, 0.1, 0.3, 0.6, 0.95)
RUNS = (3, 8)
SEEDS = (2, 3, 5, 8)
NETS = ((0.01, 0.0), (0.01, 0.01), (0.05, 0.01), (0.2, 0.05), (0.3, 0.3), (0.6, 0.2), (0.5, 0.5), (0.95, 0.0))
"""True shares of wins and losses."""
ARMS = ((0.01, 0.01), (0.02, 0.01), (0.1, 0.02), (0.2, 0.2), (0.5, 0.3), (0.9, 0.5), (0.5, 0.5))
"""True success shares of the first and the second arm."""
QUANTILES = 20_000
"""Evenly spaced quantiles that represent a beta distribution."""
SPREADS = (0.0, 0.02, 0.05)
"""Standard deviation of a run's true share over seeds."""


@dataclass(frozen=True)
class Truth:
    """A simulated world of N prompts and R runs."""

    where: str
    value: float
    """The true value of the estimated quantity."""
    rarest: float
    """Probability of the rarest kind of event that the estimate depends on."""
    draw: Callable[[np.random.Generator], Estimate]
    """Function that simulates an evaluation and returns its estimate with interval."""


def coverage(truth: Truth, draws: int, seed: int) -> float:
    """Return the share of evaluations whose interval covers the truth."""
    rng = np.random.default_rng(seed)
    estimates = (truth.draw(rng) for _ in range(draws))
    return sum(e.low - 1e-9 <= truth.value <= e.high + 1e-9 for e in estimates) / draws


def shares(n: int, quick: bool) -> Iterator[Truth]:
    """Yield worlds for the success share over prompts."""
    for p, correlation, runs in product(_some(SHARES, quick), _some(CORRELATIONS, quick), RUNS):
        chances = _chances(p, correlation)

        def draw(rng: np.random.Generator, chances: np.ndarray = chances, runs: int = runs) -> Estimate:
            return over_prompts(_toss(rng, chances[rng.integers(QUANTILES, size=n)], runs))

        truth = float(chances.mean())
        yield Truth(f"{p}, correlation {correlation}, {runs} runs", truth, truth, draw)


def nets(n: int, quick: bool) -> Iterator[Truth]:
    """Yield worlds for the net share of wins over prompts."""
    for (win, loss), correlation, runs in product(_some(NETS, quick), _some(CORRELATIONS, quick), RUNS):
        chances = np.array([win, loss, max(1 - win - loss, 0.0)])

        def draw(
            rng: np.random.Generator, chances: np.ndarray = chances, correlation: float = correlation, runs: int = runs
        ) -> Estimate:
            return over_prompts(_verdicts(rng, n, chances, correlation, runs), NET)

        where = f"{win} won, {loss} lost, correlation {correlation}, {runs} runs"
        yield Truth(where, win - loss, _rarest(max(win, loss)), draw)


def differences(n: int, quick: bool) -> Iterator[Truth]:
    """Yield worlds for the difference of two arms over prompts."""
    for (first, second), correlation, runs in product(_some(ARMS, quick), _some(CORRELATIONS, quick), RUNS):
        a, b = _chances(first, correlation), _chances(second, correlation)

        def draw(rng: np.random.Generator, a: np.ndarray = a, b: np.ndarray = b, runs: int = runs) -> Estimate:
            prompts = rng.integers(QUANTILES, size=n)
            return over_prompts(difference(_toss(rng, a[prompts], runs), _toss(rng, b[prompts], runs)), NET)

        discordant = float((a * (1 - b) + b * (1 - a)).mean())
        truth, rarest = float((a - b).mean()), min(_rarest(first), _rarest(second), discordant)
        yield Truth(f"{first} - {second}, correlation {correlation}, {runs} runs", truth, rarest, draw)


def seeds(n: int, quick: bool) -> Iterator[Truth]:
    """Yield worlds for the success share over seeds."""
    for p, spread, runs in product(_some(SHARES, quick), SPREADS, SEEDS):

        def draw(rng: np.random.Generator, p: float = p, spread: float = spread, runs: int = runs) -> Estimate:
            return over_seeds(_trained(rng, p, spread, n, runs))

        if p >= 2 * spread:
            yield Truth(f"{p} +- {spread}, {runs} seeds", p, p, draw)


def seed_differences(n: int, quick: bool) -> Iterator[Truth]:
    """Yield worlds for the difference of two arms over seeds; both arms' answers are independent."""
    for (first, second), spread, runs in product(_some(ARMS, quick), SPREADS, SEEDS):

        def draw(
            rng: np.random.Generator,
            arms: tuple[float, float] = (first, second),
            spread: float = spread,
            runs: int = runs,
        ) -> Estimate:
            a, b = (_trained(rng, arm, spread, n, runs) for arm in arms)
            return over_seeds(difference(a, b), NET)

        rarest = min(_rarest(first), _rarest(second))
        if rarest >= 2 * spread:
            yield Truth(f"{first} - {second}, +- {spread}, {runs} seeds", first - second, rarest, draw)


def mcnemar_sizes(discordant: int) -> tuple[float, float]:
    """Return the size at 5 % of the exact test and of its mid-p form, given the number of discordant pairs."""
    counts = np.arange(discordant // 2 + 1)
    tail, point = 2 * binom.cdf(counts, discordant, 0.5), binom.pmf(counts, discordant, 0.5)
    exact, mid_p = (tail[p <= 0.05].max(initial=0.0) for p in (np.minimum(tail, 1), tail - point))
    return float(exact), float(mid_p)


def sign_flip_size(n: int, draws: int, seed: int, grain: float = 0.0) -> float:
    """Return the share of true hypotheses that `sign_flip` rejects at 5 %: heavy-tailed, rounded to `grain` if set."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(draws, n)) * rng.exponential(size=(draws, n))
    values = np.round(values / grain) if grain else values
    return float(np.mean([sign_flip(row.tolist()) <= 0.05 for row in values]))


def holm_error(runs: int, arms: int, draws: int, seed: int) -> float:
    """Return the share of studies, one method against `arms` equally good ones, in which Holm rejects any at 5 %."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for scores in rng.normal(size=(draws, arms + 1, runs)):
        ps = {str(arm): sign_flip((scores[0] - scores[arm]).tolist()) for arm in range(1, arms + 1)}
        wrong += min(holm(ps).values()) <= 0.05
    return wrong / draws


def _chances(p: float, correlation: float) -> np.ndarray:
    """Return success probabilities from the hardest prompt to the easiest, (QUANTILES,)."""
    if not correlation:
        return np.full(QUANTILES, p)
    spread = 1 / correlation - 1
    return np.asarray(beta.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, p * spread, (1 - p) * spread))


def _toss(rng: np.random.Generator, chances: np.ndarray, runs: int) -> np.ndarray:
    """Return outcomes 0 and 1, (N, R)."""
    return (rng.random((len(chances), runs)) < chances[:, None]).astype(float)


def _trained(rng: np.random.Generator, p: float, spread: float, n: int, runs: int) -> np.ndarray:
    """Return outcomes of runs whose shares differ, (N, R); p is so far from 0 and 1 that clipping hardly matters."""
    own = np.clip(rng.normal(p, spread, runs), 0, 1)
    return (rng.random((n, runs)) < own).astype(float)


def _verdicts(rng: np.random.Generator, n: int, chances: np.ndarray, correlation: float, runs: int) -> np.ndarray:
    """Return verdicts 1, 0 and -1, (N, R)."""
    possible = chances > 0
    own = np.zeros((n, 3))
    if correlation:
        own[:, possible] = rng.dirichlet(chances[possible] * (1 / correlation - 1), n)
    else:
        own[:] = chances
    draws = rng.random((n, runs))
    won, lost = draws < own[:, :1], draws >= 1 - own[:, 1:2]
    return won.astype(float) - (lost & ~won)


def _rarest(p: float) -> float:
    return min(p, 1 - p)


def _some(values: tuple, quick: bool) -> tuple:
    return values[::3] if quick else values
