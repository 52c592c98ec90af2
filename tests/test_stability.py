"""Spread of advantages over re-sampled groups: enumerated by hand, against a naive loop, and its invariances."""

from statistics import fmean, variance

import pytest
import torch
from stability import Stability, group_stability

from grao.core.advantages import group_advantages


def numbers(stability: Stability) -> tuple[float, ...]:
    assert stability.reliability is not None
    return stability.silent, stability.reference, stability.answer, stability.reliability


def drawn(prompts: int, answers: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (prompts, answers), generator=generator).double() * 2 - 1


def test_coin_tosses_in_pairs_by_hand() -> None:
    # G = 2, verdicts 1 or -1 alike, reference 0. A win has A = (1/3) / 0.4714 = 0.7071 beside a win and
    # 1 / 0.8165 = 1.2247 beside a loss: chance ((1.2247 - 0.7071) / 2)^2 = 0.0670. Mean 0.9659 for a win, -0.9659 for
    # a loss: 0.9330 of the answers' own. A_y is -1.4142, 0, 0 or 1.4142: standard deviation 1. No group is silent.
    seen = group_stability(drawn(60, 32 + 600), torch.zeros(60), size=2, kept=32)
    assert seen.groups == 300
    assert seen.silent == 0
    assert seen.reference == pytest.approx(1, abs=0.02)
    assert seen.answer == pytest.approx(0.0670**0.5, abs=0.01)
    assert seen.reliability == pytest.approx(0.9330, abs=0.01)


def test_spreads_against_a_naive_loop() -> None:
    pool, reference = drawn(3, 4 + 9), torch.tensor([0.0, 1.0, -1.0])
    seen = group_stability(pool, reference, size=3, kept=4)
    of_reference, of_answers, silent = [], [], []
    for row, y in zip(pool, reference, strict=True):
        groups = [row[4:7], row[7:10], row[10:13]]
        given = [group_advantages(group[None], y.double()[None]) for group in groups]
        of_reference.append(variance(float(a.reference) for a in given))
        silent += [bool(a.no_signal) for a in given]
        for kept in row[:4]:
            with_kept = [torch.cat([kept[None], group[1:]])[None] for group in groups]
            of_answers.append(
                variance(float(group_advantages(group, y.double()[None]).completions[0, 0]) for group in with_kept)
            )
    assert seen.groups == 3
    assert seen.silent == pytest.approx(fmean(silent))
    assert seen.reference == pytest.approx(fmean(of_reference) ** 0.5)
    assert seen.answer == pytest.approx(fmean(of_answers) ** 0.5)


def test_larger_groups_are_steadier() -> None:
    pool = drawn(40, 16 + 256)
    seen = [group_stability(pool, torch.zeros(40), size, kept=16) for size in (4, 8, 16, 32)]
    answers, reliabilities = [s.answer for s in seen], [numbers(s)[3] for s in seen]
    assert answers == sorted(answers, reverse=True)
    assert reliabilities == sorted(reliabilities)


def test_advantages_do_not_know_the_scale_of_rewards() -> None:
    pool, reference = drawn(5, 60), torch.zeros(5)
    assert numbers(group_stability(3 * pool + 2, reference + 2, 4)) == pytest.approx(
        numbers(group_stability(pool, reference, 4))
    )


def test_answers_that_are_all_alike_are_silent_or_perfectly_steady() -> None:
    ties = group_stability(torch.zeros(2, 40), torch.zeros(2), 4)
    assert (ties.silent, ties.reference, ties.answer, ties.reliability) == (1, 0, 0, None)
    lost = group_stability(-torch.ones(2, 40), torch.zeros(2), 4)
    assert (lost.silent, lost.reference, lost.answer, lost.reliability) == (0, 0, 0, None)


def test_scope_is_handed_on() -> None:
    pool = drawn(5, 60)
    joint, samples = (group_stability(pool, torch.zeros(5), 4, scope=scope) for scope in ("joint", "samples"))
    assert joint.silent == 0
    assert samples.answer > joint.answer


@pytest.mark.parametrize(("size", "kept"), [(1, 8), (17, 8), (4, 1)])
def test_two_groups_must_fit(size: int, kept: int) -> None:
    with pytest.raises(ValueError, match="two groups fit"):
        group_stability(drawn(2, 40), torch.zeros(2), size, kept)
