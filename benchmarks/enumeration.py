"""GRAO's exact mean update on problems small enough to enumerate; `theory.py` prints the tables.

A prompt has K answers of one token each, and the policy is a softmax of linear scores. The update of a group of G
samples depends only on how often each answer occurs in it, so C(G + K - 1, K - 1) vectors of counts cover all groups,
and the mean update of eq. 3 is a finite sum, exact in float64:

    F(theta) = sum_n P_theta(n) * sum_k W(n)_k * grad log pi_theta(k)

The weights W(n) come from `grao.core`, the code that trains. Questions about F: is it a gradient (`asymmetry`), is it
one up to a factor (`twist`), does it point where E[R] rises (`cosine`), and where does it lead (`ascend`)?

Left out: answers of several tokens, sampling temperatures other than 1, Adam, and several updates per group.
Axes: K answers, D parameters, N groups, G samples per group; `...` are batch dimensions over policies.
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
"""R(o, y) of groups, (N, G), relative to a reference of reward 0 -> weight of each log-likelihood."""
Field = Callable[[Tensor], Tensor]
"""theta (..., D) -> ascent direction (..., D)."""


@dataclass(frozen=True)
class Prompt:
    """K answers, their rewards, and their scores: pi(k) ~ exp(phi_k . theta + offset_k)."""

    rewards: Tensor
    """R(k, y), (K,), float64; 0 for the reference."""
    reference: int
    """Index of the answer that is y."""
    features: Tensor
    """phi, (K, D). With the identity, every answer has its own parameter."""
    offset: Tensor
    """(K,). An answer with a very negative offset is never sampled."""

    def log_policy(self, theta: Tensor) -> Tensor:
        """log pi(k), (..., K), for parameters (..., D)."""
        return (theta @ self.features.T + self.offset).log_softmax(-1)


@dataclass(frozen=True)
class Groups:
    """All possible groups of G samples of a prompt."""

    counts: Tensor
    """How often each answer occurs in a group, (N, K)."""
    log_orders: Tensor
    """Logarithm of the number of orders in which a group can be drawn, (N,)."""
    weights: Tensor
    """W(n)_k, the weight of log pi(k) over samples and reference, (N, K)."""

    def probabilities(self, log_policy: Tensor) -> Tensor:
        """P_theta(n), (..., N), for log pi (..., K)."""
        return (self.log_orders + log_policy @ self.counts.T).exp()


def tabular(rewards: Sequence[float], reference: int) -> Prompt:
    """Return a prompt whose K answers each have a parameter of their own."""
    values = torch.tensor(rewards, dtype=torch.float64)
    return Prompt(values, reference, torch.eye(len(values), dtype=torch.float64), torch.zeros_like(values))


def out_of_reach(rewards: Sequence[float], offset: float = -12.0) -> Prompt:
    """Return K answers as in `tabular`, and a reference of reward 0 that is never sampled (the answer with index K).

    Its score is the mean of the others' plus an offset. The parameters change log pi(y), as training changes that of a
    long text, but it always stays below `offset`.
    """
    values = torch.tensor([*rewards, 0.0], dtype=torch.float64)
    count = len(rewards)
    features = torch.cat([torch.eye(count), torch.full((1, count), 1 / count)]).double()
    return Prompt(values, count, features, torch.tensor([0.0] * count + [offset], dtype=torch.float64))


def grao(
    scope: Scope = "joint", sign: Sign = "signed", beta: float = 0.5, lambda_: float = 0.6, exploration: float = 1.0
) -> Weigh:
    """Return eq. 3 and 4 as the trainer computes them; beta = lambda = 0 in scope `samples` is on-policy GRPO."""

    def weigh(rewards: Tensor) -> SequenceWeights:
        advantages = group_advantages(rewards, rewards.new_zeros(len(rewards)), scope)
        return sequence_weights(advantages, beta, lambda_, exploration, sign)

    return weigh


def reinforce(rewards: Tensor) -> SequenceWeights:
    """Control: weights R / G, whose mean update is the gradient of E[R]."""
    return SequenceWeights(completions=rewards / rewards.shape[1], reference=rewards.new_zeros(len(rewards)))


def enumerate_groups(prompt: Prompt, samples: int, weigh: Weigh) -> Groups:
    """Return all groups of G = `samples` with their weights, which do not depend on the policy."""
    answers = len(prompt.rewards)
    counts = torch.tensor(list(_compositions(samples, answers)))  # (N, K)
    drawn = torch.stack([torch.arange(answers).repeat_interleave(row) for row in counts])  # (N, G)
    per_sample = weigh(prompt.rewards[drawn])
    weights = torch.zeros(counts.shape, dtype=torch.float64).scatter_add_(1, drawn, per_sample.completions)
    weights[:, prompt.reference] += per_sample.reference
    log_orders = math.lgamma(samples + 1) - torch.lgamma(counts.double() + 1).sum(dim=1)
    return Groups(counts.double(), log_orders, weights)


def mean_field(prompts: Sequence[Prompt], samples: int, weigh: Weigh) -> Field:
    """Return F, the mean update over groups and prompts, which share their parameters."""
    pairs = [(prompt, enumerate_groups(prompt, samples, weigh)) for prompt in prompts]

    def field(theta: Tensor) -> Tensor:
        return torch.stack([_mean_update(theta, *pair) for pair in pairs]).mean(dim=0)

    return field


def reward_field(prompts: Sequence[Prompt]) -> Field:
    """Return the gradient of E[R], averaged over prompts."""

    def field(theta: Tensor) -> Tensor:
        total = torch.zeros_like(theta)
        for prompt in prompts:
            policy = prompt.log_policy(theta).exp()
            advantage = prompt.rewards - (policy @ prompt.rewards)[..., None]
            total = total + (policy * advantage) @ prompt.features
        return total / len(prompts)

    return field


def noisy_field(prompt: Prompt, samples: int, weigh: Weigh, generator: torch.Generator) -> Field:
    """Return the update of one sampled group for each of S policies (S, D), as in a step with B = 1."""
    groups = enumerate_groups(prompt, samples, weigh)

    def field(theta: Tensor) -> Tensor:
        log_policy = prompt.log_policy(theta)
        drawn = torch.multinomial(groups.probabilities(log_policy), 1, generator=generator)[:, 0]
        weights = groups.weights[drawn]  # (S, K)
        return (weights - weights.sum(-1, keepdim=True) * log_policy.exp()) @ prompt.features

    return field


def sampled_update(theta: Tensor, prompt: Prompt, samples: int, weigh: Weigh, groups: int, seed: int) -> Tensor:
    """Return the update of one step with `groups` groups, (D,), as the trainer computes it: sample, weigh, autograd."""
    theta = theta.detach().requires_grad_()
    log_policy = prompt.log_policy(theta)
    generator = torch.Generator().manual_seed(seed)
    policy = log_policy.detach().exp().expand(groups, -1)
    drawn = torch.multinomial(policy, samples, replacement=True, generator=generator)
    per_sample = weigh(prompt.rewards[drawn])
    weights = torch.cat([per_sample.completions.flatten(), per_sample.reference])
    loglik = torch.cat([log_policy[drawn].flatten(), log_policy[prompt.reference].expand(groups)])
    (gradient,) = torch.autograd.grad(weighted_likelihood_loss(weights, loglik, groups), theta)
    return -gradient


def update_noise(theta: Tensor, prompt: Prompt, samples: int, weigh: Weigh) -> Tensor:
    """Return E|u - F|^2 of the update u of one group, exactly, for parameters (D,)."""
    groups = enumerate_groups(prompt, samples, weigh)
    log_policy = prompt.log_policy(theta)
    weights = groups.weights
    updates = (weights - weights.sum(1, keepdim=True) * log_policy.exp()) @ prompt.features  # (N, D)
    probabilities = groups.probabilities(log_policy)
    return probabilities @ (updates - probabilities @ updates).square().sum(dim=1)


def jacobian(field: Field, theta: Tensor) -> Tensor:
    """Return dF_i / dtheta_j at parameters (D,)."""
    return torch.autograd.functional.jacobian(field, theta)


def asymmetry(matrix: Tensor) -> float:
    """Return |J - J^T| / |J| in Frobenius norms: 0 for a gradient field, sqrt(2) for a random J, at most 2."""
    return float((matrix - matrix.T).norm() / matrix.norm())


def twist(update: Tensor, matrix: Tensor) -> float:
    """Return how far F is from c(theta) * gradient for any factor c: 0 to 1 in three dimensions.

    By Frobenius' theorem, such a factor and an objective exist near theta if and only if F and the rotation
    w = J^T - J satisfy F_i w_jk + F_j w_ki + F_k w_ij = 0 for all i, j, k. The norm of this sum is divided by
    |F| |w|; in three dimensions this is |cos| of the angle between F and its curl. It is 0 where w vanishes.
    """
    rotation = matrix.T - matrix
    if rotation.norm() <= 1e-9 * matrix.norm():
        return 0.0
    product = torch.einsum("i,jk->ijk", update, rotation)
    cyclic = product + product.permute(2, 0, 1) + product.permute(1, 2, 0)
    return float(cyclic.norm() / (3**0.5 * update.norm() * rotation.norm()))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the angle between two directions, (...,)."""
    return torch.cosine_similarity(a, b, dim=-1)


def ascend(theta: Tensor, field: Field, steps: Sequence[float]) -> Iterator[Tensor]:
    """Yield theta, then the parameters after each step theta += step * F(theta)."""
    yield theta
    for step in steps:
        theta = theta + step * field(theta)
        yield theta


def random_policies(count: int, parameters: int, seed: int) -> Tensor:
    """Return standard normal parameters, (count, parameters)."""
    return torch.randn(count, parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _mean_update(theta: Tensor, prompt: Prompt, groups: Groups) -> Tensor:
    """Return F of one prompt, (..., D): sum_k W_k (phi_k - sum_j pi_j phi_j) with mean weights W."""
    log_policy = prompt.log_policy(theta)
    weights = groups.probabilities(log_policy) @ groups.weights  # (..., K)
    return (weights - weights.sum(-1, keepdim=True) * log_policy.exp()) @ prompt.features


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield all ordered sums of `parts` counts that equal `total`, by stars and bars."""
    for bars in combinations(range(total + parts - 1), parts - 1):
        edges = (-1, *bars, total + parts - 1)
        yield tuple(right - left - 1 for left, right in pairwise(edges))
