"""Scores of whole texts by a model: a reward model's output, or an encoder's similarity to the reference.

Not supported: pairwise models that read two answers at once (use a judge), process rewards and several outputs; for
encoders, pooling other than the mean, prefixes such as `query:`, and a projection after the encoder.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.chat import conversation_ids, set_arguments
from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig, RewardModelConfig
from grao.engine.limits import check_tokens, padding_id, positions
from grao.engine.loading import check_finite, load_reward_model, load_tokenizer
from grao.engine.padded import plan_padded
from grao.errors import InputError
from grao.rewards.base import Columns, Relative, RewardBatch, Scored, ScoredReward, difference, relative_of
from grao.types import Prompt

_Read = Callable[[Any, Tensor], Tensor]
"""(output of a model, attention mask (S, T)) -> (S, ...), one result for each row."""


class _ModelReward(ScoredReward):
    """Scores from the forward pass of a frozen model.

    Args:
        model: moved to this process's GPU if there is one.
        tokenizer: the model's.
        relative: computes R(o, y) from the scores of completions and references.
        name: for logs; by default `model` or `embedding`.
        token_budget: padded tokens per forward pass; affects memory, not scores.

    Raises:
        InputError: if a weight of the model is not finite.
    """

    _kind = "model"
    reserved = frozenset()

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        relative: Relative = difference,
        name: str | None = None,
        token_budget: int = 16384,
    ) -> None:
        super().__init__(name or self._kind, relative)
        check_finite(model, f"reward {self.name}")
        self.model = model.eval().requires_grad_(False).to(local_device())
        self.tokenizer, self._token_budget = tokenizer, token_budget
        self._pad_id = padding_id(tokenizer, model)
        self._longest = int(min(positions(model) or math.inf, tokenizer.model_max_length))

    def _shortened(
        self, sequences: Iterable[list[int]], note: str, cut: Callable[[list[int]], list[int]]
    ) -> list[list[int]]:
        """Truncate sequences that are longer than the model can read, with a warning."""
        whole = list(sequences)
        check_tokens(self.model, self.tokenizer, f"reward {self.name}", [max(ids, default=0) for ids in whole])
        if any(len(ids) > self._longest for ids in whole):
            warnings.warn(
                f"reward {self.name}: texts of more than {self._longest} tokens are truncated; {note}", stacklevel=3
            )
        return [ids if len(ids) <= self._longest else cut(ids) for ids in whole]


class RewardModel(_ModelReward):
    """r(x) is the output of a sequence classifier with one output, whose tokenizer has a padding token.

    Prompt and answer are encoded as in `grao reward train` (`conversation_ids`). Sequences that are longer than the
    model can read are truncated on the left, so that the answer stays; a special token at the beginning is kept.
    """

    @classmethod
    def load(cls, path: str, dtype: str = "auto", **options: Any) -> "RewardModel":
        """Load a reward model and its tokenizer.

        Args:
            path: folder, such as `model/` of `grao reward train`, or hub id.
            dtype: number format of the weights; `auto` uses the checkpoint's.
            options: `relative`, `name` and `token_budget` of the reward.

        Raises:
            InputError: if `path` is not a reward model.
        """
        return cls(load_reward_model(path, dtype), load_tokenizer(path), **options)

    @classmethod
    def of(cls, model: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> "RewardModel":
        """Make a reward from a model in memory.

        Args:
            model: a sequence classifier with one output, or the folder or hub id of one.
            tokenizer: the model's; by default it is loaded from the path of the model.

        Raises:
            InputError: if the model does not have exactly one output, or there is no tokenizer.
        """
        model = load_reward_model(model) if isinstance(model, str) else model
        path, outputs = str(model.config._name_or_path), getattr(model.config, "num_labels", 0)
        if outputs != 1 or not hasattr(model, "can_generate") or model.can_generate():
            kind = type(model).__name__
            raise InputError(f"rewards: {kind} is not a reward model (a sequence classifier with one output)")
        if tokenizer is None and not path:
            raise InputError(f"rewards: {type(model).__name__} has no tokenizer; pass a pair of model and tokenizer")
        tokenizer = tokenizer or load_tokenizer(path)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return cls(model, tokenizer, name=Path(path).name or None)

    @classmethod
    def from_section(cls, config: RewardModelConfig, section: RewardConfig, recipe: Recipe) -> "RewardModel":
        """See `grao.rewards.mix.SOURCES`."""
        options = {"relative": relative_of(section), "name": section.name, "token_budget": config.token_budget}
        reward = cls.load(config.path, config.dtype, **options)
        set_arguments(reward.tokenizer, config.chat_template_kwargs, "rewards: model.chat_template_kwargs")
        return reward

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns | None = None) -> Tensor:
        """See `ScoredReward.scores`; columns are ignored.

        Raises:
            InputError: if the chat template rejects a conversation.
        """
        # The model reads its output at the last token before the padding.
        self.model.config.get_text_config().pad_token_id = self._pad_id
        ids = conversation_ids(self.tokenizer, prompts, answers)
        sequences = self._shortened(ids, "the end, with the answer, is kept", self._cut_left)
        return forward_rows(self.model, sequences, self._pad_id, self._token_budget, _output)

    def _cut_left(self, ids: list[int]) -> list[int]:
        # A classifier may read its output at a special token in front.
        first = [token for token in ids[:1] if token in self.tokenizer.all_special_ids]
        return first + ids[len(ids) - self._longest + len(first) :]


class EmbeddingSimilarity(_ModelReward):
    """r(x) is the cosine similarity of x and the reference y; r(y) is 1, so an answer can at best tie.

    The model is an encoder without output layer. A text's vector is the mean of the last hidden states, for which most
    sentence encoders were trained. Texts are truncated to the length that the model can read.
    """

    _kind = "embedding"

    def scored(self, batch: RewardBatch) -> Scored:
        """See `ScoredReward.scored`; columns of the data are ignored."""
        return super().scored(replace(batch, columns=[{} for _ in batch.columns]))

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Tensor:
        """See `ScoredReward.scores`."""
        vectors = self.vectors([*answers, *columns["reference"]])
        return (vectors[: len(answers)] * vectors[len(answers) :]).sum(dim=-1)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of N texts, (N, hidden) float64; zeros for an empty text."""
        ids: list[list[int]] = self.tokenizer(list(texts), verbose=False)["input_ids"]
        # A text without tokens is encoded as padding; its vector is zeroed below.
        shown = self._shortened(ids, "the beginning is kept", lambda tokens: tokens[: self._longest])
        sequences = [tokens or [self._pad_id] for tokens in shown]
        vectors = normalize(forward_rows(self.model, sequences, self._pad_id, self._token_budget, _mean_vector), dim=-1)
        vectors[[index for index, tokens in enumerate(ids) if not tokens]] = 0.0
        return vectors


