"""How far is an advantage a matter of the answer, and how far of the group it was drawn in? By kind of prompt and G.

    python benchmarks/stability.py [--quick] [--scope joint|samples]

Group-relative advantages measure an answer against a handful of others (paper, eq. 4). Draw the others again, from the
same policy, and mean and deviation change, and with them the advantage of an answer that has not changed at all. That
spread is noise of the method. It is measured per prompt: one pool of answers to every held-out prompt is sampled from a
base model of the sandbox and cut into groups. Rewards are the gold judge's verdicts on answer against reference, 1, 0
or -1, as in the quickstart. Takes minutes on one core, most of it for pretraining the models, which are kept for the
next time.

Left out: missing rewards. What could not be judged has to leave the pool first.
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
SHOWN = 8
"""Group size of the table by kind."""
KEPT = 32
POOL = KEPT + 4 * max(SIZES)
"""Answers to each prompt: some that are followed, and four groups of the largest size."""
PROMPTS = 6
"""Of each kind."""
AT_ONCE = 256
TOKENS = 40
SEED = 0


@dataclass(frozen=True)
class Stability:
    """Advantages over re-samplings of the groups of the same prompts, at one group size."""

    groups: int
    """Re-samplings of each prompt."""
    silent: float
    """Share of groups without signal: all advantages 0."""
    reference: float
    """Standard deviation of A_y over the re-samplings of a prompt; root mean square over prompts."""
    answer: float
    """The same for the advantage of an answer that stays while the rest of its group is drawn again."""
    reliability: float | None
    """Share of the variance of advantages within a prompt that belongs to the answers, not to their groups:
    between 0, all chance, and 1; by estimate also a little below 0. None where no advantage ever varies."""


def group_stability(pool: Tensor, reference: Tensor, size: int, kept: int = 8, scope: Scope = "joint") -> Stability:
    """Stability of groups of `size` samples, drawn without replacement from a pool of answers to each prompt.

    Args:
        pool: (B, M) finite rewards of independent answers to each of B prompts.
        reference: (B,) rewards of the references on the same scale.
        size: G, at least 2; M - kept must be enough for two groups.
        kept: answers, the first of the pool, whose advantage is followed through groups of G - 1 others each.
        scope: whose mean and deviation are used, as in `group_advantages`.
    """
    groups = (pool.shape[1] - kept) // size
    if size < 2 or groups < 2 or kept < 2:
        raise ValueError(f"size and kept must be at least 2 and two groups fit, got {size}, {kept} and {pool.shape}")
    fresh = pool[:, kept : kept + groups * size].unflatten(1, (groups, size))  # (B, K, G)
    completions, of_reference = _advantages(fresh, reference, scope)
    silent = (completions == 0).all(dim=-1) & (of_reference == 0)

    # Every kept answer takes the place of the first sample in every group.
    again = fresh[:, None].repeat(1, kept, 1, 1)  # (B, kept, K, G)
    again[..., 0] = pool[:, :kept, None]
    followed = _advantages(again, reference, scope)[0][..., 0]  # (B, kept, K)
    chance, own = float(followed.var(dim=2).mean()), _own(followed)
    return Stability(
        groups=groups,
        silent=float(silent.double().mean()),
        reference=float(of_reference.var(dim=1).mean().sqrt()),
        answer=math.sqrt(chance),
        reliability=own / (own + chance) if own + chance > 0 else None,
    )


def _own(followed: Tensor) -> float:
    """Variance between answers to a prompt of their expected advantage; `followed` is (B, answers, groups K).

    Means over K groups still hold a K-th of the chance, which is taken off. All answers meet the same groups, so only
    that part of the chance counts which a group does not have in common for all of them.
    """
    answers, groups = followed.shape[1:]
    uncommon = followed - followed.mean(dim=1, keepdim=True)
    left = uncommon.var(dim=2).sum(dim=1) / (answers - 1) / groups  # (B,)
    return float((followed.mean(dim=2).var(dim=1) - left).mean())


def _advantages(rewards: Tensor, reference: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    """(B, ..., G) rewards -> advantages of the samples in the same shape, and of the reference, (B, ...)."""
    rows = reference.double().view(-1, *[1] * (rewards.ndim - 2)).expand(rewards.shape[:-1])
    given = group_advantages(rewards.double().flatten(0, -2), rows.flatten(), scope)
    return given.completions.view(rewards.shape), given.reference.view(rewards.shape[:-1])


def pools(ability: str, prompts: int) -> dict[str, torch.Tensor]:
    """Kind of prompt -> (B, POOL) verdicts on answers of a base model."""
    world = prepare(ability, held_out=prompts)
    reward = FunctionReward(gold, sign_relative())
    with tempfile.TemporaryDirectory() as scratch:
        training = TrainingConfig(learning_rate=1e-3, steps=1)  # nothing is trained
        rollout = RolloutConfig(batch_size=AT_ONCE, max_new_tokens=TOKENS)
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
    """Prints a table by group size and one by kind, for each ability."""
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
        everything = torch.cat(list(verdicts.values()))
        for size in SIZES:
            print(_line(f"all, G = {size}", everything, size, arguments.scope))
        for kind, some in verdicts.items():
            print(_line(kind, some, SHOWN, arguments.scope), flush=True)


def _line(name: str, verdicts: torch.Tensor, size: int, scope: Scope) -> str:
    seen = group_stability(verdicts, torch.zeros(len(verdicts)), size, KEPT, scope)
    reliability = "-" if seen.reliability is None else f"{seen.reliability:.2f}"
    won = float((verdicts > 0).double().mean())
    return (
        f"{name:<14} {won:>6.3f} {seen.groups:>6} {seen.silent:>6.2f} {seen.reference:>6.2f} {seen.answer:>6.2f} "
        f"{reliability:>11}"
    )


if __name__ == "__main__":
    main()
