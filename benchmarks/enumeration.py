"""GRAO's mean update on problems small enough to enumerate: no sampling error, no network. `theory.py` prints tables.

A prompt has K answers of one token each, and the policy is a softmax of linear scores. What a group of G samples does
depends only on how often each answer stands in it, so the C(G + K - 1, K - 1) vectors of counts are all groups that
there are, and the mean update of eq. 3 is a finite sum, exact in float64:

    F(theta) = sum_n P_theta(n) * sum_k W(n)_k * grad log pi_theta(k)

The weights W(n) come from `grao.core`, the code that trains. What one wants to know of F: is it a gradient
(`asymmetry`), is it one up to a factor (`twist`), does it point where E[R] rises (`cosine`), and where does it lead
(`ascend`).

Left out: answers of several tokens, sampling temperatures other than 1, Adam, and several updates per group.
Axes: K answers, D parameters, N groups, G samples per group; `...` is any number of policies side by side.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

from grao.core import SequenceWeights, group_advantages, sequence_weights, weighted_likelihood_loss
from grao.core.advantages import Scope
from grao.core.objective import Sign

Weigh = Callable[[Tensor], SequenceWeights]
"""R(o, y) of groups, (N, G), relative to a reference of reward 0 -> what each log-likelihood is multiplied with."""
Field = Callable[[Tensor], Tensor]
"""theta (..., D) -> the direction in which it is moved (upwards), (..., D)."""


@dataclass(frozen=True)
class Prompt:
    """K answers, what they are worth and how the parameters score them: pi(k) ~ exp(phi_k . theta + offset_k)."""

    rewards: Tensor
    """R(k, y), (K,), float64; the reference's own is 0."""
    reference: int
    """Which of the answers is y."""
    features: Tensor
    """phi, (K, D). The identity is a table: every answer has its own parameter."""
    offset: Tensor
    """(K,). A very negative one is an answer that the samples never hit."""

    def log_policy(self, theta: Tensor) -> Tensor:
        """log pi(k), (..., K), for parameters (..., D)."""
        return (theta @ self.features.T + self.offset).log_softmax(-1)


@dataclass(frozen=True)
class Groups:
    """All groups of G samples that a prompt can have."""

    counts: Tensor
    """How often each answer stands in a group, (N, K)."""
    log_ways: Tensor
    """Logarithm of the number of orders in which it can be drawn, (N,)."""
    weights: Tensor
    """W(n)_k, what log pi(k) is multiplied with, samples and reference together, (N, K)."""

    def probabilities(self, log_policy: Tensor) -> Tensor:
        """P_theta(n), (..., N), for log pi (..., K)."""
        return (self.log_ways + log_policy @ self.counts.T).exp()


def tabular(rewards: Sequence[float], reference: int) -> Prompt:
    """A prompt whose K answers each have a parameter of their own."""
    worth = torch.tensor(rewards, dtype=torch.float64)
    return Prompt(worth, reference, torch.eye(len(worth), dtype=torch.float64), torch.zeros_like(worth))


def out_of_reach(rewards: Sequence[float], offset: float = -12.0) -> Prompt:
    """K answers as in `tabular`, and a reference of reward 0 that no sample ever hits (the answer with index K).

    Its score is the mean of the others' and an offset. The parameters move log pi(y), as training moves that of a
    long text, but it stays below `offset`, whatever they are.
    """
    worth = torch.tensor([*rewards, 0.0], dtype=torch.float64)
    count = len(rewards)
    features = torch.cat([torch.eye(count), torch.full((1, count), 1 / count)]).double()
    return Prompt(worth, count, features, torch.tensor([0.0] * count + [offset], dtype=torch.float64))


def grao(
    scope: Scope = "joint", sign: Sign = "signed", beta: float = 0.5, lambda_: float = 0.6, exploration: float = 1.0
) -> Weigh:
    """Eq. 3 and 4, as the trainer computes them; beta = lambda = 0 in scope `samples` is on-policy GRPO."""

    def weigh(rewards: Tensor) -> SequenceWeights:
        advantages = group_advantages(rewards, rewards.new_zeros(len(rewards)), scope)
        return sequence_weights(advantages, beta, lambda_, exploration, sign)

    return weigh


def reinforce(rewards: Tensor) -> SequenceWeights:
    """The control: weights R / G, whose mean update is the gradient of E[R]."""
    return SequenceWeights(completions=rewards / rewards.shape[1], reference=rewards.new_zeros(len(rewards)))


def enumerate_groups(prompt: Prompt, samples: int, weigh: Weigh) -> Groups:
    """All groups of G = `samples`, each weighed once: the policy decides how likely a group is, not what it weighs."""
    answers = len(prompt.rewards)
    counts = torch.tensor(list(_compositions(samples, answers)))  # (N, K)
    drawn = torch.stack([torch.arange(answers).repeat_interleave(row) for row in counts])  # (N, G)
    weighed = weigh(prompt.rewards[drawn])
    weights = torch.zeros(counts.shape, dtype=torch.float64).scatter_add_(1, drawn, weighed.completions)
    weights[:, prompt.reference] += weighed.reference
    orders = math.lgamma(samples + 1) - torch.lgamma(counts.double() + 1).sum(dim=1)
    return Groups(counts.double(), orders, weights)


