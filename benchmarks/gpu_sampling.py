"""Milliseconds that a sampled token takes on one GPU: the plain loop, captured steps, vLLM where it is installed.

    python benchmarks/gpu_sampling.py                                     half a billion weights, 64 rows
    python benchmarks/gpu_sampling.py --size moonlight --rows 64 256
    python benchmarks/gpu_sampling.py --dry-run                           tiny, on a CPU; its figures mean nothing

Random weights of published shapes in bfloat16, prompts of 512 random tokens, 8 samples each, no completion ends. A
token costs the difference between a long and a short rollout, divided by the difference in length; the seconds of the
first rollouts, in which steps are captured, stand beside it. Models below 2 billion weights are also compared in single
precision: the plain loop and captured steps must take the same greedy tokens. vLLM gets a seed a request, as in
training, and weights of its own.
"""

import argparse
import gc
import importlib.util
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from grao.rollouts.base import Sampling
from grao.rollouts.captured import CapturedGenerator
from grao.rollouts.transformers import TransformersGenerator

QWEN = {"vocab_size": 151_936, "num_key_value_heads": 2, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": QWEN | {
        "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256, "num_attention_heads": 4,
        "vocab_size": 1000,
    },
    "0.5b": QWEN | {
        "hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864, "num_attention_heads": 14,
    },
    "1.5b": QWEN | {
        "hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960, "num_attention_heads": 12,
    },
    "7b": QWEN | {
        "hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18_944, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False,
    },
    "moonlight": {
        "vocab_size": 163_840, "hidden_size": 2048, "intermediate_size": 11_264, "moe_intermediate_size": 1408,
        "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "n_shared_experts": 2,
        "n_routed_experts": 64, "routed_scaling_factor": 2.446, "kv_lora_rank": 512, "q_lora_rank": None,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 6, "first_k_dense_replace": 1, "norm_topk_prob": True,
    },
}  # fmt: skip
SAMPLES, SHORT = 8, 16


def config_of(size: str):
    """The shape as transformers writes it."""
    kind = DeepseekV3Config if "kv_lora_rank" in SHAPES[size] else Qwen2Config
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    return kind(**SHAPES[size], max_position_embeddings=8192, **ends)


