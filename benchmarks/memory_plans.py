"""The memory plans of docs/scaling.md: what `grao train --dry-run --card SIZE` computes for recipes of large models.

    python benchmarks/memory_plans.py        # a minute; writes benchmarks/records/plan-qwen.json and plan-recipes.json

Only shapes are used, so neither weights nor a card are needed: the models are given by the fields of their public
config.json, and all prompts have 250 tokens, all references 128.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import write_record
from transformers import DeepseekV3Config, PreTrainedConfig, Qwen2Config

from grao.config.load import load_recipe
from grao.config.recipe import Recipe
from grao.data.encoding import EncodedSet
from grao.engine.policy import policy_shape
from grao.studies.plan import Plan, make_plan
from grao.types import Encoded, Example

RECIPES = Path(__file__).parents[1] / "recipes"
GIB = 1 << 30
PROMPT, REFERENCE, ROWS = 250, 128, 400
CONFIGS: dict[str, PreTrainedConfig] = {
    "Qwen2.5-7B": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=131072, tie_word_embeddings=False, dtype="bfloat16",
        architectures=["Qwen2ForCausalLM"],
    ),
    "Moonlight-16B": DeepseekV3Config(
        vocab_size=163840, hidden_size=2048, intermediate_size=11264, moe_intermediate_size=1408,
        num_hidden_layers=27, num_attention_heads=16, num_key_value_heads=16, n_shared_experts=2, n_routed_experts=64,
        num_experts_per_tok=6, n_group=1, topk_group=1, first_k_dense_replace=1, routed_scaling_factor=2.446,
        kv_lora_rank=512, q_lora_rank=None, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
        max_position_embeddings=8192, tie_word_embeddings=False, dtype="bfloat16",
        architectures=["DeepseekV3ForCausalLM"],
    ),
}  # fmt: skip
"""Start of a recipe's `model.path`, behind the organisation -> the model's public configuration."""
CHECKPOINTS = {"training.trainer": {"bf16": True, "gradient_checkpointing": True}}
EIGHT_BIT = {"optim": "adamw_torch_8bit", "optim_args": "bf16_stochastic_round=True"}
QWEN: dict[str, tuple[str, int, dict[str, Any], int]] = {
    "LoRA, 24 GiB": ("qwen-lora-24gb.yaml", 24, {}, 1),
    "QLoRA, 24 GiB": ("qwen-lora-24gb.yaml", 24, {"model.quantization": "4bit"}, 1),
    "all weights, float32 and `bf16`, each of 4 GPUs": ("paper.yaml", 80, CHECKPOINTS, 4),
    "all weights, bfloat16, 8-bit Adam": (
        "paper.yaml",
        141,
        {"model.dtype": "bfloat16", "training.trainer": CHECKPOINTS["training.trainer"] | EIGHT_BIT},
        1,
    ),
}
"""Column of the table of Qwen2.5-7B -> recipe, GiB of a card, changed settings, number of GPUs."""
OTHERS: dict[str, tuple[str, int, int]] = {
    "`recipes/qwen-lora-24gb.yaml`": ("qwen-lora-24gb.yaml", 24, 1),
    "`recipes/qwen-lora-80gb.yaml`": ("qwen-lora-80gb.yaml", 80, 1),
    "`recipes/qwen-full-8x80gb.yaml`, `--gpus 8`": ("qwen-full-8x80gb.yaml", 80, 8),
    "`recipes/moonlight-lora-80gb.yaml` (adapter on attention)": ("moonlight-lora-80gb.yaml", 80, 1),
    "`recipes/moonlight-full-8x80gb.yaml`, `--gpus 8`": ("moonlight-full-8x80gb.yaml", 80, 8),
}
"""Row of the table of recipes -> recipe, GiB of a card, number of GPUs."""


def prompts() -> EncodedSet:
    """Return prompts and references of the lengths that all plans assume."""
    example = Example("", "", None, {}, 1)
    ids = tuple(range(3, 3 + PROMPT)), tuple(range(3, 3 + REFERENCE))
    return EncodedSet([Encoded(example, "", ids[0], "", ids[1])] * ROWS, dropped=0, truncated=0)


def plan(name: str, gib: int, changes: dict[str, Any], gpus: int) -> Plan:
    """Return the plan of a recipe with some changed settings."""
    recipe: Recipe = load_recipe(RECIPES / name, values=list(changes.items()))
    config = next(config for start, config in CONFIGS.items() if recipe.model.path.split("/")[1].startswith(start))
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        chosen = replace(recipe.model, path=folder)
        lora = vars(chosen.lora) if chosen.lora else None
        model = policy_shape(folder, chosen.adapter, lora, chosen.dtype, chosen.trust_remote_code, chosen.quantization)
    return make_plan(replace(recipe, model=chosen), model, prompts(), gib * GIB, gpus)


def column(planned: Plan) -> list[str]:
    """Return the cells of one column of the table of Qwen2.5-7B, in the order of `LINES`."""
    kept, update = planned.permanent, planned.update
    cache, activations = next(iter(planned.rollout.values())), planned.activations.at(planned.tokens)
    sizes = [
        kept["frozen weights"] + kept["trained weights"],
        kept["sampling copy of the model"],
        kept["optimizer state"],
        update["gradients"],
        update["gathered layers"],
    ]
    fits = "" if planned.fits else " (does not fit)"
    return [
        *(f"{size / GIB:.1f}" if size else "-" for size in sizes),
        f"{activations / GIB:.1f} ({planned.tokens:,} tokens)",
        f"{update['output layer tile'] / GIB:.1f}",
        f"{cache / GIB:.1f} ({planned.rows} rows of {planned.longest:,})",
        f"**{planned.peak(update) / GIB:.1f}**{fits}",
        f"{planned.peak(planned.rollout) / GIB:.1f}",
    ]


LINES = [
    "weights", "copy that samples", "optimizer", "gradients", "gathered layers", "activations", "output layer",
    "cache of the rollout", "**peak of the update**", "peak of the rollout",
]  # fmt: skip


def main() -> None:
    """Compute all plans, and write the records."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    where = {"page": "docs/scaling.md", "command": "python benchmarks/memory_plans.py"}
    how = {"machine": "planned, not measured", "source": "written by the command"}
    cells = [column(plan(*arguments)) for arguments in QWEN.values()]
    rows = [[line, *each] for line, each in zip(LINES, zip(*cells, strict=True), strict=True)]
    write_record("plan-qwen", **where, **how, columns=["", *QWEN], rows=rows)
    rows = []
    for title, (name, gib, gpus) in OTHERS.items():
        planned = plan(name, gib, {}, gpus)
        peaks = (f"{planned.peak(phase) / GIB:.1f}" for phase in (planned.rollout, planned.update))
        rows.append([title, str(gib), *peaks])
    write_record("plan-recipes", **where, **how, columns=["", "card", "rollout", "update"], rows=rows)


if __name__ == "__main__":
    main()