def _output(output: Any, mask: Tensor) -> Tensor:
    """Return the single output of each row, (S,)."""
    return torch.squeeze(output.logits, -1)


def _mean_vector(output: Any, mask: Tensor) -> Tensor:
    """Return the mean of the last hidden states of each row, (S, hidden)."""
    vectors: Tensor = output.last_hidden_state  # (S, T, hidden)
    weights = mask[..., None].to(vectors.dtype)
    return (vectors * weights).sum(dim=1) / weights.sum(dim=1)


def local_device() -> str:
    """Return the GPU of this process, or the CPU if there is none."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


@torch.no_grad()
def forward_rows(
    model: nn.Module, sequences: Sequence[Sequence[int]], pad_id: int, token_budget: int, read: _Read
) -> Tensor:
    """Run a model over sequences in padded batches.

    Equal sequences are forwarded once, so that their results are identical; rounding depends on the batch.

    Args:
        model: in evaluation mode.
        sequences: S sequences of token ids, padded on the right to the longest of their batch.
        pad_id: token id of the padding.
        token_budget: padded tokens per batch; a longer sequence is forwarded alone.
        read: (the model's output, attention mask (S, T)) -> (S, ...), one result for each row.

    Returns:
        (S, ...) float64 on the CPU, in the order of `sequences`.
    """
    distinct = list(dict.fromkeys(map(tuple, sequences)))
    results: dict[tuple[int, ...], Tensor] = {}
    for rows in plan_padded([0] * len(distinct), [len(ids) for ids in distinct], token_budget):
        ids = [torch.tensor(distinct[row], device=next(model.parameters()).device) for row in rows]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_id)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        values = read(model(input_ids=padded, attention_mask=mask), mask)
        results.update(zip([distinct[row] for row in rows], values.double().cpu(), strict=True))
    return torch.stack([results[tuple(ids)] for ids in sequences])
