"""How often the intervals of `grao.evaluation.clusters` hold the truth, and how often tests reject a true hypothesis.

Imported by `interval_coverage.py`, which prints the tables. Simulated with a fixed seed, except for McNemar's test,
whose size is enumerated.

Prompts differ in how hard they are: a prompt's chance of success follows a beta distribution, the chances of a verdict
a Dirichlet distribution, so that two answers to a prompt have the told correlation. For a paired difference both arms'
chances are the same quantile of two beta distributions: what is hard for one is hard for the other. Over seeds every
run has a share of its own, normally distributed around the truth, and is measured on N prompts.
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
"""Shares of wins and losses."""
ARMS = ((0.01, 0.01), (0.02, 0.01), (0.1, 0.02), (0.2, 0.2), (0.5, 0.3), (0.9, 0.5), (0.5, 0.5))
"""Shares of successes of the first and the second arm."""
KINDS = 20_000
"""Prompts that a beta distribution is represented by, at evenly spaced quantiles."""
SPREADS = (0.0, 0.02, 0.05)
"""Standard deviation of a run's true share over seeds."""


@dataclass(frozen=True)
class Truth:
    """One world of N prompts and R runs."""

    where: str
    value: float
    """The number to be estimated."""
    rarest: float
    """Probability of the rarest kind of event that it rests on."""
    draw: Callable[[np.random.Generator], Estimate]
    """One evaluation in it, with its interval."""


def coverage(truth: Truth, draws: int, seed: int) -> float:
    """Share of evaluations whose interval holds the truth."""
    rng = np.random.default_rng(seed)
    estimates = (truth.draw(rng) for _ in range(draws))
    return sum(e.low - 1e-9 <= truth.value <= e.high + 1e-9 for e in estimates) / draws


def shares(n: int, quick: bool) -> Iterator[Truth]:
    """Worlds for the share of successes over prompts."""
    for p, correlation, runs in product(_some(SHARES, quick), _some(CORRELATIONS, quick), RUNS):
        chances = _chances(p, correlation)

        def draw(rng: np.random.Generator, chances: np.ndarray = chances, runs: int = runs) -> Estimate:
            return over_prompts(_toss(rng, chances[rng.integers(KINDS, size=n)], runs))

        truth = float(chances.mean())
        yield Truth(f"{p}, correlation {correlation}, {runs} runs", truth, truth, draw)


def nets(n: int, quick: bool) -> Iterator[Truth]:
    """Worlds for the net share of wins over prompts."""
    for (win, loss), correlation, runs in product(_some(NETS, quick), _some(CORRELATIONS, quick), RUNS):
        chances = np.array([win, loss, max(1 - win - loss, 0.0)])

        def draw(
            rng: np.random.Generator, chances: np.ndarray = chances, correlation: float = correlation, runs: int = runs
        ) -> Estimate:
            return over_prompts(_verdicts(rng, n, chances, correlation, runs), NET)

        where = f"{win} won, {loss} lost, correlation {correlation}, {runs} runs"
        yield Truth(where, win - loss, _rarest(max(win, loss)), draw)


def differences(n: int, quick: bool) -> Iterator[Truth]:
    """Worlds for the difference of two arms over prompts."""
    for (first, second), correlation, runs in product(_some(ARMS, quick), _some(CORRELATIONS, quick), RUNS):
        one, other = _chances(first, correlation), _chances(second, correlation)

        def draw(
            rng: np.random.Generator, one: np.ndarray = one, other: np.ndarray = other, runs: int = runs
        ) -> Estimate:
            kinds = rng.integers(KINDS, size=n)
            return over_prompts(difference(_toss(rng, one[kinds], runs), _toss(rng, other[kinds], runs)), NET)

        discordant = float((one * (1 - other) + other * (1 - one)).mean())
        truth, rarest = float((one - other).mean()), min(_rarest(first), _rarest(second), discordant)
        yield Truth(f"{first} - {second}, correlation {correlation}, {runs} runs", truth, rarest, draw)


