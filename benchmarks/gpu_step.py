"""Times an optimizer step of grao and of TRL's GRPOTrainer on one GPU in bf16, with their steps interleaved.

    python benchmarks/gpu_step.py --varied            full steps with rollout, completions of varied length
    python benchmarks/gpu_step.py                     full steps at full length; a random model of 0.5 billion weights
    python benchmarks/gpu_step.py --update-only       without rollout: both sides train on the same completions
    python benchmarks/gpu_step.py --dry-run           the same code on a CPU with a tiny model; its numbers mean nothing

In a full step, each side samples with its own engine: grao with the default of `rollout.engine`, TRL with transformers'
`generate` or, as `trl-vllm`, with vLLM in the same process if it is installed. The random model is adjusted so that
every token ends a completion with the same small probability (`--varied`), or never; each side draws its own samples.

With `--update-only`, grao's generator samples completions beforehand, which are cut to random lengths and given to both
sides: to grao as its generator, to TRL as its `rollout_func`. The rest of a step runs in each trainer's own `train()`:
rewards, advantages, forward, backward, clipping, AdamW, with single-precision weights under bf16 autocast.
Micro-batches hold equally many tokens on both sides. grao also trains on one reference per group, as long as a sample.

TRL computes logits of completion tokens only, in tiles, with its own fused output layer (on a CPU: of all tokens).
`trl` runs without activation checkpointing, like grao; `trl-checkpointing` has it on, which is TRL's default;
`trl-liger` adds Liger's layer kernels if they are installed. All sides share the GPU, so their weights and optimizer
states must fit together; `--sides` selects some of them. Left out: kernels from the hub, which need a network.
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
from gpu_sides import TINY, Data, Work, serve

NAMES = {
    "grao": "grao",
    "trl": "TRL",
    "trl-checkpointing": "TRL, checkpointing",
    "trl-liger": "TRL with Liger",
    "trl-vllm": "TRL with vLLM",
}


def check(measured: dict[str, list[dict[str, Any]]], same_completions: bool) -> None:
    """Check that losses and gradients are finite and that all sides trained on equally many tokens.

    Args:
        measured: results of every step by side.
        same_completions: whether the sides trained on the same completions; only then are tokens compared.

    Raises:
        SystemExit: if a check fails.
    """
    for name, steps in measured.items():
        losses = [(step["loss"], step["grad_norm"]) for step in steps]
        if not all(math.isfinite(loss) and 0 < norm < math.inf for loss, norm in losses):
            raise SystemExit(f"{name}: a loss is not finite, or a gradient is zero or not finite: {losses}")
    counts = {name: [step["samples"] for step in steps] for name, steps in measured.items()}
    if same_completions and len({tuple(count) for count in counts.values()}) > 1:
        raise SystemExit(f"the sides trained on unequal numbers of tokens: {counts}")


def table(results: dict[str, dict[str, Any]], data: Data, work: Work) -> None:
    """Print the median time and memory of each side, and its time relative to grao's."""
    lengths = f"prompt {work.prompt}, completion {'up to ' * work.varied}{work.completion}"
    print(f"{data.device}: B {work.prompts}, G {work.samples}, {lengths}")
    print(f"{'':20} {'seconds':>9} {'x grao':>7} {'peak MiB':>9} {'above idle':>10}  engine")
    for name, side in results.items():
        memory = f"{side['peak']:9.0f} {side['activations']:10.0f}" if "peak" in side else f"{'-':>9} {'-':>10}"
        ratio = side["seconds"] / results["grao"]["seconds"]
        print(f"{NAMES[name]:20} {side['seconds']:9.4f} {ratio:7.2f} {memory}  {side['through']}")
    if work.update_only:
        print(f"Not counted: sampling {work.completion} tokens per row, {data.seconds:.2f} s per step for every side")


def has_gpu() -> bool:
    """Whether PyTorch finds a GPU."""
    import torch

    return torch.cuda.is_available()


def versions() -> dict[str, str]:
    """Return the versions of the packages that are measured."""
    installed = {}
    for name in ("grao", "torch", "transformers", "trl", "liger-kernel"):
        if importlib.util.find_spec(name.replace("-", "_")):
            installed[name] = importlib.metadata.version(name)
    return installed


def measure(folder: Path, work: Work, names: Sequence[str], attention: str) -> dict[str, Any]:
    """Make the data, run the sides in turn, check and print the results, and return the record."""
    (folder / "work.json").write_text(json.dumps(asdict(work)))
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    arguments = [__file__, "--folder", str(folder), "--attention", attention, "--side"]
    subprocess.run([sys.executable, *arguments, "draw"], check=True)
    measured = take_turns({name: [*arguments, name] for name in names}, work.steps)
    check(measured, work.update_only)
    results = {}
    for name, steps in measured.items():
        counted = steps[work.warm :]
        numbers = [key for key, value in counted[0].items() if isinstance(value, float | int)]
        medians = {key: statistics.median(step[key] for step in counted) for key in numbers}
        results[name] = {**medians, "through": counted[0]["through"]}
    data = Data.read(folder)
    table(results, data, work)
    facts = {"device": data.device, "versions": versions(), "work": asdict(work), "sampling": data.seconds}
    return {**facts, "results": results, "steps": measured}


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny, on a CPU")
    parser.add_argument("--varied", action="store_true", default=None, help="completions of varied length")
    parser.add_argument("--update-only", action="store_true", default=None, help="without the rollout")
    for field in fields(Work):
        if field.type is int:
            parser.add_argument(f"--{field.name}", type=int, help=f"{field.default:,} by default")
    parser.add_argument("--attention", default="sdpa", help="TRL's attention implementation")
    parser.add_argument("--sides", nargs="+", choices=list(NAMES)[1:], help="sides to run besides grao")
    parser.add_argument("--output", type=Path, default=Path("gpu_step.json"))
    parser.add_argument("--side")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side:
        serve(options.side, options.folder, options.attention)
        return
    overrides = {
        name: value for name, value in vars(options).items() if value is not None and name in Work.__annotations__
    }
    work = replace(TINY if options.dry_run else Work(), **overrides)
    if work.prompts * work.samples % work.rows:
        raise SystemExit(f"--rows {work.rows} does not divide the {work.prompts * work.samples} completions of a step")
    if work.steps <= work.warm:
        raise SystemExit(f"--steps {work.steps} leaves nothing to measure after {work.warm} warm-up steps")
    if not work.cpu and not has_gpu():
        raise SystemExit("this benchmark needs a GPU; --dry-run runs the same code on a CPU")
    liger = ["trl-liger"] * bool(importlib.util.find_spec("liger_kernel") and not work.cpu)
    vllm = ["trl-vllm"] * bool(importlib.util.find_spec("vllm") and not work.cpu and not work.update_only)
    names = ["grao", *(options.sides or ["trl", "trl-checkpointing", *liger, *vllm])]
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(Path(scratch), work, names, options.attention)
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
