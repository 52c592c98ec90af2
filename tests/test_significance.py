"""Tests of differences against published examples, naive enumeration, and their size."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from grao.evaluation.inference import DRAWS, ENUMERATED, holm, mcnemar, sign_flip


def outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


def test_mcnemar_of_published_examples() -> None:
    # Fagerland, Lydersen & Laake, BMC Medical Research Methodology 13:91 (2013): airway reactivity, 1 against 7.
    assert mcnemar(*outcomes(1, 1, 7, 12)) == pytest.approx(0.0703125)
    # Cavo et al. 2012 in Fagerland et al., Statistics in Medicine 33 (2014): 6 against 16.
    assert mcnemar(*outcomes(59, 6, 16, 80)) == pytest.approx(2 * sum(math.comb(22, k) for k in range(7)) / 2**22)


def test_mcnemar_sees_discordant_pairs_only() -> None:
    assert mcnemar(*outcomes(0, 2, 9, 0)) == mcnemar(*outcomes(50, 2, 9, 30)) == mcnemar(*outcomes(3, 9, 2, 5))
    assert mcnemar(*outcomes(5, 0, 0, 5)) == mcnemar([], []) == mcnemar(*outcomes(0, 4, 4, 0)) == 1


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [True, False])


def binomial_tail(k: int, n: int) -> float:
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


@pytest.mark.parametrize("n", [1, 5, 8, 16, 50, 93, 501, 505, 700, 1000])
def test_size_of_mcnemar(n: int) -> None:
    # The greatest count that is rejected at 5 %; all smaller ones are, on both sides.
    rejected = -1
    while mcnemar(*outcomes(0, rejected + 1, n - rejected - 1, 0)) <= 0.05:
        rejected += 1
    size = 2 * binomial_tail(rejected, n)
    assert size <= 0.05
    assert n <= 500 or size >= 0.04


def test_sign_flip_by_hand() -> None:
    assert sign_flip([1, 2, 3]) == 0.25
    assert sign_flip([1, 1, 1, -1]) == 10 / 16  # sums of four signs: +-4 once each, +-2 four times each, 0 six times
    assert sign_flip([5]) == 1
    assert sign_flip([0.0, 0.0]) == 1


@pytest.mark.parametrize("n", [2, 5, 8])
def test_sign_flip_against_a_naive_loop(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((-1, 1), repeat=n)]
    extreme = sum(value >= abs(differences.sum()) - 1e-12 for value in sums)
    assert sign_flip(differences.tolist()) == pytest.approx(extreme / 2**n)


@pytest.mark.parametrize("n", [ENUMERATED + 1, 90])
def test_drawn_signs_are_those_of_scipy(n: int) -> None:
    differences = np.random.default_rng(n).integers(-2, 4, n) / 3
    test = permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=DRAWS, batch=4096, rng=np.random.default_rng(3)
    )
    assert sign_flip(differences.tolist(), seed=3) == test.pvalue


def test_sign_flip_of_signs_is_the_exact_test_of_mcnemar() -> None:
    # Differences of +-1 and 0 are pairs of yes and no: flipping them is tossing coins for the discordant ones.
    assert sign_flip([1] * 9 + [-1] * 2 + [0] * 4) == pytest.approx(mcnemar(*outcomes(1, 9, 2, 3)))


def test_sign_flip_knows_neither_order_nor_sign_nor_scale() -> None:
    differences = [0.3, -0.1, 0.25, 0.4, 0.05]
    p = sign_flip(differences)
    assert sign_flip(differences[::-1]) == p
    assert sign_flip([-d for d in differences]) == p
    assert sign_flip([7 * d for d in differences]) == p


def test_drawn_signs_agree_with_enumerated_ones_and_are_never_zero() -> None:
    differences = [1.0] * 40 + [-1.0] * 22
    assert sign_flip(differences) == pytest.approx(mcnemar(*outcomes(0, 40, 22, 0)), abs=0.005)
    assert sign_flip(differences) == sign_flip(differences)
    assert sign_flip(differences) != sign_flip(differences, seed=1)
    assert 0 < sign_flip([1.0] * 100) < 0.001


@pytest.mark.parametrize("n", [ENUMERATED, ENUMERATED + 1])
def test_the_least_p_value(n: int) -> None:
    assert sign_flip([0.1] * n) == pytest.approx(2 / 2**n, abs=3e-4)
    assert sign_flip([0.1] * n) > 0


def test_size_of_sign_flip() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(1500, 8)) * rng.exponential(size=(1500, 8))
    rejected = np.mean([sign_flip(row.tolist()) <= 0.05 for row in draws])
    assert 0.03 <= rejected <= 0.06  # exactly 12 / 256 = 4.7 % of all; three standard errors are 1.6 %


@pytest.mark.parametrize("differences", [[], [math.nan, 1.0], [math.inf]])
def test_sign_flip_needs_finite_differences(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="finite difference"):
        sign_flip(differences)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 are 0.04, 0.06, 0.06, 0.04: the last may not fall below 0.06.
    adjusted = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert adjusted == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06})


def test_holm_stays_a_probability() -> None:
    assert holm({"one": 0.5, "two": 0.9}) == {"one": 1.0, "two": 1.0}
    assert holm({"only": 0.03}) == {"only": 0.03}
    assert holm({}) == {}


def test_holm_lies_between_the_raw_values_and_bonferroni() -> None:
    ps = dict(enumerate(np.random.default_rng(3).random(12).tolist()))
    adjusted = holm({str(k): p for k, p in ps.items()})
    for k, p in ps.items():
        assert p <= adjusted[str(k)] <= min(1, 12 * p)
    order = sorted(ps, key=ps.__getitem__)
    assert [adjusted[str(k)] for k in order] == sorted(adjusted.values())


def test_holm_keeps_the_familywise_error() -> None:
    # Four baselines against one method, so all four differences share its noise.
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(600):
        scores = rng.normal(size=(5, 8))
        ps = {str(k): sign_flip((scores[0] - scores[k]).tolist()) for k in range(1, 5)}
        wrong += min(holm(ps).values()) <= 0.05
    assert wrong / 600 <= 0.06


@pytest.mark.parametrize("p", [-0.1, 1.5, math.nan])
def test_holm_takes_probabilities(p: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        holm({"a": 0.5, "b": p})
