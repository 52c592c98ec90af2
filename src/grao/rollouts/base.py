"""What every sampling engine promises, and which one a run uses.

Randomness is keyed, never ordered: the uniform number behind a token depends on (seed, step, prompt, sample, position)
alone, so that one process or four, before or after a resume, draw the same completions.

A sampling engine is one file: a class that is built from what `make_generator` hands over and has the two methods of
`Generator`. Those in `ENGINES` go by a short name, any other by `package.module:Class` in `rollout.engine`.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from grao.errors import InputError
from grao.types import Answer, TokenIds

ENGINES = {
    "transformers": "grao.rollouts.transformers:TransformersGenerator",
    "captured": "grao.rollouts.captured:CapturedGenerator",
    "vllm": "grao.rollouts.vllm:VLLMGenerator",
    "vllm-server": "grao.rollouts.vllm_server:VLLMServerGenerator",
}
"""Name in a recipe -> module and class."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    samples: int = 8
    """Completions per prompt, G."""
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 1.0
    max_new_tokens: int = 2048


class Generator(Protocol):
    """A sampling engine."""

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterable[tuple[int, Sequence[Answer]]]:
        """Samples `sampling.samples` completions of each of B prompts.

        Args:
            prompts: B token sequences.
            keys: B; sample g of prompt b depends on (keys[b], g) only.
            sampling: how many, and how to draw them.

        Returns:
            (index of the prompt, its G completions), each prompt once, in any order, as soon as they are finished: a
            judge reads them while the others are sampled. An engine that has all of them at once returns a list.
            The ids of an answer end with the token that ended it, unless it is `truncated`. `logps` may be left out;
            where they are given, the gap to the trainer's own is logged (`sampler/gap`).
        """

    def sync(self, policy: nn.Module) -> None:
        """Takes over the weights of the policy, which may have changed.

        Called on every process before each rollout and each evaluation. The policy is the transformers model or, with
        LoRA, the `PeftModel`; a method with a critic adds a module `value_head` to it, which sampling leaves alone.
        An engine of `GRAOTrainer(generator=...)` gets a policy that is split over processes as it is
        (`grao.engine.sharded`), all others but vLLM a whole copy.
        """


@runtime_checkable
class OwnPrecision(Protocol):
    """An engine that computes with other weights than the policy's own."""

    dtype: torch.dtype
    """What it computes in."""


def make_generator(
    engine: str, policy: nn.Module, stop_ids: Sequence[int], pad_id: int, batch_size: int, alone: bool, **own: Any
) -> Generator:
    """The sampling engine of a run.

    Args:
        engine: a name in `ENGINES`, `auto` for `captured` on a CUDA device and `transformers` elsewhere, or
            `package.module:Class`; the class is called with the arguments that follow.
        policy: the model that samples: the policy as it is trained, or a copy (`grao.rollouts.copies`).
        stop_ids: every token that ends a completion.
        pad_id: any valid token.
        batch_size: completions sampled at once.
        alone: whether this is the only process.
        own: what only this engine is told, its section of the recipe.

    Returns:
        The engine, ready to sample.

    Raises:
        InputError: if there is no such engine.
    """
    if engine == "auto":
        engine = "captured" if next(policy.parameters()).device.type == "cuda" else "transformers"
    module, colon, name = ENGINES.get(engine, engine).partition(":")
    if not colon:
        known = ", ".join(("auto", *ENGINES))
        raise InputError(f"rollout.engine: there is no engine {engine!r}, only {known}, or package.module:Class")
    try:
        build: Callable[..., Generator] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"rollout.engine: cannot import {engine!r}: {error}") from error
    return build(policy, stop_ids, pad_id, batch_size, alone, **own)


def draw_key(*parts: int | str) -> int:
    """A 64-bit key from what identifies a draw, such as (seed, step, prompt)."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