def model_of(size: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Random weights with seed 0, made where they stay."""
    torch.manual_seed(0)
    config, before = config_of(size), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = (DeepseekV3ForCausalLM if hasattr(config, "kv_lora_rank") else Qwen2ForCausalLM)(config)
    finally:
        torch.set_default_dtype(before)
    return model.to(dtype).eval()


def prompts_of(rows: int, length: int) -> list[list[int]]:
    """Random ones, one for each 8 rows."""
    return [[random.randrange(3, 900) for _ in range(length)] for _ in range(max(1, rows // SAMPLES))]


def engine_of(name: str, model: PreTrainedModel, rows: int):
    """An engine whose completions never end before they are full."""
    kind = {"plain": TransformersGenerator, "captured": CapturedGenerator}[name]
    engine = kind(model, stop_ids=[model.config.vocab_size], batch_size=rows)
    if name == "captured" and engine.remark:
        raise SystemExit(f"the model is not sampled in slots: {engine.remark}")
    return engine


def measure(run: Callable[[int], Any], tokens: int, wait: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds a token of `run(tokens)`, and the seconds of its first calls."""

    def seconds(count: int) -> float:
        wait()
        begin = time.perf_counter()
        run(count)
        wait()
        return time.perf_counter() - begin

    first = seconds(SHORT + tokens) + seconds(SHORT)
    short, long = (min(seconds(count) for _ in range(2)) for count in (SHORT, SHORT + tokens))
    return {"milliseconds": 1000 * (long - short) / tokens, "first": first}


def ours(name: str, model: PreTrainedModel, rows: int, options: argparse.Namespace, wait) -> dict[str, float]:
    """One of grao's engines."""
    engine = engine_of(name, model, rows)
    keys = list(range(max(1, rows // SAMPLES)))

    def run(tokens: int) -> None:
        list(engine.generate(prompts_of(rows, options.prompt), keys, Sampling(SAMPLES, 1.0, 1.0, tokens)))

    return measure(run, options.tokens, wait)


def vllm(size: str, rows: list[int], options: argparse.Namespace) -> Iterator[tuple[int, dict[str, float]]]:
    """vLLM in this process, with weights that it makes up."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        config = config_of(size)
        config.architectures = ["DeepseekV3ForCausalLM" if hasattr(config, "kv_lora_rank") else "Qwen2ForCausalLM"]
        config.save_pretrained(folder)
        engine = LLM(
            model=folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_num_seqs=max(rows),
            max_model_len=options.prompt + SHORT + options.tokens, gpu_memory_utilization=0.7,
        )  # fmt: skip
        for count in rows:

            def run(tokens: int, count: int = count) -> None:
                chance = {"temperature": 1.0, "max_tokens": tokens, "ignore_eos": True, "detokenize": False}
                requests = [
                    {"prompt_token_ids": prompt} for prompt in prompts_of(count, options.prompt) for _ in range(SAMPLES)
                ]
                params = [SamplingParams(seed=seed, **chance) for seed in range(len(requests))]
                engine.generate(requests, params, use_tqdm=False)

            yield count, measure(run, options.tokens, torch.cuda.synchronize)


def greedy_equal(size: str, device: str, options: argparse.Namespace) -> bool:
    """Whether the plain loop and captured steps take the same tokens in single precision."""
    model = model_of(size, device, torch.float32)
    prompts = [ids[: 7 + 50 * number] for number, ids in enumerate(prompts_of(8 * SAMPLES, options.prompt))]

    def tokens(name: str) -> dict[int, list[tuple[int, ...]]]:
        drawn = engine_of(name, model, 16).generate(prompts, list(range(8)), Sampling(4, 0.0, 1.0, 32))
        return {index: [answer.ids for answer in answers] for index, answers in drawn}

    return tokens("plain") == tokens("captured")


def main() -> None:
    """Prints a line for each engine and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--rows", type=int, nargs="+", default=[64])
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=128, help="tokens that are timed")
    parser.add_argument("--engines", nargs="+", choices=["plain", "captured", "vllm"], default=["plain", "captured"])
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on a CPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("no GPU here; --dry-run goes the same way on a CPU")
    if options.dry_run:
        options.size, options.rows, options.prompt, options.tokens = "tiny", [16], 24, 24
    random.seed(0)
    device, wait = ("cpu", lambda: None) if options.dry_run else ("cuda", torch.cuda.synchronize)
    seen: list[dict[str, Any]] = []

    def say(engine: str, rows: int, **numbers: float) -> None:
        seen.append({"size": options.size, "engine": engine, "rows": rows, **numbers})
        shown = ", ".join(f"{name} {value:.2f}" for name, value in numbers.items())
        print(f"{options.size:10} {engine:9} rows {rows:4}: {shown}", flush=True)

    print("CPU" if options.dry_run else f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    if options.size not in ("7b", "moonlight") and {"plain", "captured"} <= set(options.engines):
        say("greedy", 16, equal=float(greedy_equal(options.size, device, options)))
        gc.collect()
    model = model_of(options.size, device, torch.bfloat16)
    for name in options.engines:
        for rows in options.rows if name != "vllm" else []:
            say(name, rows, **ours(name, model, rows, options, wait))
            gc.collect()
    del model
    gc.collect()
    if "vllm" in options.engines:
        if not importlib.util.find_spec("vllm"):
            raise SystemExit("vllm is not installed")
        if not options.dry_run:
            torch.cuda.empty_cache()
        for rows, numbers in vllm(options.size, options.rows, options):
            say("vllm", rows, **numbers)
    if options.json:
        options.json.write_text(json.dumps(seen, indent=1) + "\n")


if __name__ == "__main__":
    main()
