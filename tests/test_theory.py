"""GRAO's exact mean update: against naive loops, sampled updates and numbers by hand; what kind of field it is."""

import math
from itertools import product

import pytest
import torch
from enumeration import (
    ascend,
    asymmetry,
    cosine,
    enumerate_groups,
    grao,
    jacobian,
    mean_field,
    noisy_field,
    out_of_reach,
    random_policies,
    reinforce,
    reward_field,
    sampled_update,
    tabular,
    twist,
    update_noise,
)

BEATEN = tabular([1, 0, -1, -1], reference=1)
GRADED = tabular([0.4, 0, -0.3, -0.6], reference=1)
UNIFORM = torch.zeros(4, dtype=torch.float64)
SOMEWHERE = torch.tensor([0.3, -0.5, 1.1, 0.2], dtype=torch.float64)
ARMS = [(scope, sign) for scope in ("joint", "samples") for sign in ("signed", "positive")]
GRPO = grao("samples", beta=0.0, lambda_=0.0)


def naive_mean_update(theta, prompt, samples, weigh):
    """Every ordered group, its update by autograd, times its probability."""
    total = torch.zeros_like(theta)
    for drawn in product(range(len(prompt.rewards)), repeat=samples):
        leaf = theta.clone().requires_grad_()
        log_policy = prompt.log_policy(leaf)
        weights = weigh(prompt.rewards[list(drawn)][None])
        objective = (weights.completions[0] * log_policy[list(drawn)]).sum()
        objective = objective + weights.reference[0] * log_policy[prompt.reference]
        (update,) = torch.autograd.grad(objective, leaf)
        total += log_policy.detach()[list(drawn)].sum().exp() * update
    return total


def test_groups_are_all_there():
    groups = enumerate_groups(BEATEN, 8, grao())
    assert len(groups.counts) == math.comb(11, 3)
    assert (groups.counts.sum(dim=1) == 8).all()
    assert len({tuple(row.tolist()) for row in groups.counts}) == len(groups.counts)
    assert groups.probabilities(BEATEN.log_policy(SOMEWHERE)).sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("scope", "sign"), ARMS)
@pytest.mark.parametrize("prompt", [BEATEN, GRADED, out_of_reach([0.5, -0.5, -1], offset=-2.0)])
def test_the_mean_update_is_the_mean_over_ordered_groups(prompt, scope, sign):
    theta = SOMEWHERE[: prompt.features.shape[1]]
    expected = naive_mean_update(theta, prompt, 4, grao(scope, sign))
    assert torch.allclose(mean_field([prompt], 4, grao(scope, sign))(theta), expected, atol=1e-12)


def test_the_mean_update_by_hand():
    """Two answers, y the better one, one sample. y sampled: no signal. Otherwise A = -1, A_y = 1 (mu = -0.5 = -sigma),

    w = 1.6 * -1 and w_y = 0.5 + 0.6. At the uniform policy half of the groups, log pi(b) has gradient (-0.5, 0.5) and
    log pi(y) (0.5, -0.5): F = 0.5 * (0.8 + 0.55) = 0.675 for y.
    """
    field = mean_field([tabular([0, -1], reference=0)], 1, grao())
    assert field(UNIFORM[:2]).tolist() == pytest.approx([0.675, -0.675], abs=1e-12)


@pytest.mark.parametrize(("scope", "sign"), ARMS)
def test_sampled_updates_agree_with_the_exact_mean(scope, sign):
    weigh, steps, groups = grao(scope, sign), 200, 50
    updates = torch.stack([sampled_update(SOMEWHERE, BEATEN, 8, weigh, groups, seed) for seed in range(steps)])
    error = updates.std(dim=0) / steps**0.5
    exact = mean_field([BEATEN], 8, weigh)(SOMEWHERE)
    assert ((updates.mean(dim=0) - exact).abs() < 4 * error).all()
    assert (error < 0.1 * exact.abs().max()).all()
    noise = updates.var(dim=0).sum() * groups
    assert noise.item() == pytest.approx(update_noise(SOMEWHERE, BEATEN, 8, weigh).item(), rel=0.25)


def test_groups_drawn_among_all_groups_follow_the_same_law():
    field = noisy_field(BEATEN, 8, grao(), torch.Generator().manual_seed(0))
    drawn = field(SOMEWHERE.expand(20000, -1))
    exact = mean_field([BEATEN], 8, grao())(SOMEWHERE)
    assert ((drawn.mean(dim=0) - exact).abs() < 4 * drawn.std(dim=0) / 20000**0.5).all()
    noise = (drawn - exact).square().sum(dim=1).mean().item()
    assert noise == pytest.approx(update_noise(SOMEWHERE, BEATEN, 8, grao()).item(), rel=0.05)


def test_many_policies_at_once_are_each_alone():
    policies, field = random_policies(5, 4, seed=1), mean_field([BEATEN, GRADED], 4, grao())
    assert torch.allclose(field(policies), torch.stack([field(theta) for theta in policies]), atol=1e-14)
    assert torch.allclose(
        field(UNIFORM), torch.stack([mean_field([p], 4, grao())(UNIFORM) for p in (BEATEN, GRADED)]).mean(0)
    )


def test_control_reinforce_is_the_gradient_of_the_expected_reward():
    field = mean_field([GRADED], 8, reinforce)
    leaf = SOMEWHERE.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(GRADED.log_policy(leaf).exp() @ GRADED.rewards, leaf)
    assert torch.allclose(field(SOMEWHERE), gradient, atol=1e-12)
    assert torch.allclose(reward_field([GRADED])(SOMEWHERE), gradient, atol=1e-12)
    matrix = jacobian(field, SOMEWHERE)
    assert asymmetry(matrix) < 1e-12
    assert twist(gradient, matrix) == 0


