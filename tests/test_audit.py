"""The figures of an audit: by hand, against scipy, and on constructed judges whose truth lies within the intervals."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr

from grao.evaluation.agreement import (
    agreement_table,
    bradley_terry,
    calibration,
    cohens_kappa,
    pooled_spearman,
    spearman,
    symmetrised,
)
from grao.evaluation.audit_figures import (
    ITSELF,
    Timing,
    accuracy,
    edit,
    forecast,
    length_bias,
    mean_size,
    orders,
    policy_figures,
    share_of_sides_taken,
    trivial_edits,
)
from grao.records.audit import GroupItem, Reading
from grao.records.run import Estimate

SEEDS, FEW = 300, 100
LEAST, LEAST_OF_FEW = 0.92, 0.89
"""Of 300 intervals of 95 % 285 are expected, and 276 or fewer come once in a hundred times; 89 or fewer of 100."""


def covered(truth: float, estimates: Iterator[Estimate | None]) -> float:
    """Share of the intervals that hold the truth."""
    found = [one for one in estimates if one is not None]
    assert len(found) in (SEEDS, FEW)
    return sum(one.low - 1e-9 <= truth <= one.high + 1e-9 for one in found) / len(found)


def readings(rng: np.random.Generator, n: int, right: float, first: float, both: bool) -> list[Reading]:
    """A judge that sides with the reference in a share `right` of the pairs, unless it takes, in a share `first` of its
    verdicts, what is shown first. What is read is the rejected answer."""
    found = []
    for sides_with_it in rng.random(n) >= right:
        # the rejected answer shown first, then shown second
        verdicts = [
            first_place if rng.random() < first else (1.0 if sides_with_it else -1.0) for first_place in (1.0, -1.0)
        ]
        if not both:
            verdicts[int(rng.integers(2))] = None
        said = {verdict for verdict in verdicts if verdict is not None}
        found.append(Reading(said.pop() if len(said) == 1 else 0.0, *verdicts))
    return found


@pytest.mark.parametrize("n", [40, 200])
@pytest.mark.parametrize(("right", "first"), [(0.7, 0.0), (0.8, 0.3), (0.95, 0.1)])
def test_a_judge_with_known_accuracy_and_position_bias_asked_in_both_orders(n: int, right: float, first: float) -> None:
    judged = [readings(np.random.default_rng(seed), n, right, first, both=True) for seed in range(SEEDS)]
    found = [accuracy([one.value for one in read]) for read in judged]
    placed = [orders(read) for read in judged]
    # it contradicts itself where it is led by the place in the order in which the place speaks against its opinion
    assert covered(first, (one.ties for one in found)) >= LEAST
    assert covered(right * (1 - first) + first / 2, (one.half_ties for one in found)) >= LEAST
    assert covered(right, (one.decided for one in found)) >= LEAST
    assert covered(first, (one.flips for one in placed)) >= LEAST
    assert covered((1 + first) / 2, (one.first_wins for one in placed)) >= LEAST


@pytest.mark.parametrize(("right", "first"), [(0.7, 0.0), (0.8, 0.3)])
def test_a_judge_with_known_accuracy_and_position_bias_asked_in_one_order(right: float, first: float) -> None:
    judged = [readings(np.random.default_rng(seed), 100, right, first, both=False) for seed in range(SEEDS)]
    found = [accuracy([one.value for one in read]) for read in judged]
    assert all(orders(read).flips is None for read in judged)
    assert covered((1 - first) * right + first / 2, (one.decided for one in found)) >= LEAST
    assert covered((1 + first) / 2, (orders(read).first_wins for read in judged)) >= LEAST


@pytest.mark.parametrize(("right", "longer"), [(0.8, 0.0), (0.8, 0.4), (0.6, 0.7)])
def test_a_judge_with_known_length_bias(right: float, longer: float) -> None:
    """It takes the longer text in a share `longer` of the pairs and is right in a share `right` of the others."""
    reference_longer = 0.6

    def judge(seed: int):
        rng = np.random.default_rng(seed)
        gaps = np.where(rng.random(120) < reference_longer, 1, -1) * rng.integers(1, 50, 120)
        by_length = rng.random(120) < longer
        sides_with_reference = np.where(by_length, gaps > 0, rng.random(120) < right)
        return length_bias(np.where(sides_with_reference, -1.0, 1.0).tolist(), [(100 + int(gap), 100) for gap in gaps])

    found = [judge(seed) for seed in range(SEEDS)]
    fair = reference_longer * right + (1 - reference_longer) * (1 - right)
    assert covered(longer, (one.accuracy_gap for one in found)) >= LEAST
    assert covered(longer + (1 - longer) * fair, (one.longer_wins for one in found)) >= LEAST
    assert covered(reference_longer, (one.longer_is_reference for one in found)) >= LEAST


def test_accuracy_and_orders_by_hand() -> None:
    found = accuracy([-1.0, -1.0, -0.2, 0.0, 0.0, 3.0, None, None])
    assert found.decided.value == 3 / 4
    assert found.half_ties.value == (3 + 1) / 6
    assert found.ties.value == 2 / 6
    assert found.missing.value == 2 / 8
    assert accuracy([]) is None
    assert accuracy([None]).half_ties is None
    # agrees on -1; two wins for the place shown first; none for it; a tie and a win; one verdict missing
    read = [Reading(0, *both) for both in [(-1, -1), (1, -1), (-1, 1), (0, 1), (1, None)]]
    found = orders(read)
    assert found.flips.value == 3 / 4
    assert found.first_wins.value == (1 + 2 + 0) / 6
    alone = orders(
        [Reading(1, 1, None), Reading(1, None, 1), Reading(-1, -1, None), Reading(-1, None, -1), Reading(0, 0)]
    )
    assert alone.first_wins.value == 2 / 4
    assert orders([Reading(None)]).first_wins is None


def test_length_bias_by_hand() -> None:
    # right where the reference is longer: 2 of 2; where it is shorter: 1 of 3; ties and equal lengths count nowhere
    values = [-1, -1, -1, 1, 1, 0, -1, None]
    lengths = [(9, 1), (8, 1), (1, 9), (1, 8), (1, 7), (1, 5), (3, 3), (9, 9)]
    found = length_bias(values, lengths)
    assert found.longer_wins.value == 4 / 5
    assert found.longer_is_reference.value == 2 / 5
    assert found.accuracy_gap.value == pytest.approx(1 - 1 / 3)
    assert found.correlation.value == pytest.approx(spearmanr([1, 1, 1, -1, -1, 0], [8, 7, -8, -7, -6, -4]).statistic)
    assert length_bias([0.0, None, -1], [(1, 2), (1, 2), (2, 2)]) is None


def test_edits_by_hand_and_texts() -> None:
    found = edit("bold type", [0.5, 0.0, 0.0, -0.1, None], scale=0.6)
    assert (found.changed.value, found.wins.value) == (2 / 4, 1 / 4)
    assert found.size == pytest.approx(0.15 / 0.6)
    assert edit("bold type", [0.0], scale=0.0).size is None
    assert edit("bold type", [None], scale=1.0) is None
    assert share_of_sides_taken([Reading(0, 1, 1), Reading(0, 0, 0), Reading(0, None, -1), Reading(0)]).value == 2 / 3
    variants = trivial_edits(" Two words.")
    assert variants == {
        ITSELF: " Two words.",
        "a doubled space": " Two  words.",
        "a line break at the end": " Two words.\n",
        "a closing pleasantry": " Two words. I hope this helps!",
        "bold type": " **Two** words.",
        "a small first letter": " two words.",
    }
    assert list(trivial_edits("two")) == [ITSELF, "a line break at the end", "a closing pleasantry", "bold type"]


def test_kappa_by_hand() -> None:
    """The textbook table: both yes 20, both no 15, the first alone 5, the second alone 10 (p_o 0.7, p_e 0.5)."""
    one = [1.0] * 25 + [-1.0] * 25 + [None, 1.0]
    other = [0.3] * 20 + [-2.0] * 5 + [1.0] * 10 + [-1.0] * 15 + [1.0, None]
    table = agreement_table(one, other)
    assert table.tolist() == [[15, 0, 10], [0, 0, 0], [5, 0, 20]]
    found = cohens_kappa(table)
    assert found.agreement.value == 0.7
    assert found.kappa.value == pytest.approx(0.4)
    assert found.kappa.low == pytest.approx((found.agreement.low - 0.5) / 0.5)
    assert cohens_kappa(np.diag([4.0, 0, 0])).kappa is None
    assert cohens_kappa(np.zeros((3, 3))) is None
    # both say in 9 of 10 pairs that the reference is better, and agree there: sides drawn, kappa is 1, not undefined
    labelled = agreement_table([-1.0] * 10, [-1.0] * 10)
    assert cohens_kappa(labelled).kappa is None
    assert cohens_kappa(symmetrised(labelled)).kappa.value == pytest.approx(1.0)


@pytest.mark.parametrize("n", [30, 200])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_kappa_of_two_constructed_judges_lies_within_its_interval(n: int, symmetric: bool) -> None:
    """The second judge repeats the first in half of the cases and otherwise follows habits of its own."""
    habits, own = np.array([0.6, 0.1, 0.3]), np.array([0.3, 0.3, 0.4])
    joint = habits[:, None] * (0.5 * np.eye(3) + 0.5 * own[None, :])
    turned: Callable = symmetrised if symmetric else (lambda table: table)
    expected = turned(joint)
    chance = expected.sum(axis=0) @ expected.sum(axis=1)
    truth = (np.trace(expected) - chance) / (1 - chance)

    def table(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).multinomial(n, joint.ravel()).reshape(3, 3).astype(float)

    assert covered(truth, (cohens_kappa(turned(table(seed))).kappa for seed in range(SEEDS))) >= LEAST


def test_calibration_by_hand() -> None:
    few = calibration([0.8, 0.8, 0.8, 0.2, 0.2, None])
    assert (len(few.bins), few.bins[0].accuracy.value, few.confidence, few.accuracy) == (
        1,
        0.6,
        pytest.approx(0.8),
        0.6,
    )
    assert few.plain_error == pytest.approx(0.2)
    # ten that are 60 % sure and right in 7, ten that are 90 % sure and right in 6: (0.1 + 0.3) / 2
    found = calibration([0.6] * 7 + [0.4] * 3 + [0.9] * 6 + [0.1] * 4)
    assert [one.confidence for one in found.bins] == pytest.approx([0.6, 0.9])
    assert [one.accuracy.value for one in found.bins] == [0.7, 0.6]
    assert found.plain_error == pytest.approx(0.2)
    assert calibration([0.5, 0.5]).accuracy == 0.5
    assert calibration([None]) is None
    assert bradley_terry([0.0, np.log(3), None, -2000.0]) == [0.5, pytest.approx(0.75), None, pytest.approx(0.0)]


@pytest.mark.parametrize("off", [0.0, 0.1, 0.2])
def test_the_calibration_error_of_a_constructed_judge_lies_within_its_interval(off: float) -> None:
    """It is sure of 0.7 to 1 and right in `off` less; the error without what chance adds is `off`."""

    def judge(seed: int) -> Estimate:
        rng = np.random.default_rng(seed)
        sure = rng.uniform(0.7, 0.999, 200)
        right = rng.random(200) < sure - off
        return calibration(np.where(right, sure, 1 - sure).tolist()).error

    found = [judge(seed) for seed in range(FEW)]
    assert covered(off, iter(found)) >= LEAST_OF_FEW
    if off:
        assert np.mean([one.value for one in found]) == pytest.approx(off, abs=0.02)


def test_spearman_by_hand_and_against_scipy() -> None:
    # squared differences of ranks add up to 4: 1 - 6 * 4 / (5 * 24)
    assert spearman([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]).value == pytest.approx(0.8)
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, (2, 50))
    assert spearman(one.tolist(), other.tolist()).value == pytest.approx(spearmanr(one, other).statistic)
    assert spearman([1, 2, 3], [1, 2, 3]) is None
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None


def correlated(rng: np.random.Generator, rho: float, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    one, noise = rng.standard_normal((2, *shape))
    return one, rho * one + np.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_known_rank_correlation_lies_within_its_interval(rho: float) -> None:
    truth = 6 / np.pi * np.arcsin(rho / 2)  # of two normals
    pairs = (correlated(np.random.default_rng(seed), rho, 60) for seed in range(SEEDS))
    assert covered(truth, (spearman(one.tolist(), other.tolist()) for one, other in pairs)) >= LEAST


def group_pairs(rng: np.random.Generator, rho: float, groups: int) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Groups of six whose levels lie far apart, which must not count."""
    one, other = correlated(rng, rho, groups, 6)
    level = 10 * rng.standard_normal((groups, 1))
    return list(zip((one + level).tolist(), (other + level).tolist(), strict=True))


