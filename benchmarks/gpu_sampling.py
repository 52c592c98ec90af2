"""Times sampling per token on one GPU: the plain loop, captured steps and, if installed, vLLM.

    python benchmarks/gpu_sampling.py                                     0.5 billion weights, 64 rows
    python benchmarks/gpu_sampling.py --size moonlight --rows 64 256
    python benchmarks/gpu_sampling.py --dry-run                           tiny model on a CPU; its numbers mean nothing

The models have published shapes and random weights in bfloat16. Prompts are 512 random tokens with 8 samples each, and
no completion ends early. The time per token is the difference between a long and a short rollout divided by the
difference in length; the seconds of the first rollouts, in which steps are captured, are reported too. For models below
2 billion weights, the greedy tokens of the plain loop and of captured steps are compared in single precision. vLLM is
called as in training: with the model's weights, a seed per request, and log-probabilities.
"""

import argparse
import gc
import importlib.util
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_models import SHAPES, config_of, model_of
from transformers import PreTrainedModel

from grao.config.vllm import VLLMConfig
from grao.rollouts.base import Generator, Sampling, make_generator

SAMPLES, SHORT = 8, 16
ENGINES = {"plain": "transformers", "captured": "captured", "vllm": "vllm"}


def prompts_of(rows: int, length: int) -> list[list[int]]:
    """Return random prompts of `length` tokens, one for every 8 rows."""
    return [[random.randrange(3, 900) for _ in range(length)] for _ in range(max(1, rows // SAMPLES))]


def engine_of(name: str, model: PreTrainedModel, rows: int) -> Generator:
    """Return an engine whose completions always reach the full length."""
    if name == "vllm" and not importlib.util.find_spec("vllm"):
        raise SystemExit("vllm is not installed")
    options = {"settings": VLLMConfig(memory_share=0.5)} if name == "vllm" else {}
    stops = [] if name == "vllm" else [model.config.vocab_size]  # outside the vocabulary, which vLLM would reject
    engine = make_generator(ENGINES[name], model, stops, 0, rows, True, **options)
    if remark := getattr(engine, "remark", ""):
        raise SystemExit(f"the model is not sampled in slots: {remark}")
    engine.sync(model)
    return engine


def measure(run: Callable[[int], Any], tokens: int, wait: Callable[[], Any]) -> dict[str, float]:
    """Return the milliseconds per token of `run(tokens)`, and the seconds of its first two calls."""

    def seconds(count: int) -> float:
        wait()
        begin = time.perf_counter()
        run(count)
        wait()
        return time.perf_counter() - begin

    first = seconds(SHORT + tokens) + seconds(SHORT)
    short, long = (min(seconds(count) for _ in range(2)) for count in (SHORT, SHORT + tokens))
    return {"milliseconds": 1000 * (long - short) / tokens, "first": first}


def timed(name: str, model: PreTrainedModel, rows: int, options: argparse.Namespace, wait) -> dict[str, float]:
    """Measure one engine."""
    engine = engine_of(name, model, rows)
    keys = list(range(max(1, rows // SAMPLES)))

    def run(tokens: int) -> None:
        list(engine.generate(prompts_of(rows, options.prompt), keys, Sampling(SAMPLES, 1.0, 1.0, tokens)))

    return measure(run, options.tokens, wait)


def greedy_equal(size: str, device: str, options: argparse.Namespace) -> bool:
    """Whether the plain loop and captured steps choose the same greedy tokens in single precision."""
    model = model_of(config_of(size), device, torch.float32).eval()
    prompts = [ids[: 7 + 50 * number] for number, ids in enumerate(prompts_of(8 * SAMPLES, options.prompt))]

    def tokens(name: str) -> dict[int, list[tuple[int, ...]]]:
        groups = engine_of(name, model, 16).generate(prompts, list(range(8)), Sampling(4, 0.0, 1.0, 32))
        return {index: [answer.ids for answer in answers] for index, answers in groups}

    return tokens("plain") == tokens("captured")


def main() -> None:
    """Print a line for each engine and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--rows", type=int, nargs="+", default=[64])
    parser.add_argument("--prompt", type=int, default=512, help="tokens per prompt")
    parser.add_argument("--tokens", type=int, default=128, help="timed tokens")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=["plain", "captured"])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--dry-run", action="store_true", help="tiny model on a CPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU; --dry-run runs the same code on a CPU")
    if options.dry_run:
        options.size, options.rows, options.prompt, options.tokens = "tiny", [16], 24, 24
    random.seed(0)
    device, wait = ("cpu", lambda: None) if options.dry_run else ("cuda", torch.cuda.synchronize)
    records: list[dict[str, Any]] = []

    def report(engine: str, rows: int, **numbers: float) -> None:
        records.append({"size": options.size, "engine": engine, "rows": rows, **numbers})
        text = ", ".join(f"{name} {value:.2f}" for name, value in numbers.items())
        print(f"{options.size:10} {engine:9} rows {rows:4}: {text}", flush=True)

    print("CPU" if options.dry_run else f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    if options.size not in ("7b", "moonlight") and {"plain", "captured"} <= set(options.engines):
        report("greedy", 16, equal=float(greedy_equal(options.size, device, options)))
        gc.collect()
    model = model_of(config_of(options.size), device, torch.bfloat16).eval()
    for name in options.engines:
        for rows in options.rows:
            report(name, rows, **timed(name, model, rows, options, wait))
            gc.collect()
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
