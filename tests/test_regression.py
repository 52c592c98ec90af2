"""Ranking and length control: against an independent implementation, constructed truths, and numbers done by hand."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from grao.evaluation.clusters import by_prompt
from grao.evaluation.inference import mcnemar, net_share, sign_flip
from grao.evaluation.metrics import evaluation_from_items
from grao.evaluation.regression import REFERENCE, corrected, detectable, length_controlled, ranking
from grao.records.numbers import Estimate
from grao.records.run import Item, RecordedAnswer

STRENGTHS = {"a": 1.0, "b": 0.2, "c": -0.5, REFERENCE: 0.0}


def verdict(rng: np.random.Generator, lead: float, ties: float = 0.0) -> float:
    return 0.0 if rng.random() < ties else 1.0 if rng.random() < 1 / (1 + math.exp(-lead)) else -1.0


def drawn(n: int, seed: int, ties: float = 0.2) -> dict[tuple[str, str], list[float | None]]:
    rng = np.random.default_rng(seed)
    pairs = list(combinations(STRENGTHS, 2))
    return {pair: [verdict(rng, STRENGTHS[pair[0]] - STRENGTHS[pair[1]], ties) for _ in range(n)] for pair in pairs}


def hunter(comparisons: dict[tuple[str, str], list[float | None]]) -> dict[str, float]:
    """Strengths in Elo by the MM algorithm (Hunter, Annals of Statistics 32, 2004): another way to the same maximum."""
    wins: Counter[str] = Counter()
    met: Counter[frozenset[str]] = Counter()
    for (first, second), values in comparisons.items():
        for value in values:
            share = (value + 1) / 2
            wins[first], wins[second] = wins[first] + share, wins[second] + 1 - share
            met[frozenset((first, second))] += 1
    worth = dict.fromkeys(wins, 1.0)
    for _ in range(5000):
        worth = {
            name: wins[name] / sum(met[frozenset((name, o))] / (worth[name] + worth[o]) for o in worth if o != name)
            for name in worth
        }
    return {name: 400 * math.log10(value / worth[REFERENCE]) for name, value in worth.items()}


def test_strengths_are_those_of_another_algorithm() -> None:
    comparisons = drawn(60, seed=0)
    found, expected = ranking(comparisons, range(60)), hunter(comparisons)
    assert {rank.name for rank in found} == set(STRENGTHS)
    for rank in found:
        assert rank.strength.value == pytest.approx(expected[rank.name], abs=1e-6)
    assert [rank.name for rank in found] == sorted(expected, key=expected.get, reverse=True)


def test_two_models_by_hand() -> None:
    # 3 wins and 1 loss are odds of 3 to 1: 400 log10 3 = 190.85 points; two ties more make 4 to 2: 120.41 points.
    (best, second) = ranking({("a", REFERENCE): [1.0, 1.0, -1.0, 1.0]}, range(4))
    assert (best.name, second.name) == ("a", REFERENCE)
    assert best.strength.value == pytest.approx(190.85, abs=0.01)
    with_ties = ranking({("a", REFERENCE): [1.0, 1.0, -1.0, 1.0, 0.0, 0.0, None]}, range(7))
    assert with_ties[0].strength.value == pytest.approx(120.41, abs=0.01)
    assert with_ties[0].strength.n == 6


def test_one_that_always_wins_has_a_finite_strength() -> None:
    (best, _) = ranking({("a", REFERENCE): [1.0] * 20}, range(20))
    assert best.name == "a"
    assert best.strength.value == pytest.approx(400 * math.log10(20.5 / 0.5))  # one tie more
    assert best.strength.low < best.strength.value < best.strength.high


def test_intervals_of_strengths_hold_the_truth() -> None:
    """All pairs of a prompt are judged, so that they hang together: a prompt that suits `a` suits it every time."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        suits = rng.normal(0, 1, 80)
        comparisons = {
            ("a", REFERENCE): [verdict(rng, shift) for shift in suits],
            ("b", REFERENCE): [verdict(rng, 0.0) for _ in suits],
            ("b", "a"): [verdict(rng, -shift) for shift in suits],
        }
        strength = {rank.name: rank.strength for rank in ranking(comparisons, range(80))}
        held += strength["a"].low <= 0 <= strength["a"].high  # all three are equal on average
    assert 0.91 <= held / 200 <= 0.99


def biased(n: int, seed: int, level: float, slope: float) -> tuple[list[float], list[tuple[int, int]]]:
    """Verdicts that follow the log-odds level + slope * tanh(d / sd), of answers that are mostly longer."""
    rng = np.random.default_rng(seed)
    gaps = rng.integers(-10, 40, n)
    leads = level + slope * np.tanh(gaps / gaps.std())
    return [verdict(rng, lead) for lead in leads], [(50 + int(gap), 50) for gap in gaps]