def test_jacobian_against_differences():
    field, width = mean_field([GRADED], 8, grao()), 1e-5
    differences = [(field(SOMEWHERE + width * e) - field(SOMEWHERE - width * e)) / (2 * width) for e in torch.eye(4)]
    assert torch.allclose(jacobian(field, SOMEWHERE), torch.stack(differences, dim=1), atol=1e-8)


def test_asymmetry_and_twist_of_known_fields():
    """(-y, x, 0) turns about z: J is antisymmetric, and the curl (0, 0, 2) is at right angles to F, so twist is 0.

    With 1 along z it is a screw: |cos| of the angle between F and the curl is 1 / |F|.
    """

    def turn(theta):
        return torch.stack([-theta[1], theta[0], 0 * theta[2]])

    def screw(theta):
        return turn(theta) + torch.tensor([0.0, 0.0, 1.0])

    place = torch.tensor([0.5, 0.2, 0.3])
    assert asymmetry(jacobian(turn, place)) == pytest.approx(2)
    assert twist(turn(place), jacobian(turn, place)) == pytest.approx(0, abs=1e-7)
    height = 1 / (1 + 0.5**2 + 0.2**2) ** 0.5
    assert twist(screw(place), jacobian(screw, place)) == pytest.approx(height)


def test_grpo_has_an_objective_where_rewards_are_binary_and_grao_has_none():
    """Of two kinds of samples F = h(p) grad p + c(p) grad log pi(y), p the share of the better kind.

    With c = 0 this is the gradient of the integral of h. With c it is none, but one up to a factor: two
    functions, p and log pi(y), say all. Graded rewards leave not even that.
    """
    lost = tabular([0, 0, -1, -1], reference=1)
    grpo, full = mean_field([lost], 8, GRPO), mean_field([lost], 8, grao())
    assert asymmetry(jacobian(grpo, SOMEWHERE)) < 1e-12
    assert asymmetry(jacobian(full, SOMEWHERE)) > 0.05
    assert twist(full(SOMEWHERE), jacobian(full, SOMEWHERE)) < 1e-9
    graded = mean_field([GRADED], 8, grao())
    assert asymmetry(jacobian(graded, SOMEWHERE)) > 0.05
    assert twist(graded(SOMEWHERE), jacobian(graded, SOMEWHERE)) > 0.05


@pytest.mark.parametrize("scope", ["joint", "samples"])
def test_a_won_prompt_pushes_its_reference_down_for_ever_if_signed(scope):
    """All four samples win: A_y = -2, so w_y = -2 * (0.5 + 0.6 / 4) = -1.3 (joint), -2 * 0.5 = -1 (samples)."""
    won = torch.tensor([40.0, 0, 0, 0], dtype=torch.float64)
    force = 1.3 if scope == "joint" else 1.0
    assert mean_field([BEATEN], 4, grao(scope))(won).tolist() == pytest.approx([force, -force, 0, 0], abs=1e-9)
    assert mean_field([BEATEN], 4, grao(scope, "positive"))(won).norm().item() < 1e-9
    *_, late = ascend(won, mean_field([BEATEN], 4, grao(scope)), [1.0] * 100)
    assert BEATEN.log_policy(late)[1].item() == pytest.approx(-40 - 2 * force * 100)


@pytest.mark.parametrize(("scope", "sign"), ARMS)
def test_where_one_answer_wins_it_is_found(scope, sign):
    for prompt in (tabular([0, -1, -1, -1], reference=0), BEATEN):
        *_, theta = ascend(random_policies(8, 4, 0), mean_field([prompt], 4, grao(scope, sign)), [1.0] * 400)
        assert (prompt.log_policy(theta)[:, 0].exp() > 0.98).all()


@pytest.mark.parametrize("scope", ["joint", "samples"])
def test_signed_locks_in_the_first_answer_that_beats_the_reference(scope):
    """What is taken from y goes to the answer that the policy already gives, so a better one is never sampled again."""
    prompt = tabular([1, 0.5, 0.25, 0], reference=3)
    start = torch.tensor([0.02, 0.94, 0.02, 0.02], dtype=torch.float64).log()
    ends = {}
    for sign in ("signed", "positive"):
        *_, theta = ascend(start, mean_field([prompt], 4, grao(scope, sign)), [1.0] * 400)
        ends[sign] = (prompt.log_policy(theta).exp() @ prompt.rewards).item()
    assert ends == pytest.approx({"signed": 0.5, "positive": 1.0}, abs=0.01)


@pytest.mark.parametrize("sign", ["signed", "positive"])
def test_where_all_lose_to_what_is_out_of_reach_only_imitation_is_left(sign):
    """All samples lose by a verdict: equal weights, whose mean update is 0. w_y grad log pi(y) flattens the policy."""
    prompt = out_of_reach([-1, -1, -1])
    field = mean_field([prompt], 4, grao("joint", sign))
    theta = SOMEWHERE[:3]
    answers = prompt.log_policy(theta).exp()[:3]
    assert field(theta).tolist() == pytest.approx((1.3 * (1 / 3 - answers)).tolist(), abs=1e-4)
    *_, late = ascend(theta, field, [1.0] * 200)
    assert prompt.log_policy(late).exp()[:3].tolist() == pytest.approx([1 / 3] * 3, abs=1e-4)


def test_cosine_of_batches():
    assert cosine(torch.tensor([[1.0, 0], [1, 1]]), torch.tensor([[0.0, 1], [2, 2]])).tolist() == pytest.approx([0, 1])
