"""Two ways to decode: with a key-value cache, or with a forward pass over the full text for each token.

A cache saves nearly all the work, but the caches of some models do not support copying and selecting rows.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grao.rollouts.decoding import expand_cache

_STATE = "cache_params"
"""Name of a recurrent state. It already accounts for the padding of the prompt, so no mask is passed with it."""
_CACHES = ("past_key_values", _STATE)
"""Names under which models of transformers return and accept their cache."""


class Text(Protocol):
    """The rows of a batch during decoding."""

    logits: Tensor
    """(rows, V), logits of each row's next token."""

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, given by index."""

    def append(self, token: Tensor) -> None:
        """Append one token to each row, (rows,), and update `logits`."""


class CachedText:
    """Decoding with a cache: each prompt is prefilled once and its cache is copied for the answers of its group.

    Args:
        model: a causal language model in evaluation mode.
        ids: (P, T), token ids of the prompts, padded on the left.
        attention: (P, T), 0 on padding.
        samples: answers to each prompt, G; row p * G + g is answer g to prompt p.
        room: most tokens that will be appended.
    """

    def __init__(self, model: nn.Module, ids: Tensor, attention: Tensor, samples: int, room: int) -> None:
        self._model = model
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
        rows = torch.arange(len(ids), device=ids.device).repeat_interleave(samples)
        logits = self._read(ids, attention, positions)
        expand_cache(self._cache, rows, room)
        self.logits, self._attention = logits[rows], attention[rows]

    def keep(self, rows: Tensor) -> None:
        """See `Text.keep`."""
        self._cache.reorder_cache(rows)
        self._attention = self._attention[rows]

    def append(self, token: Tensor) -> None:
        """See `Text.append`."""
        self._attention = torch.cat([self._attention, self._attention.new_ones(len(token), 1)], dim=1)
        positions = self._attention.sum(dim=1, keepdim=True) - 1
        attention = None if self._name == _STATE else self._attention
        self.logits = self._read(token[:, None], attention, positions, **{self._name: self._cache})

    def _read(self, ids: Tensor, attention: Tensor | None, positions: Tensor, **cache: Any) -> Tensor:
        options = {"use_cache": True, "logits_to_keep": 1, **cache}
        output = self._model(input_ids=ids, attention_mask=attention, position_ids=positions, **options)
        self._name = next(name for name in _CACHES if getattr(output, name, None) is not None)
        self._cache: Any = output[self._name]
        logits: Tensor = output.logits[:, -1]
        return logits


class WholeText:
    """Decoding without a cache: every token costs a forward pass over the full text.

    Args:
        model: a causal language model in evaluation mode.
        ids: (P, T), token ids of the prompts, all of the same length.
        attention: ignored.
        samples: answers to each prompt, G.
        room: ignored.
    """

    def __init__(self, model: nn.Module, ids: Tensor, attention: Tensor, samples: int, room: int) -> None:
        self._model, self._ids = model, ids.repeat_interleave(samples, dim=0)
        self.logits = self._read()

    def keep(self, rows: Tensor) -> None:
        """See `Text.keep`."""
        self._ids = self._ids[rows]

    def append(self, token: Tensor) -> None:
        """See `Text.append`."""
        self._ids = torch.cat([self._ids, token[:, None]], dim=1)
        self.logits = self._read()

    def _read(self) -> Tensor:
        logits: Tensor = self._model(input_ids=self._ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits
