"""The interface of sampling engines, and the function that builds the one of a run.

Randomness is keyed, not sequential: the uniform number behind a token depends on (seed, step, prompt, sample, position)
alone. So the same completions are drawn on one process or four, before and after a resume.

A sampling engine is a class in a file of its own with the two methods of `Generator`. `make_generator` builds it from
its name in `rollout.engine`: a short name from `ENGINES`, or `package.module:Class`.
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
    """Settings of a rollout."""

    samples: int = 8
    """Completions per prompt, G."""
    temperature: float = 0.7
    """Divides the logits; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling: draw from the smallest set of most likely tokens with at least this probability."""
    max_new_tokens: int = 2048
    """Most tokens of a completion, end token included."""


class Generator(Protocol):
    """A sampling engine."""

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterable[tuple[int, Sequence[Answer]]]:
        """Sample `sampling.samples` completions for each of B prompts.

        Args:
            prompts: B token sequences.
            keys: B random keys; sample g of prompt b depends on (keys[b], g) only.
            sampling: settings of the rollout.

        Returns:
            (prompt index, its G completions) once per prompt, in any order. Yield each group as soon as it is complete,
            so that it is scored while the others are sampled; returning a list is allowed. The ids of an answer end
            with its end token unless it is `truncated`. `logps` are optional; if they are set, their gap to the
            trainer's log-probabilities is logged (`sampler/gap`).
        """

    def sync(self, policy: nn.Module) -> None:
        """Take over the current weights of the policy.

        Called on every process before each rollout and each evaluation. The policy is the transformers model or, with
        LoRA, the `PeftModel`; a method with a critic adds a module `value_head` to it, which sampling ignores. If the
        policy is sharded, vLLM and engines passed as `GRAOTrainer(generator=...)` get the sharded model
        (`grao.engine.sharded`), all others a full copy.

        Args:
            policy: the model in training.
        """


@runtime_checkable
class OwnPrecision(Protocol):
    """An engine that computes in another dtype than the policy."""

    dtype: torch.dtype
    """The dtype in which the engine computes."""


def make_generator(
    engine: str, policy: nn.Module, stop_ids: Sequence[int], pad_id: int, batch_size: int, alone: bool, **options: Any
) -> Generator:
    """Build the sampling engine of a run.

    Args:
        engine: a name in `ENGINES`, `auto` for `captured` on a CUDA device and `transformers` elsewhere, or
            `package.module:Class`; the class is called with the arguments that follow.
        policy: the model that samples: the policy itself, or a copy of it (`grao.rollouts.copies`).
        stop_ids: every token that ends a completion.
        pad_id: any valid token.
        batch_size: largest number of concurrent completions.
        alone: whether this is the only process.
        **options: arguments of this engine only, such as its section of the recipe.

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
        raise InputError(f"rollout.engine: unknown engine {engine!r}; choose {known}, or package.module:Class")
    try:
        build: Callable[..., Generator] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"rollout.engine: cannot import {engine!r}: {error}") from error
    return build(policy, stop_ids, pad_id, batch_size, alone, **options)


def draw_key(*parts: int | str) -> int:
    """Return a 64-bit random key from the parts that identify a draw, such as (seed, step, prompt)."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
