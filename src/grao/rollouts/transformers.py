"""Sampling from a transformers model in this process.

Each prompt is read once, its cache is copied for the G samples of the group, and rows that have ended leave the batch.
Left out: speculative decoding.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from grao.engine.memory import Budget
from grao.errors import BrokenNumbersError
from grao.rollouts.base import Sampling
from grao.rollouts.decoding import expanded, prepacked
from grao.rollouts.sampling import draw_tokens, keyed_uniforms
from grao.types import Answer, TokenIds

_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, which is prepared anew for every length, which here changes with every token."""


class TransformersGenerator:
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
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`. Prompts of similar length are sampled together, the longest first."""
        waiting = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))

        def next_batch(rows: int) -> tuple[list[int], list[Answer]]:
            chosen = waiting[: max(1, rows // sampling.samples)]
            uniforms = keyed_uniforms([keys[index] for index in chosen], sampling)
            return chosen, self._sample([prompts[index] for index in chosen], uniforms, sampling)

        training = self.model.training
        self.model.eval()
        try:
            with prepacked(self.model), sdpa_kernel(_KERNELS):
                while waiting:
                    chosen, answers = self._at_once.run(next_batch)
                    waiting = waiting[len(chosen) :]
                    for row, index in enumerate(chosen):
                        yield index, answers[row * sampling.samples : (row + 1) * sampling.samples]
        finally:
            self.model.train(training)

    def sync(self, policy: nn.Module) -> None:
        """Nothing to do: the policy itself samples."""

    @torch.no_grad()
    def _sample(self, prompts: Sequence[TokenIds], uniforms: Tensor, sampling: Sampling) -> list[Answer]:
        """P prompts -> P * G completions, group by group. `uniforms` is (P * G, T) in [0, 1)."""
        device = next(self.model.parameters()).device
        stop_ids = self.stop_ids.to(device)
        ids, attention, uniforms = (values.to(device) for values in (*left_pad(prompts, self.pad_id), uniforms))
        positions, options = (attention.cumsum(dim=1) - 1).clamp(min=0), {"use_cache": True, "logits_to_keep": 1}
        output = self.model(input_ids=ids, attention_mask=attention, position_ids=positions, **options)
        cache = output.past_key_values
        expanded(cache, sampling.samples, room=sampling.max_new_tokens)
        logits = output.logits[:, -1].repeat_interleave(sampling.samples, dim=0)  # (rows, V)
        attention = attention.repeat_interleave(sampling.samples, dim=0)

        tokens = torch.full(uniforms.shape, self.pad_id, device=device)  # (P * G, T)
        logps = torch.zeros(uniforms.shape, device=device)
        lengths = torch.full((len(uniforms),), sampling.max_new_tokens, device=device)
        truncated = torch.ones(len(uniforms), dtype=torch.bool, device=device)
        alive = torch.arange(len(uniforms), device=device)  # which completion each row of the batch belongs to
        ended = torch.zeros_like(alive, dtype=torch.bool)

        for step in range(sampling.max_new_tokens):
            token = draw_tokens(logits, uniforms[alive, step], sampling.temperature, sampling.top_p)
            scores, live = logits.float(), (~ended).nonzero().squeeze(1)
            rows = alive[live]
            tokens[rows, step] = token[live]
            logps[rows, step] = (scores.gather(-1, token[:, None]).squeeze(-1) - scores.logsumexp(-1))[live]
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
                **options,
            ).logits[:, -1]

        if not bool(logps.isfinite().all()):  # one look at the end: a look at every token would cost more
            raise BrokenNumbersError("the model's logits are not finite, so nothing can be sampled from it")
        rows_of_answers = zip(tokens.tolist(), logps.tolist(), lengths.tolist(), truncated.tolist(), strict=True)
        return [
            Answer(tuple(ids[:length]), truncated=cut, logps=tuple(logps_[:length]))
            for ids, logps_, length, cut in rows_of_answers
        ]


def left_pad(prompts: Sequence[TokenIds], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (P, longest), the prompts flush with the right edge."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    attention = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return ids, torch.tensor(attention)
