"""Measures whether sampler and trainer route tokens alike, and what replaying the sampler's routing would gain.

    python benchmarks/router_gap.py

A mixture-of-experts model of the embedded world samples from a bfloat16 copy, as on a GPU. On the sampled tokens, the
copy's log-probabilities are compared with the trainer's, in single precision and under bfloat16 autocast; then the
trainer is forced to use the experts that the copy chose. A dense model with as many active weights shows the gap that
is due to rounding alone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from grao.engine.experts import Experts
from grao.engine.loading import load_model, load_tokenizer, stop_token_ids
from grao.rollouts.base import Sampling, draw_key
from grao.rollouts.transformers import TransformersGenerator
from grao.sandbox.world import Sandbox, prepare

PROMPTS, SAMPLES = 64, 8


def logps(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    """Return the log-probabilities of an answer's tokens, (T,)."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(dim=-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)


@contextmanager
def replayed(experts: Experts, choices: list[Tensor]) -> Iterator[None]:
    """Force each layer to use these experts, weighted by its own router."""

    def force(index: int) -> Any:
        def hook(router: Any, inputs: Any, output: Any) -> Any:
            logits, scores, _ = output
            weights = logits.float().softmax(dim=-1).gather(-1, choices[index])
            if router.norm_topk_prob:
                weights = weights / weights.sum(dim=-1, keepdim=True)
            return logits, weights.to(scores.dtype), choices[index]

        return hook

    hooks = [layer.router.register_forward_hook(force(index)) for index, layer in enumerate(experts.layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def measure(ability: str, architecture: str, world: Sandbox) -> None:
    """Print the log-probability gaps of a model of the world."""
    model, tokenizer = load_model(str(world.model)), load_tokenizer(str(world.model))
    copy = deepcopy(model).to(torch.bfloat16)
    rows = [json.loads(line) for line in world.train.read_text("utf-8").splitlines()[:PROMPTS]]
    prompts = [tokenizer(row["prompt"]).input_ids for row in rows]
    generator = TransformersGenerator(copy, stop_token_ids(model, tokenizer))
    keys = [draw_key(0, index) for index in range(len(prompts))]
    drawn = dict(generator.generate(prompts, keys, Sampling(SAMPLES, 0.7, 1.0, 40)))
    experts, copy_experts = Experts.of(model), Experts.of(copy)
    autocast = torch.autocast("cpu", torch.bfloat16)
    for name, precision in (("single precision", nullcontext()), ("bfloat16 autocast", autocast)):
        gaps, replay_gaps, rerouted = [], [], []
        for index, prompt in enumerate(prompts):
            for answer in drawn[index]:
                ids, sampler = list(answer.ids), torch.tensor(answer.logps)
                with copy_experts.recorded_choices() if copy_experts else nullcontext([]) as of_copy:
                    logps(copy, prompt, ids)
                with precision, experts.recorded_choices() if experts else nullcontext([]) as of_model:
                    gaps.append((logps(model, prompt, ids) - sampler).abs())
                if of_copy:
                    pairs = zip(of_model, of_copy, strict=True)
                    differ = [(a[..., None] != b[..., None, :]).all(dim=-1).any(dim=-1) for a, b in pairs]
                    rerouted.append(torch.stack(differ)[:, len(prompt) - 1 : -1])
                    with precision, replayed(experts, of_copy):
                        replay_gaps.append((logps(model, prompt, ids) - sampler).abs())
        gap = torch.cat(gaps)
        line = f"{ability} {architecture}, {name}: {len(gap):,} tokens, gap {gap.mean():.2e}, largest {gap.max():.2f}"
        if rerouted:
            flips = torch.cat(rerouted, dim=1)
            token = flips.any(dim=0)
            replay = torch.cat(replay_gaps)
            line += (
                f"; other experts at {flips.float().mean():.2%} of routers, {token.float().mean():.2%} of tokens; "
                f"gap there {gap[token].mean():.2e}, elsewhere {gap[~token].mean():.2e}; "
                f"replayed {replay.mean():.2e}, largest {replay.max():.2f}, there {replay[token].mean():.2e}"
            )
        print(line)


if __name__ == "__main__":
    for architecture in ("dense", "moe"):
        measure("weak", architecture, prepare("weak", architecture, 0))