def mean_field(prompts: Sequence[Prompt], samples: int, weigh: Weigh) -> Field:
    """F, the mean update over groups and prompts; the prompts share their parameters."""
    known = [(prompt, enumerate_groups(prompt, samples, weigh)) for prompt in prompts]

    def field(theta: Tensor) -> Tensor:
        return torch.stack([_mean_update(theta, *pair) for pair in known]).mean(dim=0)

    return field


def reward_field(prompts: Sequence[Prompt]) -> Field:
    """The gradient of E[R], averaged over prompts."""

    def field(theta: Tensor) -> Tensor:
        total = torch.zeros_like(theta)
        for prompt in prompts:
            policy = prompt.log_policy(theta).exp()
            advantage = prompt.rewards - (policy @ prompt.rewards)[..., None]
            total = total + (policy * advantage) @ prompt.features
        return total / len(prompts)

    return field


def noisy_field(prompt: Prompt, samples: int, weigh: Weigh, generator: torch.Generator) -> Field:
    """The update of one sampled group for each of S policies (S, D): what a step with one prompt and B = 1 does."""
    groups = enumerate_groups(prompt, samples, weigh)

    def field(theta: Tensor) -> Tensor:
        log_policy = prompt.log_policy(theta)
        drawn = torch.multinomial(groups.probabilities(log_policy), 1, generator=generator)[:, 0]
        weights = groups.weights[drawn]  # (S, K)
        return (weights - weights.sum(-1, keepdim=True) * log_policy.exp()) @ prompt.features

    return field


def sampled_update(theta: Tensor, prompt: Prompt, samples: int, weigh: Weigh, groups: int, seed: int) -> Tensor:
    """The update of one step with `groups` groups, (D,), the way the trainer makes it: sample, weigh, autograd."""
    theta = theta.detach().requires_grad_()
    log_policy = prompt.log_policy(theta)
    generator = torch.Generator().manual_seed(seed)
    policy = log_policy.detach().exp().expand(groups, -1)
    drawn = torch.multinomial(policy, samples, replacement=True, generator=generator)
    weighed = weigh(prompt.rewards[drawn])
    weights = torch.cat([weighed.completions.flatten(), weighed.reference])
    loglik = torch.cat([log_policy[drawn].flatten(), log_policy[prompt.reference].expand(groups)])
    (gradient,) = torch.autograd.grad(weighted_likelihood_loss(weights, loglik, groups), theta)
    return -gradient


def update_noise(theta: Tensor, prompt: Prompt, samples: int, weigh: Weigh) -> Tensor:
    """E|u - F|^2 of the update u of one group, a scalar, exact, for parameters (D,)."""
    groups = enumerate_groups(prompt, samples, weigh)
    log_policy = prompt.log_policy(theta)
    weights = groups.weights
    updates = (weights - weights.sum(1, keepdim=True) * log_policy.exp()) @ prompt.features  # (N, D)
    chance = groups.probabilities(log_policy)
    return chance @ (updates - chance @ updates).square().sum(dim=1)


def jacobian(field: Field, theta: Tensor) -> Tensor:
    """dF_i / dtheta_j at parameters (D,), by autograd."""
    found: Tensor = torch.autograd.functional.jacobian(field, theta)
    return found


def asymmetry(matrix: Tensor) -> float:
    """|J - J^T| / |J| in Frobenius norms: 0 for a gradient's Jacobian, sqrt(2) for pure chance, at most 2."""
    return float((matrix - matrix.T).norm() / matrix.norm())


def twist(update: Tensor, matrix: Tensor) -> float:
    """How far F is from c(theta) * gradient for any factor c, 0 to 1 (in three dimensions).

    By Frobenius' theorem such a factor and an objective exist, near theta, exactly where F and the rotation
    w = J^T - J have F_i w_jk + F_j w_ki + F_k w_ij = 0 for all i, j, k. Its norm is divided by |F| |w|, so that in
    three dimensions it is |cos| of the angle between F and its curl. 0 where w itself vanishes.
    """
    rotation = matrix.T - matrix
    if rotation.norm() <= 1e-9 * matrix.norm():
        return 0.0
    product = torch.einsum("i,jk->ijk", update, rotation)
    cyclic = product + product.permute(2, 0, 1) + product.permute(1, 2, 0)
    return float(cyclic.norm() / (3**0.5 * update.norm() * rotation.norm()))


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Of the angle between two directions, (...,)."""
    return torch.cosine_similarity(one, other, dim=-1)


def ascend(theta: Tensor, field: Field, steps: Sequence[float]) -> Iterator[Tensor]:
    """theta, then theta + step * F(theta), and so on: one more than there are steps."""
    yield theta
    for step in steps:
        theta = theta + step * field(theta)
        yield theta


def random_policies(count: int, parameters: int, seed: int) -> Tensor:
    """Parameters from the standard normal distribution, (count, parameters)."""
    return torch.randn(count, parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _mean_update(theta: Tensor, prompt: Prompt, groups: Groups) -> Tensor:
    """F of one prompt, (..., D). With W the mean weights: sum_k W_k (phi_k - sum_j pi_j phi_j)."""
    log_policy = prompt.log_policy(theta)
    weights = groups.probabilities(log_policy) @ groups.weights  # (..., K)
    return (weights - weights.sum(-1, keepdim=True) * log_policy.exp()) @ prompt.features


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `parts` counts: where the bars stand among stars and bars."""
    for bars in combinations(range(total + parts - 1), parts - 1):
        edges = (-1, *bars, total + parts - 1)
        yield tuple(right - left - 1 for left, right in pairwise(edges))
