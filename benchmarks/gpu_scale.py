"""Measures seconds per phase and peak memory of `GRAOTrainer` on one GPU, for large models with random weights.

    python benchmarks/gpu_scale.py --model 7b --card 24        LoRA on the shape of Qwen2.5-7B, within 24 GiB
    python benchmarks/gpu_scale.py --model moonlight           LoRA on the shape of Moonlight-16B-A3B
    python benchmarks/gpu_scale.py --model 7b --full           all weights, in bfloat16
    python benchmarks/gpu_scale.py --dry-run                   a tiny model on a CPU; its numbers mean nothing

A step has 8 prompts of 250 tokens with 8 samples of up to 128 tokens each. `--card` limits PyTorch to that many GiB of
a larger GPU and enables activation checkpointing; the token budget is `auto`. Nothing is downloaded.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch
from common import END, PAD, text, tokenizer
from gpu_models import SHAPES, config_of, model_of
from peft import LoraConfig
from transformers import PreTrainedModel

from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig


def words(draw: random.Random, count: int) -> str:
    """Return a random text of `count` tokens."""
    return text([draw.randrange(3, 1000) for _ in range(count)])


def trainer_of(model: PreTrainedModel, options: argparse.Namespace, folder: Path) -> GRAOTrainer:
    """Return a trainer of an adapter or, with `--full`, of all weights."""
    draw = random.Random(0)
    prompts, prompt, answer = (2, 20, 8) if options.dry_run else (8, 250, 128)
    rows = [
        {"prompt": words(draw, prompt), "reference": words(draw, answer - 1)} for _ in range(prompts * options.steps)
    ]
    extra = {"bf16": True, "use_cpu": options.dry_run, "disable_tqdm": True}
    extra |= {"gradient_checkpointing": True} if options.card else {}
    config = GRAOConfig(
        output_dir=folder / "run",
        rollout=RolloutConfig(group_size=8, temperature=1.0, max_new_tokens=answer),
        training=TrainingConfig(
            steps=options.steps, prompts_per_step=prompts, learning_rate=1e-5 if options.full else 1e-4, trainer=extra
        ),
    )
    adapter = None if options.full else LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    score = lambda prompts, completions: [2.0 ** (n % 9) for n in range(len(completions))]  # noqa: E731
    return GRAOTrainer(model, score, config, rows, processing_class=tokenizer(), peft_config=adapter)


def main() -> None:
    """Print a line for each phase and the peak memory, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=list(SHAPES), default="7b")
    parser.add_argument("--full", action="store_true", help="train all weights instead of an adapter")
    parser.add_argument("--card", type=float, metavar="GIB", help="use at most this much GPU memory")
    parser.add_argument("--steps", type=int, default=4, help="the first step is not counted")
    parser.add_argument("--dry-run", action="store_true", help="tiny model on a CPU")
    parser.add_argument("--output", type=Path, default=Path("gpu_scale.json"))
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU; --dry-run runs the same code on a CPU")
    if options.card and not options.dry_run:
        torch.cuda.set_per_process_memory_fraction(options.card * 2**30 / torch.cuda.mem_get_info()[1])
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        device = "cpu" if options.dry_run else "cuda"
        config = config_of("tiny" if options.dry_run else options.model, PAD, END)
        model = model_of(config, device, torch.bfloat16)
        trainer = trainer_of(model, options, Path(scratch))
        budget, rows = trainer.learner.budget.size, trainer.rows
        print(f"ready after {time.perf_counter() - begin:.0f} s: {budget:,} tokens per micro-batch, {rows} rows")
        trainer.train()
        lines = (Path(scratch) / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [step for step in map(json.loads, lines) if "seconds/step" in step][1:]
    seconds = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0] if name.startswith("seconds/")}
    peak = 0.0 if options.dry_run else torch.cuda.max_memory_allocated() / 2**30
    for name, spent in seconds.items():
        print(f"{name:18} {spent:7.2f}")
    print(f"peak {peak:.1f} GiB; final token budget {trainer.learner.budget.size:,}")
    facts = {"options": vars(options), "seconds": seconds, "peak": peak, "budget": trainer.learner.budget.size}
    options.output.write_text(json.dumps(facts, default=str, indent=2) + "\n")


if __name__ == "__main__":
    main()
