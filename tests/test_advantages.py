import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grao.core import group_advantages

NAN = float("nan")
VERDICTS = torch.tensor([[1.0, 0.0, -1.0, -1.0]])


def test_the_worked_numbers_of_scope_samples():
    # mu = -0.25, sigma = sqrt((1.25^2 + 0.25^2 + 2 * 0.75^2) / 4) = 0.829156
    found = group_advantages(VERDICTS, torch.zeros(1), "samples")
    torch.testing.assert_close(found.completions, torch.tensor([[1.507557, 0.301511, -0.904534, -0.904534]]))
    torch.testing.assert_close(found.reference, torch.tensor([0.301511]))


def test_the_worked_numbers_of_scope_joint():
    # mu = -0.2, sigma = sqrt((1.2^2 + 2 * 0.2^2 + 2 * 0.8^2) / 5) = 0.748331
    found = group_advantages(VERDICTS, torch.zeros(1), "joint")
    torch.testing.assert_close(found.completions, torch.tensor([[1.603567, 0.267261, -1.069045, -1.069045]]))
    torch.testing.assert_close(found.reference, torch.tensor([0.267261]))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_when_all_samples_lose_the_reference_is_at_its_bound(size: int):
    found = group_advantages(-torch.ones(1, size), torch.zeros(1), "joint")
    torch.testing.assert_close(found.completions, torch.full((1, size), -1 / math.sqrt(size)))
    torch.testing.assert_close(found.reference, torch.tensor([math.sqrt(size)]))


@pytest.mark.parametrize(("reference", "expected"), [(0.0, 2.0), (-2.0, -2.0), (-1.0, 0.0)])
def test_scope_samples_without_spread_takes_the_bounded_limit(reference: float, expected: float):
    found = group_advantages(-torch.ones(1, 4), torch.tensor([reference]), "samples")
    assert found.completions.tolist() == [[0.0] * 4]
    assert found.reference.tolist() == [expected]


def test_scope_samples_bounds_the_reference_where_samples_hardly_differ():
    found = group_advantages(torch.tensor([[0.5, 0.5, 0.5, 0.501]]), torch.tensor([0.9]), "samples")
    assert found.reference.tolist() == [2.0]


@pytest.mark.parametrize("scope", ["joint", "samples"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6, 1e-9])
def test_equal_rewards_carry_no_signal_whatever_their_value(scope: str, value: float):
    found = group_advantages(torch.full((1, 7), value), torch.full((1,), value), scope)
    assert found.completions.tolist() == [[0.0] * 7]
    assert found.reference.tolist() == [0.0]
    assert found.no_signal.tolist() == [True]
    assert found.dropped.tolist() == [False]


@pytest.mark.parametrize("scope", ["joint", "samples"])
def test_a_missing_sample_leaves_the_group(scope: str):
    whole = group_advantages(torch.tensor([[1.0, -1.0, 0.0]]), torch.zeros(1), scope)
    holed = group_advantages(torch.tensor([[1.0, NAN, -1.0, NAN, 0.0]]), torch.zeros(1), scope)
    torch.testing.assert_close(holed.completions[:, [0, 2, 4]], whole.completions)
    assert holed.completions[0, [1, 3]].isnan().all()
    torch.testing.assert_close(holed.reference, whole.reference)


def test_groups_with_fewer_than_two_scored_members_are_dropped():
    rewards = torch.tensor([[NAN, NAN], [1.0, NAN], [1.0, NAN]])
    joint = group_advantages(rewards, torch.tensor([0.0, 0.0, NAN]), "joint")
    assert joint.dropped.tolist() == [True, False, True]
    assert joint.reference[[0, 2]].isnan().all()
    samples = group_advantages(rewards, torch.zeros(3), "samples")
    assert samples.dropped.tolist() == [True, True, True]


def test_infinite_rewards_are_missing_ones():
    found = group_advantages(torch.tensor([[math.inf, 1.0, -1.0]]), torch.zeros(1))
    other = group_advantages(torch.tensor([[NAN, 1.0, -1.0]]), torch.zeros(1))
    torch.testing.assert_close(found.completions, other.completions, equal_nan=True)


def test_wrong_shapes_and_scopes_are_named():
    with pytest.raises(ValueError, match=r"\(B, G\)"):
        group_advantages(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(B, G\)"):
        group_advantages(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="scope"):
        group_advantages(torch.zeros(3, 2), torch.zeros(3), "both")


rewards = hnp.arrays(
    "float64",
    st.tuples(st.integers(1, 4), st.integers(2, 9)),
    elements=st.one_of(
        st.just(NAN), st.sampled_from([-1.0, 0.0, 1.0]), st.integers(-1000, 1000).map(lambda tenths: tenths / 10)
    ),
)


def naive(row: list[float], reference: float, scope: str) -> tuple[list[float], float]:
    """Eq. 4 with plain Python numbers."""
    members = [value for value in row if not math.isnan(value)]
    count = len(members)
    group = members + ([reference] if scope == "joint" else [])
    if len(group) < 2:
        return [NAN] * len(row), NAN
    mean = math.fsum(group) / len(group)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in group) / len(group))
    if max(group) == min(group):
        limit = 0.0 if reference == group[0] else math.copysign(math.sqrt(count), reference - group[0])
        return [NAN if math.isnan(value) else 0.0 for value in row], limit
    bound = math.sqrt(count)
    advantages = [(value - mean) / deviation for value in [*row, reference]]
    return advantages[:-1], max(-bound, min(bound, advantages[-1]))


@settings(max_examples=150, deadline=None)
@given(rewards, st.sampled_from(["joint", "samples"]))
def test_agrees_with_a_naive_loop(values, scope: str):
    found = group_advantages(torch.tensor(values), torch.zeros(len(values), dtype=torch.float64), scope)
    for row, samples, reference in zip(values.tolist(), found.completions, found.reference, strict=True):
        expected, expected_reference = naive(row, 0.0, scope)
        torch.testing.assert_close(
            samples, torch.tensor(expected, dtype=torch.float64), equal_nan=True, rtol=1e-6, atol=1e-6
        )
        assert reference.item() == pytest.approx(expected_reference, rel=1e-6, abs=1e-6, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(rewards, st.sampled_from(["joint", "samples"]))
def test_bounds_and_sums(values, scope: str):
    found = group_advantages(torch.tensor(values), torch.zeros(len(values), dtype=torch.float64), scope)
    bound = (~torch.tensor(values).isnan()).sum(dim=1).double().sqrt()
    everyone = torch.cat([found.completions, found.reference[:, None]], dim=1).nan_to_num(0.0)
    assert (everyone.abs() <= bound[:, None] + 1e-9).all()
    normalised = everyone if scope == "joint" else everyone[:, :-1]
    torch.testing.assert_close(normalised.sum(dim=1), torch.zeros(len(values)).double(), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(rewards, st.floats(0.01, 100), st.floats(-50, 50))
def test_scale_and_offset_of_the_reward_do_not_matter(values, scale: float, offset: float):
    values = torch.tensor(values).round(decimals=2)  # well apart from rounding
    zero = torch.zeros(len(values), dtype=torch.float64)
    plain = group_advantages(values, zero)
    moved = group_advantages(values * scale + offset, zero + offset)
    torch.testing.assert_close(moved.completions, plain.completions, equal_nan=True, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(moved.reference, plain.reference, equal_nan=True, atol=1e-6, rtol=1e-6)
