"""How stable are group-relative advantages? Base models of the sandbox, by kind of prompt and group size.

    python benchmarks/stability.py [--quick] [--scope joint|samples]

For every held-out prompt one pool of answers is sampled, with fresh keys and from the same policy, and cut into groups
(`grao.evaluation.stability`). Rewards are the gold judge's verdicts on answer against reference, 1, 0 or -1, as in the
quickstart. Takes minutes on one core, most of it for pretraining the models, which are kept for the next time.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

from grao.config.recipe import DataConfig, GRAOConfig, RolloutConfig, TrainingConfig
from grao.core.advantages import Scope
from grao.data import load_examples
from grao.evaluation.stability import Stability, group_stability
from grao.groups import reward_groups, sample_groups
from grao.rewards import FunctionReward, verdict
from grao.rollouts import Sampling, draw_key
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


def pools(ability: str, prompts: int) -> dict[str, torch.Tensor]:
    """Kind of prompt -> (B, POOL) verdicts on answers of a base model."""
    world = prepare(ability, held_out=prompts)
    reward = FunctionReward(gold, verdict())
    with tempfile.TemporaryDirectory() as scratch:
        training = TrainingConfig(learning_rate=1e-3, steps=1)  # nothing is trained
        rollout = RolloutConfig(batch_size=AT_ONCE, max_new_tokens=TOKENS)
        config = GRAOConfig(Path(scratch), rollout=rollout, training=training)
        examples = load_examples(DataConfig(path=str(world.test))).examples
        trainer = GRAOTrainer(str(world.model), config, examples, reward)
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
    seen: Stability = group_stability(verdicts, torch.zeros(len(verdicts)), size, KEPT, scope)
    reliability = "-" if seen.reliability is None else f"{seen.reliability:.2f}"
    won = float((verdicts > 0).double().mean())
    return (
        f"{name:<14} {won:>6.3f} {seen.groups:>6} {seen.silent:>6.2f} {seen.reference:>6.2f} {seen.answer:>6.2f} "
        f"{reliability:>11}"
    )


if __name__ == "__main__":
    main()
