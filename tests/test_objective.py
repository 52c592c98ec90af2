import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grao.core import group_advantages, objective_terms, sequence_weights, weighted_likelihood_loss
from grao.engine.packed import plan_packed
from grao.engine.padded import plan_padded

NAN = float("nan")
VERDICTS = torch.tensor([[1.0, 0.0, -1.0, -1.0]])


@pytest.mark.parametrize(
    ("scope", "completions", "reference"),
    [
        ("samples", [0.603023, 0.120605, -0.361814, -0.361814], 0.150756),
        ("joint", [0.641427, 0.106904, -0.427618, -0.427618], 0.173720),
    ],
)
def test_the_worked_weights(scope: str, completions: list[float], reference: float):
    weights = sequence_weights(group_advantages(VERDICTS, torch.zeros(1), scope))
    torch.testing.assert_close(weights.completions, torch.tensor([completions]), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.reference, torch.tensor([reference]), atol=1e-6, rtol=0)


def test_the_worked_weights_when_all_samples_lose():
    weights = sequence_weights(group_advantages(-torch.ones(1, 4), torch.zeros(1)))
    torch.testing.assert_close(weights.completions, torch.full((1, 4), -0.2))
    torch.testing.assert_close(weights.reference, torch.tensor([1.3]))


def test_joint_scope_has_the_closed_form_of_the_reference_weight():
    advantages = group_advantages(torch.randn(50, 8), torch.randn(50))
    weights = sequence_weights(advantages, beta=0.5, lambda_=0.6, sign="signed")
    torch.testing.assert_close(weights.reference, (0.5 + 0.6 / 8) * advantages.reference)


def test_missing_samples_weigh_nothing_and_do_not_count_in_g():
    whole = sequence_weights(group_advantages(torch.tensor([[1.0, -1.0, 0.0]]), torch.zeros(1)))
    holed = sequence_weights(group_advantages(torch.tensor([[1.0, NAN, -1.0, 0.0]]), torch.zeros(1)))
    torch.testing.assert_close(holed.completions[:, [0, 2, 3]], whole.completions)
    assert holed.completions[0, 1] == 0
    torch.testing.assert_close(holed.reference, whole.reference)


def test_dropped_and_signal_free_groups_have_exactly_zero_weights():
    rewards = torch.tensor([[NAN, NAN], [0.3, 0.3], [0.3, NAN]])
    weights = sequence_weights(group_advantages(rewards, torch.tensor([0.0, 0.3, NAN])))
    assert weights.completions.tolist() == [[0.0, 0.0]] * 3
    assert weights.reference.tolist() == [0.0] * 3


def test_positive_never_pushes_the_reference_down_and_changes_nothing_else():
    advantages = group_advantages(torch.randn(200, 8), torch.randn(200))
    signed = sequence_weights(advantages, sign="signed")
    positive = sequence_weights(advantages, sign="positive")
    assert (signed.reference < 0).any()
    torch.testing.assert_close(positive.reference, signed.reference.clamp(min=0))
    torch.testing.assert_close(positive.completions, signed.completions)


def test_an_unknown_sign_policy_is_named():
    with pytest.raises(ValueError, match="sign"):
        sequence_weights(group_advantages(VERDICTS, torch.zeros(1)), sign="negative")


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(2, 9),
    st.sampled_from(["joint", "samples"]),
    st.sampled_from(["signed", "positive"]),
    st.tuples(*[st.floats(0, 2)] * 3),
)
def test_the_three_terms_add_up_to_the_weighted_likelihood(seed, size, scope, sign, coefficients):
    torch.manual_seed(seed)
    beta, lambda_, exploration = coefficients
    rewards = torch.randn(5, size).double().masked_fill(torch.rand(5, size) < 0.2, NAN)
    advantages = group_advantages(rewards, torch.zeros(5).double(), scope)
    samples, reference = torch.randn(5, size).double(), torch.randn(5).double()
    terms = objective_terms(advantages, samples, reference, beta, lambda_, exploration, sign)
    weights = sequence_weights(advantages, beta, lambda_, exploration, sign)
    expected = (weights.completions * samples).sum(dim=1) + weights.reference * reference
    torch.testing.assert_close(terms.exploration + terms.imitation + terms.regulariser, expected)


def test_the_terms_are_those_of_equation_3():
    advantages = group_advantages(VERDICTS.double(), torch.zeros(1).double())
    samples, y = torch.tensor([[-1.0, -2.0, -3.0, -4.0]]).double(), -0.5
    terms = objective_terms(advantages, samples, torch.tensor([y]).double(), beta=0.5, lambda_=0.6)
    each = list(zip(advantages.completions[0].tolist(), samples[0].tolist(), strict=True))
    a_y = advantages.reference.item()
    assert terms.exploration.item() == pytest.approx(sum(a * j for a, j in each) / 4)
    assert terms.imitation.item() == pytest.approx(sum(0.5 * a_y * y for _ in each) / 4)
    assert terms.regulariser.item() == pytest.approx(sum(0.6 * a * (j - y) for a, j in each) / 4)


def test_the_loss_divides_by_all_prompts_of_the_step():
    weights, loglik = torch.tensor([0.5, -1.0]), torch.tensor([-2.0, -3.0], requires_grad=True)
    loss = weighted_likelihood_loss(weights, loglik, prompts=4)
    assert loss.item() == pytest.approx(-(0.5 * -2.0 + -1.0 * -3.0) / 4)
    loss.backward()
    assert loglik.grad.tolist() == [-0.125, 0.25]


sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(0, 4)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(sizes, st.integers(1, 200))
def test_micro_batches_hold_everything_once_within_the_budget(drawn: list[tuple[int, int, int]], budget: int):
    groups = [group for _, _, group in drawn]
    prompts = [3 + 7 * group for group in groups]  # a group has one prompt
    answers = [answer for _, answer, _ in drawn]
    for plan, cost in (
        (plan_padded(prompts, answers, budget), lambda b: len(b) * max(prompts[i] + answers[i] for i in b)),
        (
            plan_packed(prompts, answers, groups, budget),
            lambda b: sum({groups[i]: prompts[i] for i in b}.values()) + sum(answers[i] for i in b),
        ),
    ):
        assert sorted(index for batch in plan for index in batch) == list(range(len(drawn)))
        assert all(len(batch) == 1 or cost(batch) <= budget for batch in plan)


def test_a_packed_group_stands_together_and_counts_its_prompt_once():
    plan = plan_packed([10, 5, 10, 5, 10], [1, 2, 3, 4, 5], [0, 1, 0, 1, 0], token_budget=29)
    assert plan == [[4, 2, 0, 3], [1]]  # 10 + 5 + 3 + 1, then 5 + 4; 2 more would be 30
    assert plan_packed([10] * 3, [5] * 3, [0] * 3, token_budget=20) == [[0, 1], [2]]


def test_a_budget_below_one_token_is_refused():
    for planned in (lambda: plan_padded([1], [1], 0), lambda: plan_packed([1], [1], [0], 0)):
        with pytest.raises(ValueError, match="token_budget"):
            planned()
