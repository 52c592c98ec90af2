"""Sampling from a transformers model in this process, in a plain Python loop.

Each prompt is prefilled once, its cache is copied for the G samples of the group, and finished rows leave the batch.
At the start, sampled log-probabilities are compared with the model's own forward pass on a few tokens. A slower
method decodes a model that is affected by padding, or whose cache cannot be copied row by row. Left out: speculative
decoding.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from grao.engine.interface import mode, transformers_model
from grao.engine.limits import embedded_tokens
from grao.engine.memory import Budget
from grao.engine.padded import plain_logps
from grao.errors import BrokenNumbersError, InputError, one_line
from grao.rollouts.base import Sampling
from grao.rollouts.decoding import prepacked
from grao.rollouts.reading import CachedText, Text, WholeText
from grao.rollouts.sampling import draw_tokens, keyed_uniforms, token_logps
from grao.types import Answer, TokenIds

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""SDPA kernels for lengths that change: all but cuDNN's, which builds a new plan for every length."""

_GAP, _GAP_HALF = 1e-3, 0.5
"""Nats per token by which sampling may be off a plain forward pass, in single and in half precision."""


class _Method(NamedTuple):
    """A decoding method."""

    text: Callable[[nn.Module, Tensor, Tensor, int, int], Text]
    together: bool
    """Whether prompts of different length share a batch."""
    remark: str
    """Why it is slower than the first method."""


_METHODS = (
    _Method(CachedText, True, ""),
    _Method(CachedText, False, "is affected by padding in front of a prompt, so each prompt is sampled alone"),
    _Method(WholeText, False, "has no cache that can be copied for a group, so each token costs a full forward pass"),
)


