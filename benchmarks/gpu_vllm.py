"""Times sampling per token with `rollout.engine: vllm` against the plain loop, and weight loading and sleep mode.

    python benchmarks/gpu_vllm.py [--rows 64] [--lora]

Runs on one GPU, with a random Qwen2 of 0.5 billion weights in bfloat16, prompts of 512 tokens and 8 samples each; no
completion ends early. vLLM and the plain loop take turns, called as in training, with seeds and log-probabilities. The
time per token is the difference between a long and a short rollout divided by the difference in length. At the end,
greedy tokens of both engines and log-probabilities of vLLM and the trainer are compared.
Needs `grao[vllm]`; takes about 2 minutes, one of them for vLLM to start.
"""

import argparse
import random
import statistics
import time

import torch
from common import random_model
from peft import LoraConfig, get_peft_model

from grao.config.vllm import VLLMConfig
from grao.engine.padded import plain_logps
from grao.rollouts.base import Generator, Sampling, make_generator

SAMPLES, PROMPT, SHORT, LONG = 8, 512, 32, 160


def rollout(engine: Generator, policy: torch.nn.Module, rows: int, tokens: int) -> tuple[float, float]:
    """Return the seconds of `sync`, and of sampling, including vLLM's wake-up and sleep."""
    prompts = [[random.randrange(3, 900) for _ in range(PROMPT)] for _ in range(rows // SAMPLES)]
    torch.cuda.synchronize()
    begin = time.perf_counter()
    engine.sync(policy)
    torch.cuda.synchronize()
    loaded = time.perf_counter()
    list(engine.generate(prompts, list(range(len(prompts))), Sampling(SAMPLES, 1.0, 1.0, tokens)))
    torch.cuda.synchronize()
    return loaded - begin, time.perf_counter() - loaded


def main() -> None:
    """Print a line for each engine, and one for the difference between them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--lora", action="store_true", help="with a LoRA adapter, which is merged for vLLM")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU")
    policy = random_model(896, 24, 151_936, num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True)
    policy = policy.to("cuda", torch.bfloat16).eval()
    if options.lora:
        policy = get_peft_model(policy, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    begin = time.perf_counter()
    settings = {"settings": VLLMConfig(memory_share=0.5, context=1024)}
    engines = {
        name: make_generator(name, policy, [151_935], 0, options.rows, True, **extra)
        for name, extra in (("vllm", settings), ("transformers", {}))
    }
    print(f"{torch.cuda.get_device_name()}, {options.rows} rows; started in {time.perf_counter() - begin:.0f} s")
    spent: dict[str, list[tuple[float, float, float]]] = {name: [] for name in engines}
    for turn in range(options.rounds + 1):
        for name, engine in engines.items():
            short, long = (rollout(engine, policy, options.rows, tokens) for tokens in (SHORT, LONG))
            if turn:  # the first round is a warm-up
                spent[name].append((1e3 * (long[1] - short[1]) / (LONG - SHORT), short[1], long[0]))
    for name, times in spent.items():
        token, short_rollout, weights = map(statistics.median, zip(*times, strict=True))
        print(f"{name:13} {token:6.2f} ms/token, {SHORT} tokens in {short_rollout:.2f} s, weights in {weights:.2f} s")
    prompt = [random.randrange(3, 900) for _ in range(PROMPT)]
    greedy = Sampling(1, 0.0, 1.0, SHORT)
    answers = {name: dict(engine.generate([prompt], [0], greedy))[0][0] for name, engine in engines.items()}
    same = sum(a == b for a, b in zip(answers["vllm"].ids, answers["transformers"].ids, strict=False))
    own = plain_logps(policy, prompt, answers["vllm"].ids).cpu()
    gap = (own - torch.tensor(answers["vllm"].logps)).abs().mean().item()
    print(f"greedy: {same} of {SHORT} tokens are equal; mean gap of log-probabilities {gap:.3g} nats")


if __name__ == "__main__":
    main()