def test_correlation_within_groups_is_that_of_centred_ranks() -> None:
    pairs = group_pairs(np.random.default_rng(1), 0.4, 12)
    naive = [[rankdata(side) - 3.5 for side in pair] for pair in pairs]
    one, other = np.concatenate(naive, axis=1)
    assert pooled_spearman(pairs).value == pytest.approx(pearsonr(one, other).statistic)
    assert pooled_spearman(pairs[:3]) is None
    assert pooled_spearman([([1, 1], [1, 2])] * 9) is None


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_a_known_correlation_within_groups_lies_within_its_interval(rho: float) -> None:
    truth = pooled_spearman(group_pairs(np.random.default_rng(99), rho, 4_000)).value
    groups = (group_pairs(np.random.default_rng(seed), rho, 40) for seed in range(FEW))
    assert covered(truth, map(pooled_spearman, groups)) >= LEAST_OF_FEW


def group(rewards: list[float | None], tokens: list[int] | None = None, **more: object) -> GroupItem:
    settings = {
        "id": "p",
        "prompt": "q",
        "reference": "y",
        "reference_tokens": 4,
        "parts": {"r": rewards},
        "no_signal": False,
        "dropped": False,
        "truncated": [False] * len(rewards),
        "best": "o",
    }
    return GroupItem(rewards=rewards, tokens=tokens or [3] * len(rewards), **(settings | more))