class TransformersGenerator:
    """Samples groups with the forward pass of a causal language model.

    Args:
        model: the policy; in evaluation mode while it samples.
        stop_ids: every token that ends a completion.
        pad_id: any valid token.
        batch_size: largest number of concurrent completions, but at least one group; halved if memory runs out.
        alone: whether this is the only process; with several, a process must not halve the batch by itself.

    Raises:
        InputError: if no decoding method reproduces the model's own probabilities.
    """

    def __init__(
        self, model: nn.Module, stop_ids: Sequence[int], pad_id: int = 0, batch_size: int = 64, alone: bool = True
    ) -> None:
        self.model = model
        self.stop_ids = torch.tensor(sorted(set(stop_ids)))
        self.pad_id = pad_id
        self._batch_size = Budget("rollout.batch_size", batch_size, alone)
        self.gap = math.inf
        """Nats per token by which sampled log-probabilities were off a plain forward pass at the start."""
        self._method = self._matching_method()

    @property
    def remark(self) -> str:
        """Why a slower decoding method is used; empty if it is not."""
        return self._method.remark

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`. Prompts of similar length are sampled together, the longest first."""
        waiting = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))

        def next_batch(rows: int) -> tuple[list[int], list[Answer]]:
            chosen = waiting[: max(1, rows // sampling.samples)] if self._method.together else waiting[:1]
            uniforms = keyed_uniforms([keys[index] for index in chosen], sampling)
            return chosen, self._sample([prompts[index] for index in chosen], uniforms, sampling)

        with mode(self.model, training=False), prepacked(self.model), sdpa_kernel(KERNELS):
            while waiting:
                chosen, answers = self._batch_size.run(next_batch, smallest=sampling.samples)
                waiting = waiting[len(chosen) :]
                for row, index in enumerate(chosen):
                    yield index, answers[row * sampling.samples : (row + 1) * sampling.samples]

    def sync(self, policy: nn.Module) -> None:
        """Do nothing: the policy itself samples."""

    def _matching_method(self) -> _Method:
        """Return the first method whose log-probabilities match a plain forward pass."""
        name, reason = type(transformers_model(self.model)).__name__, ""
        for method in _METHODS:
            self._method = method
            samples = max(1, min(4, self._batch_size.size // 2))  # few enough for both test prompts to share a batch
            try:
                self.gap = gap_to_forward(self, samples)
            except (InputError, BrokenNumbersError):
                raise
            except Exception as error:  # a model's code may fail in any way on a cache that is not its own
                reason = one_line(error)
                continue
            if self.gap < tolerated_gap(self.model):
                if method.remark:
                    warnings.warn(f"model: {name} {method.remark}", stacklevel=4)
                return method
            reason = f"sampled tokens are {self.gap:.2g} nats off the probabilities of a plain forward pass"
        raise InputError(f"model: cannot sample from {name} as a causal language model: {reason}")

    @torch.no_grad()
    def _sample(self, prompts: Sequence[TokenIds], uniforms: Tensor, sampling: Sampling) -> list[Answer]:
        """Sample P * G completions of P prompts, group by group, from (P * G, T) uniform numbers.

        Raises:
            BrokenNumbersError: if logits are not finite.
        """
        device = next(self.model.parameters()).device
        stop_ids = self.stop_ids.to(device)
        ids, attention, uniforms = (values.to(device) for values in (*left_pad(prompts, self.pad_id), uniforms))
        text = self._method.text(self.model, ids, attention, sampling.samples, sampling.max_new_tokens)
        tokens = torch.full(uniforms.shape, self.pad_id, device=device)  # (P * G, T)
        logps = torch.zeros(uniforms.shape, device=device)
        lengths = torch.full((len(uniforms),), sampling.max_new_tokens, device=device)
        truncated = torch.ones(len(uniforms), dtype=torch.bool, device=device)
        alive = torch.arange(len(uniforms), device=device)  # index of the completion in each row of the batch
        ended = torch.zeros_like(alive, dtype=torch.bool)

        for step in range(sampling.max_new_tokens):
            token = draw_tokens(text.logits, uniforms[alive, step], sampling.temperature, sampling.top_p)
            live = (~ended).nonzero().squeeze(1)
            rows = alive[live]
            tokens[rows, step] = token[live]
            logps[rows, step] = token_logps(text.logits, token)[live]
            just_ended = torch.isin(token, stop_ids) & ~ended
            lengths[alive[just_ended]], truncated[alive[just_ended]] = step + 1, False
            ended |= just_ended
            if bool(ended.all()) or step + 1 == sampling.max_new_tokens:
                break
            if int(ended.sum()) * 4 >= len(ended):  # copying the cache pays off once a quarter of the rows have ended
                rows = (~ended).nonzero().squeeze(1)
                text.keep(rows)
                token, alive, ended = token[rows], alive[rows], ended[rows]
            text.append(token)

        if not bool(logps.isfinite().all()):  # checked once at the end, because a check per token would cost more
            raise BrokenNumbersError("the model's logits are not finite, so nothing can be sampled from it")
        rows_of_answers = zip(tokens.tolist(), logps.tolist(), lengths.tolist(), truncated.tolist(), strict=True)
        return [
            Answer(tuple(ids[:length]), truncated=cut, logps=tuple(scores[:length]))
            for ids, scores, length, cut in rows_of_answers
        ]


class Checked(Protocol):
    """A generator that can be compared with the model's own forward pass."""

    model: nn.Module
    stop_ids: Tensor

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`."""


def gap_to_forward(generator: Checked, samples: int) -> float:
    """Return the largest gap of a completion: by how many nats per token its `logps` are off a plain forward pass.

    The test has prompts of two lengths, and every second token id is a stop token, so that rows leave the batch.

    Args:
        generator: the one to test; its stop tokens are replaced during the test.
        samples: completions per prompt.
    """
    model, stop_ids, gaps = generator.model, generator.stop_ids, []
    last = embedded_tokens(transformers_model(model)) - 1
    prompts = [[last // part for part in parts] for parts in ((2, 3, 5, 4, 7, 3), (3, 2))]
    generator.stop_ids = torch.arange(0, last, 2)
    try:
        for index, answers in generator.generate(prompts, (0, 1), Sampling(samples, temperature=1.0, max_new_tokens=4)):
            for answer in answers:
                with mode(model, training=False):
                    expected = plain_logps(model, prompts[index], answer.ids)
                gaps.append((expected.cpu() - torch.tensor(answer.logps)).abs().mean().item())
    finally:
        generator.stop_ids = stop_ids
    return max(gaps)


def tolerated_gap(model: nn.Module) -> float:
    """Return the largest acceptable `gap_to_forward` of a model, in nats per token."""
    return _GAP_HALF if next(model.parameters()).dtype.itemsize < 4 else _GAP


def left_pad(prompts: Sequence[TokenIds], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask of left-padded prompts, both (P, longest).

    Args:
        prompts: P token sequences.
        pad_id: any valid token.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    attention = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return ids, torch.tensor(attention)
