"""Intervals against published tables, hand-computed limits, and their coverage by exact enumeration."""

import math
from itertools import pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grao.evaluation.inference import half_tie_share, net_share, proportion, relative_gain

Z2 = 1.959963984540054**2

# Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
WILSON = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]


@pytest.mark.parametrize(("successes", "n", "low", "high"), WILSON)
def test_wilson_interval_of_published_examples(successes: int, n: int, low: float, high: float) -> None:
    estimate = proportion(successes, n)
    assert estimate.value == successes / n
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)
    assert estimate.n == n


def test_ends_of_the_range_are_exact() -> None:
    # Wilson at 0 of n: z^2 / (n + z^2) = 3.841459 / 23.841459.
    none, every = proportion(0, 20), proportion(20, 20)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(0.1611252, abs=1e-7)
    assert every.low == pytest.approx(1 - 0.1611252, abs=1e-7)


@pytest.mark.parametrize("n", [1, 10, 29, 1000])
def test_one_success_has_the_exact_one_sided_lower_limit(n: int) -> None:
    # P(at least one of n) = 1 - (1 - p)^n = 0.05, where Wilson alone would give a limit more than twice as high.
    assert proportion(1, n).low == pytest.approx(1 - 0.95 ** (1 / n), rel=1e-9)
    assert proportion(n - 1, n).high == pytest.approx(0.95 ** (1 / n), rel=1e-9)


def test_only_rare_events_leave_the_wilson_limit() -> None:
    def wilson_low(x: int, n: int) -> float:
        return (x + Z2 / 2 - math.sqrt(Z2) * math.sqrt(x * (n - x) / n + Z2 / 4)) / (n + Z2)

    assert [proportion(x, 50).low < wilson_low(x, 50) - 1e-6 for x in range(1, 7)] == [True] * 3 + [False] * 3
    assert proportion(4, 50).low == pytest.approx(wilson_low(4, 50), rel=1e-12)


def test_paired_examples_of_fagerland() -> None:
    # Fagerland, Lydersen & Laake, Statistical Analysis of Contingency Tables (2017), chapter 8, and their R package
    # contingencytables. Complete response before and after therapy (Cavo et al. 2012): 59, 6, 16, 80.
    difference, ratio = net_share(6, 16, 161), relative_gain(59, 6, 16, 80)
    assert ratio is not None
    assert [round(x, 4) for x in (difference.value, difference.low, difference.high)] == [-0.0621, -0.1240, -0.0054]
    assert [round(1 + x, 4) for x in (ratio.value, ratio.low, ratio.high)] == [0.8667, 0.7476, 0.9876]


def test_paired_example_with_rare_wins() -> None:
    # Airway reactivity (Bentur et al. 2009): 1, 1, 7, 12. Fagerland, Lydersen & Laake, Statistics in Medicine 33
    # (2014) 2850-2875: Tango -0.517 to -0.026, Tang's score interval 0.065 to 0.907.
    difference, ratio = net_share(1, 7, 21), relative_gain(1, 1, 7, 12)
    assert ratio is not None
    assert [round(x, 3) for x in (difference.low, difference.high)] == [-0.517, -0.026]
    assert round(1 + ratio.high, 3) == 0.907
    # The model wins only twice, so the lower limit is the exact one: Bin(10, s) has P(X >= 2) = 0.05.
    share = (ratio.low + 1) / (ratio.low + 2)
    assert 1 - (1 - share) ** 10 - 10 * share * (1 - share) ** 9 == pytest.approx(0.05, abs=1e-9)
    assert ratio.low + 1 < 0.065


def test_net_share_solves_tangos_equation() -> None:
    # At the limits the score statistic is exactly +-z; the constrained q maximises the likelihood over a fine grid.
    wins, losses, n = 40, 20, 160
    estimate = net_share(wins, losses, n)
    for net in (estimate.low, estimate.high):
        grid = [max(0.0, -net) + i * (1 - abs(net)) / 2 / 200_000 for i in range(1, 200_000)]
        q = max(grid, key=lambda q: wins * math.log(q + net) + losses * math.log(q) + 100 * math.log(1 - 2 * q - net))
        statistic = (wins - losses - n * net) ** 2 / (n * (2 * q + net - net * net))
        assert statistic == pytest.approx(Z2, rel=1e-4)