def test_a_constructed_length_bias_is_taken_out() -> None:
    rewards, lengths = biased(6000, seed=2, level=-0.4, slope=2.0)
    plain = sum(reward > 0 for reward in rewards) / 6000
    truth = 1 / (1 + math.exp(0.4))  # 40.1 %
    found = length_controlled(rewards, lengths, range(6000))
    assert plain > truth + 0.2  # looks like a clear win
    assert found is not None
    assert found.value == pytest.approx(truth, abs=0.03)
    assert found.low < truth < found.high
    held = 0
    for seed in range(100):
        estimate = length_controlled(*biased(150, seed, -0.4, 2.0), range(150))
        held += estimate is not None and estimate.low <= truth <= estimate.high
    assert held >= 90


def test_without_a_bias_length_control_changes_little_and_says_nothing_where_it_cannot() -> None:
    rewards, lengths = biased(4000, seed=1, level=0.5, slope=0.0)
    found = length_controlled(rewards, lengths, range(4000))
    assert found is not None
    assert found.value == pytest.approx(sum(reward > 0 for reward in rewards) / 4000, abs=0.02)
    assert length_controlled([1.0, -1.0], [(5, 5), (6, 6)], range(2)) is None
    assert length_controlled([1.0] * 9, [(i, 5) for i in range(9)], range(9)) is None  # all won


def test_a_judge_of_known_error() -> None:
    # (0.6 - 0.1) / 0.8 = 0.625, and the limits 0.5 and 0.7 likewise: 0.5 and 0.75.
    told = Estimate(0.1, 0.1, 0.1, 0)
    found = corrected(Estimate(0.6, 0.5, 0.7, 100), told)
    assert (found.value, found.low, found.high) == pytest.approx((0.625, 0.5, 0.75))
    measured = corrected(Estimate(0.6, 0.5, 0.7, 100), Estimate(0.1, 0.05, 0.2, 50))
    assert measured.low <= 0.5
    assert measured.high > 0.75
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):  # a judge that turns 20 % of the verdicts round, measured on 100 pairs
        wrong = rng.binomial(100, 0.2)
        seen = rng.binomial(200, 0.7 * 0.8 + 0.3 * 0.2)
        share, error = (_wilson(*counts) for counts in ((seen, 200), (wrong, 100)))
        estimate = corrected(share, error)
        hits += estimate.low <= 0.7 <= estimate.high
    assert hits >= 280


def _wilson(successes: int, n: int) -> Estimate:
    from grao.evaluation.inference import proportion

    return proportion(successes, n)


def test_the_least_difference_that_is_found() -> None:
    assert detectable(0.6, 300) == pytest.approx(2.8016 * math.sqrt(0.6 / 300), abs=1e-4)
    assert detectable(1.0, 2) == 1.0
    rng = np.random.default_rng(0)
    net, n = detectable(0.5, 200), 200
    chances = [(0.5 + net) / 2, (0.5 - net) / 2]
    found = 0
    for _ in range(300):
        wins, losses, _ = rng.multinomial(n, [*chances, 0.5])
        found += mcnemar([True] * wins + [False] * losses, [False] * wins + [True] * losses) <= 0.05
    assert 0.74 <= found / 300 <= 0.9


def items(verdicts: list[tuple[str, float]]) -> list[Item]:
    return [Item(prompt, "p", "r", {"m": RecordedAnswer("a", 1, False, value, [1])}) for prompt, value in verdicts]


def test_repeated_prompts_are_no_further_evidence() -> None:
    rng = np.random.default_rng(0)
    once = [(f"p{i}", verdict(rng, 0.6, 0.2)) for i in range(60)]
    single, tripled = evaluation_from_items(items(once)).models["m"], evaluation_from_items(items(once * 3)).models["m"]
    wins, losses = (sum(value == sign for _, value in once) for sign in (1, -1))
    assert single.net == net_share(wins, losses, 60)
    assert tripled.net is not None
    assert single.net is not None
    assert tripled.net.value == pytest.approx(single.net.value)
    assert tripled.net.n == 60
    assert tripled.net.high - tripled.net.low > 0.98 * (single.net.high - single.net.low)
    assert tripled.p == pytest.approx(sign_flip([3 * value for _, value in once]))
    assert tripled.ras_half_tie.value == pytest.approx((1 + single.net.value) / 2)


def test_values_by_prompt() -> None:
    table = by_prompt([1.0, 0.0, -1.0], ["a", "b", "a"])
    assert table[0].tolist() == [1.0, -1.0]
    assert table[1][0] == 0
    assert math.isnan(table[1][1])