def seeds(n: int, quick: bool) -> Iterator[Truth]:
    """Worlds for the share of successes over seeds."""
    for p, spread, runs in product(_some(SHARES, quick), SPREADS, SEEDS):

        def draw(rng: np.random.Generator, p: float = p, spread: float = spread, runs: int = runs) -> Estimate:
            return over_seeds(_trained(rng, p, spread, n, runs))

        if p >= 2 * spread:
            yield Truth(f"{p} +- {spread}, {runs} seeds", p, p, draw)


def seed_differences(n: int, quick: bool) -> Iterator[Truth]:
    """Worlds for the difference of two arms over seeds; both arms' answers are independent."""
    for (first, second), spread, runs in product(_some(ARMS, quick), SPREADS, SEEDS):

        def draw(
            rng: np.random.Generator,
            arms: tuple[float, float] = (first, second),
            spread: float = spread,
            runs: int = runs,
        ) -> Estimate:
            one, other = (_trained(rng, arm, spread, n, runs) for arm in arms)
            return over_seeds(difference(one, other), NET)

        rarest = min(_rarest(first), _rarest(second))
        if rarest >= 2 * spread:
            yield Truth(f"{first} - {second}, +- {spread}, {runs} seeds", first - second, rarest, draw)


def mcnemar_sizes(discordant: int) -> tuple[float, float]:
    """Size at 5 % of the exact test and of its mid-p form, given the number of discordant pairs."""
    counts = np.arange(discordant // 2 + 1)
    tail, here = 2 * binom.cdf(counts, discordant, 0.5), binom.pmf(counts, discordant, 0.5)
    exact, middle = (tail[p <= 0.05].max(initial=0.0) for p in (np.minimum(tail, 1), tail - here))
    return float(exact), float(middle)


def sign_flip_size(n: int, draws: int, seed: int, grain: float = 0.0) -> float:
    """Share of true hypotheses that `sign_flip` rejects at 5 %; heavy-tailed differences, rounded if `grain` is set."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(draws, n)) * rng.exponential(size=(draws, n))
    values = np.round(values / grain) if grain else values
    return float(np.mean([sign_flip(row.tolist()) <= 0.05 for row in values]))


def holm_error(runs: int, arms: int, draws: int, seed: int) -> float:
    """Share of studies of one method against `arms` equally good ones in which Holm rejects anything at 5 %."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for scores in rng.normal(size=(draws, arms + 1, runs)):
        ps = {str(arm): sign_flip((scores[0] - scores[arm]).tolist()) for arm in range(1, arms + 1)}
        wrong += min(holm(ps).values()) <= 0.05
    return wrong / draws


def _chances(p: float, correlation: float) -> np.ndarray:
    """(KINDS,) chances of success of prompts, from the hardest to the easiest."""
    if not correlation:
        return np.full(KINDS, p)
    spread = 1 / correlation - 1
    return np.asarray(beta.ppf((np.arange(KINDS) + 0.5) / KINDS, p * spread, (1 - p) * spread))


def _toss(rng: np.random.Generator, chances: np.ndarray, runs: int) -> np.ndarray:
    """(N, R) outcomes."""
    return (rng.random((len(chances), runs)) < chances[:, None]).astype(float)


def _trained(rng: np.random.Generator, p: float, spread: float, n: int, runs: int) -> np.ndarray:
    """(N, R) outcomes of runs whose shares differ; p is far enough from the ends for clipping not to matter."""
    own = np.clip(rng.normal(p, spread, runs), 0, 1)
    return (rng.random((n, runs)) < own).astype(float)


def _verdicts(rng: np.random.Generator, n: int, chances: np.ndarray, correlation: float, runs: int) -> np.ndarray:
    """(N, R) of 1, 0 and -1."""
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