def test_relative_gain_solves_the_score_equation() -> None:
    # The same for the ratio: with m = 60 prompts won by anyone, the baseline's wins x maximise the likelihood of
    # both = (1 + r) x - m, only model = m - x, only baseline = m - r x; the variance is r (2m - (1 + r) x).
    both, only_model, only_baseline = 30, 18, 12
    estimate = relative_gain(both, only_model, only_baseline, 40)
    assert estimate is not None
    for r in (estimate.low + 1, estimate.high + 1):
        least, most = 60 / (1 + r), 60 / max(1, r)
        grid = [least + i * (most - least) / 200_000 for i in range(1, 200_000)]
        x = max(
            grid,
            key=lambda x: (
                both * math.log((1 + r) * x - 60) + only_model * math.log(60 - x) + only_baseline * math.log(60 - r * x)
            ),
        )
        assert (48 - r * 42) ** 2 / (r * (120 - (1 + r) * x)) == pytest.approx(Z2, rel=1e-4)


def test_all_ties_is_an_honest_interval() -> None:
    # Without wins or losses the score equation is n |d| / (1 - |d|) = z^2.
    estimate = net_share(0, 0, 100)
    assert estimate.value == 0
    assert estimate.high == pytest.approx(Z2 / (100 + Z2), rel=1e-9)
    assert estimate.low == pytest.approx(-Z2 / (100 + Z2), rel=1e-9)


def test_perfect_agreement_is_an_honest_interval() -> None:
    # Both models win on the same 50 prompts: the score equation is 50 (ratio - 1) = z^2.
    estimate = relative_gain(50, 0, 0, 50)
    assert estimate is not None
    assert estimate.value == 0
    assert estimate.high == pytest.approx(Z2 / 50, rel=1e-9)
    assert 1 / (1 + estimate.low) - 1 == pytest.approx(Z2 / 50, rel=1e-9)


def test_without_ties_the_net_share_is_the_wilson_interval() -> None:
    for wins in range(31):
        net, share = net_share(wins, 30 - wins, 30), proportion(wins, 30)
        assert (net.low, net.high) == pytest.approx((2 * share.low - 1, 2 * share.high - 1), abs=1e-9)


def test_half_tie_share_of_a_worked_example() -> None:
    # 6 wins, 139 ties, 16 losses of 161: (6 + 69.5) / 161 and (1 + the limits -0.1240 and -0.0054 above) / 2.
    estimate = half_tie_share(6, 139, 161)
    assert estimate.value == 75.5 / 161
    assert (estimate.low, estimate.high) == pytest.approx((0.4380, 0.4973), abs=5e-5)


def test_no_ratio_where_the_baseline_never_wins() -> None:
    assert relative_gain(0, 5, 0, 5) is None
    assert relative_gain(0, 0, 0, 5) is None


def test_a_model_that_never_wins_has_lost_everything_or_less() -> None:
    estimate = relative_gain(0, 0, 20, 5)
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.n) == (-1.0, -1.0, 25)
    assert -1 < estimate.high < 0


