"""Measures how much of an advantage is due to the answer and how much to its group, by kind of prompt and group size.

    python benchmarks/stability.py [--quick] [--scope joint|samples]

A group-relative advantage compares an answer with the others of its group (paper, eq. 4). If the others are drawn again
from the same policy, mean and deviation change, and so does the advantage of an unchanged answer: noise of the method.
To measure it, a pool of answers to every held-out prompt is sampled from a base model of the sandbox and divided into
groups. Rewards are the gold judge's verdicts on answer against reference, 1, 0 or -1, as in the quickstart. Takes
minutes on one core, mostly for pretraining the models, which are cached.

Missing rewards are not supported: remove unjudged answers from the pool first.
"""

import argparse
import math
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from grao.config.library import GRAOConfig
from grao.config.recipe import DataConfig, RolloutConfig, TrainingConfig
from grao.core.advantages import Scope, group_advantages
from grao.data.load import load_examples
from grao.groups import reward_groups, sample_groups
from grao.rewards.base import sign_relative
from grao.rewards.functions import FunctionReward
from grao.rollouts.base import Sampling, draw_key
from grao.sandbox.judge import gold
from grao.sandbox.tasks import KINDS
from grao.sandbox.world import prepare
from grao.training.trainer import GRAOTrainer

SIZES = (2, 4, 8, 16, 32)
SIZE_BY_KIND = 8
"""Group size of the table by kind."""
KEPT = 32
POOL = KEPT + 4 * max(SIZES)
"""Answers to each prompt: `KEPT` that are followed through groups, and four groups of the largest size."""
PROMPTS = 6
"""Prompts of each kind."""
BATCH = 256
TOKENS = 40
SEED = 0


@dataclass(frozen=True)
class Stability:
    """How advantages vary when the groups of the same prompts are sampled again, at one group size."""

    groups: int
    """Groups per prompt."""
    silent: float
    """Share of groups whose advantages are all 0."""
    reference: float
    """Standard deviation of A_y over the groups of a prompt; root mean square over prompts."""
    answer: float
    """The same for the advantage of an answer that is kept while the rest of its group is drawn again."""
    reliability: float | None
    """Share of the variance of advantages within a prompt that is due to the answers, not to their groups: from 0 (all
    noise) to 1; the estimate can be slightly below 0. None if no advantage varies."""


def group_stability(pool: Tensor, reference: Tensor, size: int, kept: int = 8, scope: Scope = "joint") -> Stability:
    """Stability of groups of `size` samples, drawn without replacement from a pool of answers to each prompt.

    Args:
        pool: (B, M) finite rewards of independent answers to each of B prompts.
        reference: (B,) rewards of the references on the same scale.
        size: G, at least 2; two groups must fit into M - kept.
        kept: number of answers, from the start of the pool, whose advantage is followed through all groups.
        scope: whose mean and deviation are used, as in `group_advantages`.
    """
    groups = (pool.shape[1] - kept) // size
    if size < 2 or groups < 2 or kept < 2:
        raise ValueError(f"size and kept must be at least 2 and two groups fit, got {size}, {kept} and {pool.shape}")
    fresh = pool[:, kept : kept + groups * size].unflatten(1, (groups, size))  # (B, K, G)
    completion_advantages, reference_advantages = _advantages(fresh, reference, scope)
    silent = (completion_advantages == 0).all(dim=-1) & (reference_advantages == 0)

    # Every kept answer takes the place of the first sample in every group.
    with_kept = fresh[:, None].repeat(1, kept, 1, 1)  # (B, kept, K, G)
    with_kept[..., 0] = pool[:, :kept, None]
    followed = _advantages(with_kept, reference, scope)[0][..., 0]  # (B, kept, K)
    noise, signal = float(followed.var(dim=2).mean()), _answer_variance(followed)
    return Stability(
        groups=groups,
        silent=float(silent.double().mean()),
        reference=float(reference_advantages.var(dim=1).mean().sqrt()),
        answer=math.sqrt(noise),
        reliability=signal / (signal + noise) if signal + noise > 0 else None,
    )


