"""Similarity in meaning to the reference, by any encoder that transformers loads. No sentence-transformers.

The last layer's vectors are averaged over all tokens, which is what most sentence encoders were trained for. Left out:
pooling of another kind, prefixes such as `query:`, and a projection behind the encoder.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.models.rows import forward_rows, local_device
from grao.rewards.functions import Relative, difference
from grao.rewards.reward import RewardBatch


class EmbeddingSimilarity:
    """R(o, y) from r(x) = cosine of the vectors of x and y; r(y) is 1, so it can at best tie with the reference.

    Args:
        encoder: a model without output layer; it moves to this process's GPU if there is one.
        tokenizer: its. Longer texts are cut at the model's positions.
        relative: how two scores become R(o, y).
        name: for logs.
        token_budget: padded tokens that are encoded at once (memory).
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        relative: Relative = difference,
        name: str = "embedding",
        token_budget: int = 16384,
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False).to(local_device())
        self.tokenizer, self._relative, self._name, self._token_budget = tokenizer, relative, name, token_budget

    @property
    def name(self) -> str:
        """Short name for logs."""
        return self._name

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        width = len(batch.completions[0]) + 1
        groups = zip(batch.completions, batch.references, strict=True)
        vectors = self.vectors([text for group, y in groups for text in (*group, y)])
        vectors = vectors.view(len(batch.references), width, -1)  # (B, G + 1, hidden)
        scores = (vectors * vectors[:, -1:]).sum(dim=-1)
        return self._relative(scores[:, :-1], scores[:, -1:])

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of N texts, (N, hidden) float64; of an empty text 0."""
        positions = getattr(self.encoder.config.get_text_config(), "max_position_embeddings", math.inf)
        longest = min(positions, self.tokenizer.model_max_length)
        ids: list[list[int]] = self.tokenizer(list(texts), verbose=False)["input_ids"]
        pad_id = int(self.tokenizer.pad_token_id or 0)
        # A text without tokens is encoded as padding and then taken out.
        sequences = [one[: int(longest)] or [pad_id] for one in ids]
        vectors = normalize(forward_rows(self.encoder, sequences, pad_id, self._token_budget, _mean), dim=-1)
        vectors[[place for place, one in enumerate(ids) if not one]] = 0.0
        return vectors


def _mean(output: Any, mask: Tensor) -> Tensor:
    """Mean over the tokens of each row, (S, hidden)."""
    vectors: Tensor = output.last_hidden_state  # (S, T, hidden)
    weights = mask[..., None].to(vectors.dtype)
    return (vectors * weights).sum(dim=1) / weights.sum(dim=1)