@pytest.mark.parametrize("counts", [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="counts must be"):
        proportion(*counts)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence must lie"):
        net_share(1, 2, 5, confidence)


def binomial(n: int, x: int, p: float) -> float:
    return math.comb(n, x) * p**x * (1 - p) ** (n - x)


@pytest.mark.parametrize("n", [20, 50, 100])
def test_coverage_of_proportion(n: int) -> None:
    intervals = [proportion(x, n) for x in range(n + 1)]
    for i in range(1, 200):
        p = i / 200
        covered = sum(binomial(n, x, p) for x, e in enumerate(intervals) if e.low <= p <= e.high)
        assert covered >= 0.92
        if n * min(p, 1 - p) >= 20:
            assert 0.93 <= covered <= 0.97


def test_coverage_of_net_share() -> None:
    n = 30
    intervals = {(w, x): net_share(w, x, n) for w in range(n + 1) for x in range(n + 1 - w)}
    shares = (0.005, 0.02, 0.06, 0.1, 0.3, 0.5, 0.7, 0.9, 0.94, 0.98, 0.994)
    for win, loss in product((0.0, *shares), repeat=2):
        if not 0 < win + loss <= 1:
            continue
        tie = max(1 - win - loss, 0.0)
        covered = sum(
            math.comb(n, w) * math.comb(n - w, x) * win**w * loss**x * tie ** (n - w - x)
            for (w, x), e in intervals.items()
            if e.low - 1e-12 <= win - loss <= e.high + 1e-12
        )
        assert covered >= 0.92, (win, loss)


def test_coverage_of_relative_gain() -> None:
    n = 16
    cells = [(a, b, c) for a in range(n + 1) for b in range(n + 1 - a) for c in range(n + 1 - a - b)]
    intervals = {counts: relative_gain(*counts, n - sum(counts)) for counts in cells}
    shares = (0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)
    for model, baseline, overlap in product(shares, shares, (0.1, 0.6)):
        least = max(0.0, model + baseline - 1)
        both = least + overlap * (min(model, baseline) - least)
        p, q, r = both, model - both, baseline - both
        rest = max(1 - p - q - r, 0.0)
        missed = sum(
            math.comb(n, a)
            * math.comb(n - a, b)
            * math.comb(n - a - b, c)
            * p**a
            * q**b
            * r**c
            * rest ** (n - a - b - c)
            for (a, b, c), e in intervals.items()
            if e is not None and not e.low - 1e-12 <= model / baseline - 1 <= e.high + 1e-9
        )
        assert missed <= 0.08, (model, baseline, overlap)


COUNT = st.integers(0, 400)
CONFIDENCE = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(wins=COUNT, losses=COUNT, ties=COUNT, confidence=CONFIDENCE)
def test_intervals_hold_their_value_and_stay_in_range(wins: int, losses: int, ties: int, confidence: float) -> None:
    n = max(wins + losses + ties, 1)
    net = net_share(wins, losses, n, confidence)
    assert -1 <= net.low <= net.value <= net.high <= 1
    assert net.high - net.low > 0
    for share in (proportion(wins, n, confidence), half_tie_share(wins, min(ties, n), n, confidence)):
        assert 0 <= share.low <= share.value <= share.high <= 1
        assert share.high - share.low > 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(both=COUNT, only_model=COUNT, only_baseline=COUNT, neither=COUNT, confidence=CONFIDENCE)
@example(both=1, only_model=9, only_baseline=1, neither=3, confidence=0.95)
def test_relative_gain_holds_its_value_and_inverts_when_swapped(
    both: int, only_model: int, only_baseline: int, neither: int, confidence: float
) -> None:
    if both + only_model == 0 or both + only_baseline == 0:
        return
    there = relative_gain(both, only_model, only_baseline, neither, confidence)
    back = relative_gain(both, only_baseline, only_model, neither, confidence)
    assert there is not None
    assert back is not None
    assert -1 <= there.low <= there.value <= there.high < math.inf
    assert (1 + there.low) * (1 + back.high) == pytest.approx(1, rel=1e-9)
    assert (1 + there.high) * (1 + back.low) == pytest.approx(1, rel=1e-9)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(wins=COUNT, losses=COUNT, ties=st.integers(1, 400))
def test_swapping_wins_and_losses_negates(wins: int, losses: int, ties: int) -> None:
    n = wins + losses + ties
    there, back = net_share(wins, losses, n), net_share(losses, wins, n)
    assert (there.low, there.value, there.high) == pytest.approx((-back.high, -back.value, -back.low), abs=1e-9)
    won, lost = proportion(wins, n), proportion(n - wins, n)
    assert (won.low, won.high) == pytest.approx((1 - lost.high, 1 - lost.low), abs=1e-9)


def test_limits_grow_with_wins_and_narrow_with_prompts() -> None:
    for n in (7, 40):
        for estimates in (
            [proportion(wins, n) for wins in range(n + 1)],
            [net_share(wins, 0, n) for wins in range(n + 1)],
            [net_share(wins, n - wins, n) for wins in range(n + 1)],
        ):
            for less, more in pairwise(estimates):
                assert less.low < more.low
                assert less.high < more.high
    widths = [e.high - e.low for e in (net_share(3 * k, 2 * k, 10 * k) for k in (1, 4, 16, 64))]
    assert widths == sorted(widths, reverse=True)
    assert widths[2] / widths[3] == pytest.approx(2, rel=0.02)


def test_higher_confidence_gives_wider_intervals() -> None:
    for counts in ((1, 0, 30), (2, 3, 30), (12, 5, 30)):
        narrow, wide = net_share(*counts, 0.9), net_share(*counts, 0.99)
        assert wide.low < narrow.low
        assert narrow.high < wide.high
