"""Sampling from a transformers model in this process.

Each prompt is read once, its cache is copied for the G samples of the group, and rows that have ended leave the batch.
Left out: speculative decoding.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from grao.models.memory import Budget
from grao.models.prepacked import prepacked
from grao.rollouts.cache import expanded
from grao.rollouts.generator import Completion, Done, Sampling, TokenIds

_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, which is prepared anew for every length, which here changes with every token."""


class HuggingFaceGenerator:
    """Samples groups with the forward pass of a causal language model.

    Args:
        model: the policy; it is switched to evaluation mode while it samples, and back.
        stop_ids: every token that ends a completion.
        pad_id: any valid token.
        batch_size: completions sampled at once; halved if memory runs out.
        alone: whether this is the only process; among several it may not halve by itself.
    """

    def __init__(
        self, model: nn.Module, stop_ids: Sequence[int], pad_id: int = 0, batch_size: int = 64, alone: bool = True
    ) -> None:
        self.model = model
        self.stop_ids = torch.tensor(sorted(set(stop_ids)))
        self.pad_id = pad_id
        self._at_once = Budget("rollout.batch_size", batch_size, alone)

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling, done: Done = lambda sampled: None
    ) -> list[list[Completion]]:
        """See `Generator.generate`. Prompts of similar length are sampled together; the result keeps their order."""
        training = self.model.training
        self.model.eval()
        try:
            with prepacked(self.model), sdpa_kernel(_KERNELS):
                return self._at_once.run(lambda rows: self._generate(prompts, keys, sampling, rows, done))
        finally:
            self.model.train(training)

    def _generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling, rows: int, done: Done
    ) -> list[list[Completion]]:
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        at_once = max(1, rows // sampling.samples)
        groups: dict[int, list[Completion]] = {}
        for start in range(0, len(order), at_once):
            chosen = order[start : start + at_once]
            uniforms = keyed_uniforms([keys[index] for index in chosen], sampling)
            rows_of = iter(self._sample([prompts[index] for index in chosen], uniforms, sampling))
            sampled = {index: list(islice(rows_of, sampling.samples)) for index in chosen}
            groups |= sampled
            done(sampled)
        return [groups[index] for index in range(len(prompts))]

    @torch.no_grad()
    def _sample(self, prompts: Sequence[TokenIds], uniforms: Tensor, sampling: Sampling) -> list[Completion]:
        """P prompts -> P * G completions, group by group. `uniforms` is (P * G, T) in [0, 1)."""
        device = next(self.model.parameters()).device
        stop_ids = self.stop_ids.to(device)
        ids, attention = left_pad(prompts, self.pad_id)
        ids, attention, uniforms = ids.to(device), attention.to(device), uniforms.to(device)
        output = self.model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        expanded(cache, sampling.samples, room=sampling.max_new_tokens)
        logits = output.logits[:, -1].repeat_interleave(sampling.samples, dim=0)  # (rows, V)
        attention = attention.repeat_interleave(sampling.samples, dim=0)

        tokens = torch.full(uniforms.shape, self.pad_id, device=device)  # (P * G, T)
        lengths = torch.full((len(uniforms),), sampling.max_new_tokens, device=device)
        truncated = torch.ones(len(uniforms), dtype=torch.bool, device=device)
        alive = torch.arange(len(uniforms), device=device)  # which completion each row of the batch belongs to
        ended = torch.zeros_like(alive, dtype=torch.bool)

        for step in range(sampling.max_new_tokens):
            token = draw_tokens(logits, uniforms[alive, step], sampling.temperature, sampling.top_p)
            tokens[alive[~ended], step] = token[~ended]
            newly = torch.isin(token, stop_ids) & ~ended
            lengths[alive[newly]], truncated[alive[newly]] = step + 1, False
            ended |= newly
            if bool(ended.all()) or step + 1 == sampling.max_new_tokens:
                break
            if int(ended.sum()) * 4 >= len(ended):  # copying the cache pays from a quarter on
                rows = (~ended).nonzero().squeeze(1)
                cache.batch_select_indices(rows)
                token, attention, alive, ended = token[rows], attention[rows], alive[rows], ended[rows]
            attention = torch.cat([attention, attention.new_ones(len(attention), 1)], dim=1)
            logits = self.model(
                input_ids=token[:, None],
                attention_mask=attention,
                position_ids=attention.sum(dim=1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]

        rows_of_ids = tokens.tolist()
        return [
            Completion(token_ids=tuple(row[:length]), truncated=cut)
            for row, length, cut in zip(rows_of_ids, lengths.tolist(), truncated.tolist(), strict=True)
        ]


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token per row by inversion: the first whose cumulative probability exceeds the row's uniform number.

    Args:
        logits: (rows, V).
        uniforms: (rows,) in [0, 1), float64.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keeps the smallest set of most likely tokens whose probability reaches it.

    Returns:
        (rows,), token ids.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True)
        before = ranked.double().cumsum(dim=-1) - ranked
        place = _invert(ranked * (before < top_p), uniforms)
        return order.gather(-1, place[:, None]).squeeze(-1)
    return _invert(probabilities, uniforms)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Index of the first cumulative weight above uniform * total, (rows,). Never an index of weight 0."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))  # rounding must not reach it
    return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)


def keyed_uniforms(keys: Sequence[int], sampling: Sampling) -> Tensor:
    """(P * G, T) uniform numbers in [0, 1), row (b, g) from the counter-based generator keyed by (keys[b], g)."""
    rows = [
        np.random.Generator(np.random.Philox(key=np.array([key, sample], dtype=np.uint64))).random(
            sampling.max_new_tokens
        )
        for key in keys
        for sample in range(sampling.samples)
    ]
    return torch.from_numpy(np.stack(rows))


def left_pad(prompts: Sequence[TokenIds], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (P, longest), the prompts flush with the right edge."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    attention = (torch.arange(longest)[None] >= (longest - lengths)[:, None]).long()
    return ids, attention
