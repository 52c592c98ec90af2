"""Milliseconds that a token of a rollout takes on one GPU in bf16: grao's generator against transformers' `generate`.

    python benchmarks/gpu_sampling.py                 a random model of half a billion weights
    python benchmarks/gpu_sampling.py --dry-run       a tiny one on a CPU; its figures mean nothing

8 prompts, 8 samples each, no row ends. Each side samples at lengths that no call had before, as in training, where
prompts differ from step to step, and then at the same lengths once more. `grao, cuDNN too` lets PyTorch choose cuDNN's
attention, as it does by itself where a mask is given. The sides take turns in one process.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict

import torch
from common import random_model
from torch.nn.attention import SDPBackend

from grao.rollouts import transformers
from grao.rollouts.base import Sampling
from grao.rollouts.transformers import TransformersGenerator

PROMPTS, SAMPLES = 8, 8
PLAIN = list(transformers._KERNELS)


def prompts_of(length: int) -> list[list[int]]:
    """Random ones, all of one length."""
    return [[random.randrange(3, 500) for _ in range(length)] for _ in range(PROMPTS)]


def sample(model, length: int, tokens: int, kernels: list[SDPBackend]) -> None:
    """grao's way."""
    transformers._KERNELS = kernels
    generator = TransformersGenerator(model, stop_ids=[model.config.vocab_size], batch_size=PROMPTS * SAMPLES)
    list(generator.generate(prompts_of(length), list(range(PROMPTS)), Sampling(SAMPLES, 1.0, 1.0, tokens)))


def generate(model, length: int, tokens: int) -> None:
    """transformers' way."""
    ids = torch.tensor(prompts_of(length), device=model.device).repeat_interleave(SAMPLES, 0)
    chance = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, eos_token_id=None, pad_token_id=0, **chance
    )


def main() -> None:
    """Prints a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny, on a CPU")
    parser.add_argument("--tokens", type=int, default=40, help="new tokens a call (default 40)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("no GPU here; --dry-run goes the same way on a CPU")
    size = (128, 2, 600) if options.dry_run else (896, 24, 151_936)
    model = random_model(*size, num_attention_heads=size[0] // 64, num_key_value_heads=2, tie_word_embeddings=True)
    model = model.to("cpu" if options.dry_run else "cuda", torch.bfloat16).eval()
    sides = {
        "grao": lambda length: sample(model, length, options.tokens, PLAIN),
        "grao, cuDNN too": lambda length: sample(model, length, options.tokens, [*PLAIN, SDPBackend.CUDNN_ATTENTION]),
        "transformers": lambda length: generate(model, length, options.tokens),
    }
    for side in sides.values():
        side(8)
    seen: dict[tuple[str, str], list[float]] = defaultdict(list)
    places = [100 + (options.tokens + 8) * place for place in range(options.rounds * len(sides))]  # no two overlap
    for turn, length in enumerate(places):
        name = list(sides)[turn % len(sides)]
        for kind in ("lengths not seen", "the same lengths"):
            if not options.dry_run:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            sides[name](length)
            if not options.dry_run:
                torch.cuda.synchronize()
            seen[name, kind].append(1000 * (time.perf_counter() - begin) / options.tokens)
    print("CPU" if options.dry_run else torch.cuda.get_device_name())
    for (name, kind), spent in seen.items():
        print(f"{name:18} {kind:18} {statistics.median(spent):7.1f} ms a token")


if __name__ == "__main__":
    main()
