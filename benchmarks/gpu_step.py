"""One optimiser step of grao and of TRL's GRPOTrainer on one GPU in bf16, on the same completions, their steps in turn.

    python benchmarks/gpu_step.py --varied            whole steps, rollout included, completions of varied length
    python benchmarks/gpu_step.py                     the same at full length; a random model of half a billion weights
    python benchmarks/gpu_step.py --update-only       without the rollout: both sides are handed the same completions
    python benchmarks/gpu_step.py --dry-run           the same way on a CPU with a tiny model; its figures mean nothing

A whole step samples with each side's own engine: grao's as `rollout.engine` has it, TRL's with transformers' `generate`
or, as `trl-vllm`, with vLLM in the same process where that is installed. The model is made so that every token ends a
completion with the same small chance (`--varied`) or with none; both sides draw their own.

With `--update-only` completions are drawn beforehand by grao's generator, cut to lengths drawn beforehand, and handed
to both sides: to grao as its generator, to TRL as its `rollout_func`. A step is what is left, in each trainer's own
`train()`: rewards, advantages, forward, backward, clipping, AdamW, with single-precision weights under bf16 autocast.
Micro-batches hold equally many tokens on both sides. grao also trains on a reference a group, as long as a sample.

TRL scores completion tokens alone, in tiles, with its own fused output layer (on a CPU all tokens). `trl` is it without
activation checkpointing, as grao; `trl-checkpointing` has it on, TRL's default; `trl-liger` adds Liger's layer kernels
where they are installed. The sides share the GPU, so their weights and optimisers must fit together; `--sides` takes
some of them only. Left out: kernels from the hub, which need a network.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from common import take_turns
from gpu_sides import TINY, Drawn, Work, serve

NAMES = {
    "grao": "grao",
    "trl": "TRL",
    "trl-checkpointing": "TRL, checkpointing",
    "trl-liger": "TRL with Liger",
    "trl-vllm": "TRL with vLLM",
}


def check(seen: dict[str, list[dict[str, Any]]], handed: bool) -> None:
    """Losses and gradients are finite, and sides with the same completions learned from equally many tokens a step.

    Raises:
        SystemExit: if not.
    """
    for name, answers in seen.items():
        seen_here = [(answer["loss"], answer["grad_norm"]) for answer in answers]
        if not all(math.isfinite(loss) and 0 < norm < math.inf for loss, norm in seen_here):
            raise SystemExit(f"{name}: a loss is not finite, or a gradient is not there: {seen_here}")
    counts = {name: [answer["samples"] for answer in answers] for name, answers in seen.items()}
    if handed and len({tuple(count) for count in counts.values()}) > 1:
        raise SystemExit(f"the sides learned from unequal numbers of tokens: {counts}")


def table(results: dict[str, dict[str, Any]], drawn: Drawn, work: Work) -> None:
    """Prints medians, and how many times as long each side takes as grao."""
    lengths = f"prompt {work.prompt}, completion {'up to ' * work.varied}{work.completion}"
    print(f"{drawn.device}: B {work.prompts}, G {work.samples}, {lengths}")
    print(f"{'':20} {'seconds':>9} {'x grao':>7} {'peak MiB':>9} {'above rest':>10}  through the model")
    for name, found in results.items():
        memory = f"{found['peak']:9.0f} {found['activations']:10.0f}" if "peak" in found else f"{'-':>9} {'-':>10}"
        times = found["seconds"] / results["grao"]["seconds"]
        print(f"{NAMES[name]:20} {found['seconds']:9.4f} {times:7.2f} {memory}  {found['through']}")
    if work.update_only:
        print(f"Sampling {work.completion} tokens a row, equal on all sides, not counted: {drawn.seconds:.2f} s a step")


def gpu_there() -> bool:
    """Whether PyTorch sees one."""
    import torch

    return torch.cuda.is_available()


def versions() -> dict[str, str]:
    """Of what takes part."""
    found = {}
    for name in ("grao", "torch", "transformers", "trl", "liger-kernel"):
        if importlib.util.find_spec(name.replace("-", "_")):
            found[name] = importlib.metadata.version(name)
    return found


def measure(folder: Path, work: Work, names: Sequence[str], attention: str) -> dict[str, Any]:
    """Draws, lets the sides take turns, checks and prints."""
    (folder / "work.json").write_text(json.dumps(asdict(work)))
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    arguments = [__file__, "--folder", str(folder), "--attention", attention, "--side"]
    subprocess.run([sys.executable, *arguments, "draw"], check=True)
    seen = take_turns({name: [*arguments, name] for name in names}, work.steps)
    check(seen, work.update_only)
    results = {}
    for name, answers in seen.items():
        counted = answers[work.warm :]
        numbers = [key for key, value in counted[0].items() if isinstance(value, float | int)]
        medians = {key: statistics.median(answer[key] for answer in counted) for key in numbers}
        results[name] = {**medians, "through": counted[0]["through"]}
    drawn = Drawn.read(folder)
    table(results, drawn, work)
    facts = {"device": drawn.device, "versions": versions(), "work": asdict(work), "sampling": drawn.seconds}
    return {**facts, "results": results, "steps": seen}


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny, on a CPU")
    parser.add_argument("--varied", action="store_true", default=None, help="completions of varied length")
    parser.add_argument("--update-only", action="store_true", default=None, help="without the rollout")
    for field in fields(Work):
        if field.type is int:
            parser.add_argument(f"--{field.name}", type=int, help=f"{field.default:,} by default")
    parser.add_argument("--attention", default="sdpa", help="TRL's attention implementation")
    parser.add_argument("--sides", nargs="+", choices=list(NAMES)[1:], help="besides grao")
    parser.add_argument("--output", type=Path, default=Path("gpu_step.json"))
    parser.add_argument("--side")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side:
        serve(options.side, options.folder, options.attention)
        return
    given = {name: value for name, value in vars(options).items() if value is not None and name in Work.__annotations__}
    work = replace(TINY if options.dry_run else Work(), **given)
    if work.prompts * work.samples % work.rows:
        raise SystemExit(f"--rows {work.rows} does not divide the {work.prompts * work.samples} completions of a step")
    if work.steps <= work.warm:
        raise SystemExit(f"--steps {work.steps} leaves nothing after {work.warm} steps of warming up")
    if not work.cpu and not gpu_there():
        raise SystemExit("no GPU here; --dry-run goes the same way on a CPU")
    liger = ["trl-liger"] * bool(importlib.util.find_spec("liger_kernel") and not work.cpu)
    vllm = ["trl-vllm"] * bool(importlib.util.find_spec("vllm") and not work.cpu and not work.update_only)
    names = ["grao", *(options.sides or ["trl", "trl-checkpointing", *liger, *vllm])]
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(Path(scratch), work, names, options.attention)
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