def _answer_variance(followed: Tensor) -> float:
    """Variance of the expected advantage between answers to a prompt; `followed` is (B, answers, groups K).

    The variance of means over K groups includes a K-th of the noise, which is subtracted. All answers meet the same
    groups, so noise that a group adds to all of them alike does not count.
    """
    answers, groups = followed.shape[1:]
    individual = followed - followed.mean(dim=1, keepdim=True)
    noise_of_mean = individual.var(dim=2).sum(dim=1) / (answers - 1) / groups  # (B,)
    return float((followed.mean(dim=2).var(dim=1) - noise_of_mean).mean())


def _advantages(rewards: Tensor, reference: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    """(B, ..., G) rewards -> advantages of the samples in the same shape, and of the reference, (B, ...)."""
    rows = reference.double().view(-1, *[1] * (rewards.ndim - 2)).expand(rewards.shape[:-1])
    advantages = group_advantages(rewards.double().flatten(0, -2), rows.flatten(), scope)
    return advantages.completions.view(rewards.shape), advantages.reference.view(rewards.shape[:-1])


def pools(ability: str, prompts: int) -> dict[str, torch.Tensor]:
    """Return kind of prompt -> (B, POOL) verdicts on answers of a base model."""
    world = prepare(ability, held_out=prompts)
    reward = FunctionReward(gold, sign_relative())
    with tempfile.TemporaryDirectory() as scratch:
        training = TrainingConfig(learning_rate=1e-3, steps=1)  # nothing is trained
        rollout = RolloutConfig(batch_size=BATCH, max_new_tokens=TOKENS)
        config = GRAOConfig(Path(scratch), rollout=rollout, training=training)
        examples = load_examples(DataConfig(path=str(world.test))).examples
        trainer = GRAOTrainer(str(world.model), reward, config, examples)
        items = trainer.train_items.items
        keys = [draw_key(SEED, "stability", item.example.id) for item in items]
        groups = sample_groups(items, keys, trainer.generator, Sampling(POOL, 0.7, 1.0, TOKENS), trainer.tokenizer)
        total = reward_groups(groups, trainer.rewards).total
    by_kind: dict[str, list[torch.Tensor]] = defaultdict(list)
    for item, verdicts in zip(items, total, strict=True):
        by_kind[item.example.columns["kind"]].append(verdicts)
    return {kind: torch.stack(by_kind[kind]) for kind in KINDS}


def main() -> None:
    """Print a table by group size and one by kind, for each ability."""
    parser = argparse.ArgumentParser(description="Stability of group-relative advantages")
    parser.add_argument("--quick", action="store_true", help="one prompt of each kind")
    parser.add_argument("--scope", choices=("joint", "samples"), default="joint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for ability in ("weak", "able"):
        verdicts = pools(ability, len(KINDS) * (1 if arguments.quick else PROMPTS))
        print(
            f"\n{ability} base, {sum(map(len, verdicts.values()))} prompts, {POOL} answers to each, {arguments.scope}"
        )
        print(f"{'':<14} {'won':>6} {'groups':>6} {'silent':>6} {'sd A_y':>6} {'sd A_o':>6} {'reliability':>11}")
        all_kinds = torch.cat(list(verdicts.values()))
        for size in SIZES:
            print(_line(f"all, G = {size}", all_kinds, size, arguments.scope))
        for kind, of_kind in verdicts.items():
            print(_line(kind, of_kind, SIZE_BY_KIND, arguments.scope), flush=True)


def _line(name: str, verdicts: torch.Tensor, size: int, scope: Scope) -> str:
    stability = group_stability(verdicts, torch.zeros(len(verdicts)), size, KEPT, scope)
    reliability = "-" if stability.reliability is None else f"{stability.reliability:.2f}"
    won = float((verdicts > 0).double().mean())
    return (
        f"{name:<14} {won:>6.3f} {stability.groups:>6} {stability.silent:>6.2f} {stability.reference:>6.2f} "
        f"{stability.answer:>6.2f} {reliability:>11}"
    )


if __name__ == "__main__":
    main()