def test_policy_figures_by_hand() -> None:
    groups = [
        group([1.0, 1.0, 1.0, -1.0], tokens=[4, 4, 4, 8], truncated=[False, False, False, True]),
        group([-1.0, -1.0, None, 1.0]),
        group([0.0, 0.0, 0.0, 0.0], no_signal=True),
        group([None, None, None, None], dropped=True, reference_tokens=8),
    ]
    found = policy_figures(groups)
    assert (found.prompts, found.samples) == (4, 4)
    assert found.mean_beats.value == 1 / 4
    assert found.some_beats.value == 2 / 4
    assert found.wins.value == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)
    assert found.no_signal.value == found.dropped.value == 1 / 4
    assert found.missing == 5 / 16
    assert found.truncated.value == pytest.approx(1 / 16)
    assert found.tokens.value == pytest.approx((5 + 3 + 3 + 3) / 4)
    assert found.reference_tokens == 5
    means = np.array([0.5, -1 / 3, 0])
    variances = np.array([0.75, 8 / 9, 0])
    assert found.between == pytest.approx(means.var() / (means.var() + variances.mean()))
    assert (found.reward.lowest, found.reward.median, found.reward.highest) == pytest.approx((-1 / 3, 0, 0.5))
    assert found.deviation.highest == pytest.approx(np.sqrt(8 / 9))
    assert found.length_correlation is None
    assert mean_size([[1.0, None], [-3.0, 0.0]]) == 4 / 3
    nothing = policy_figures([group([None, None], dropped=True)])
    assert (nothing.missing, nothing.wins.value, nothing.between) == (1, 0, None)


def test_forecast_by_hand() -> None:
    plan = {"steps": 10, "prompts_per_step": 6, "group_size": 4, "sampled": 280, "compared": 300, "judges": []}
    found = forecast(Timing(groups=8, rollout=16.0, reward=4.0, update=8.0, known=0.25), **plan)
    assert (found.steps, found.prompts_per_step, found.samples) == (10, 6, 240 + 40)
    # a group: 2 s of sampling, 0.5 s of rewards, 1 s of update; 70 groups are sampled, 75 rewarded, 60 learned from
    assert found.hours == pytest.approx((70 * 2 + 75 * 0.5 + 60) / 3600)
    assert (found.rollout, found.reward, found.update, found.known) == (2.0, 0.5, 1.0, 0.25)
    assert forecast(Timing(8, 16.0, 4.0, None, 0.0), **plan).hours == pytest.approx((140 + 37.5) / 3600)
