"""Do sampler and trainer route alike, and what would it help to replay the sampler's routing in the trainer?

A mixture of experts of the embedded world answers from a copy in bfloat16, as on a GPU. On the tokens that it drew
its log-probabilities are compared with the trainer's: in single precision, and under bfloat16 autocast. Then the
trainer is made to take the experts that the copy took. A dense model with as many active weights stands beside it: what
its rounding alone makes of the gap.

    python benchmarks/router_gap.py
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
    """(T,), of an answer's tokens."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(dim=-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)


@contextmanager
def replayed(experts: Experts, choices: list[Tensor]) -> Iterator[None]:
    """Inside, each layer takes these experts, with the weights that its own router gives them."""

    def force(index: int) -> Any:
        def hook(router: Any, inputs: Any, output: Any) -> Any:
            logits, scores, _ = output
            given = logits.float().softmax(dim=-1).gather(-1, choices[index])
            if router.norm_topk_prob:
                given = given / given.sum(dim=-1, keepdim=True)
            return logits, given.to(scores.dtype), choices[index]

        return hook

    hooks = [layer.router.register_forward_hook(force(index)) for index, layer in enumerate(experts.layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def measure(ability: str, architecture: str, world: Sandbox) -> None:
    """Prints what one model of the world shows."""
    model, tokenizer = load_model(str(world.model)), load_tokenizer(str(world.model))
    copy = deepcopy(model).to(torch.bfloat16)
    rows = [json.loads(line) for line in world.train.read_text("utf-8").splitlines()[:PROMPTS]]
    prompts = [tokenizer(row["prompt"]).input_ids for row in rows]
    generator = TransformersGenerator(copy, stop_token_ids(model, tokenizer))
    keys = [draw_key(0, index) for index in range(len(prompts))]
    drawn = dict(generator.generate(prompts, keys, Sampling(SAMPLES, 0.7, 1.0, 40)))
    experts = {id(one): Experts.of(one) for one in (model, copy)}
    autocast = torch.autocast("cpu", torch.bfloat16)
    for name, half in (("single precision", nullcontext()), ("bfloat16 autocast", autocast)):
        gaps, again, moved = [], [], []
        for index, prompt in enumerate(prompts):
            for answer in drawn[index]:
                ids, sampler = list(answer.ids), torch.tensor(answer.logps)
                with experts[id(copy)].recorded_choices() if experts[id(copy)] else nullcontext([]) as of_copy:
                    logps(copy, prompt, ids)
                with half, experts[id(model)].recorded_choices() if experts[id(model)] else nullcontext([]) as of_model:
                    gaps.append((logps(model, prompt, ids) - sampler).abs())
                if of_copy:
                    pairs = zip(of_model, of_copy, strict=True)
                    other = [(a[..., None] != b[..., None, :]).all(dim=-1).any(dim=-1) for a, b in pairs]
                    moved.append(torch.stack(other)[:, len(prompt) - 1 : -1])
                    with half, replayed(experts[id(model)], of_copy):
                        again.append((logps(model, prompt, ids) - sampler).abs())
        gap = torch.cat(gaps)
        words = f"{ability} {architecture}, {name}: {len(gap):,} tokens, gap {gap.mean():.2e}, largest {gap.max():.2f}"
        if moved:
            flips = torch.cat(moved, dim=1)
            token = flips.any(dim=0)
            replay = torch.cat(again)
            words += (
                f"; other experts at {flips.float().mean():.2%} of routers, {token.float().mean():.2%} of tokens; "
                f"gap there {gap[token].mean():.2e}, elsewhere {gap[~token].mean():.2e}; "
                f"replayed {replay.mean():.2e}, largest {replay.max():.2f}, there {replay[token].mean():.2e}"
            )
        print(words)


if __name__ == "__main__":
    for architecture in ("dense", "moe"):
        measure("weak", architecture, prepare("weak", architecture, 0))
