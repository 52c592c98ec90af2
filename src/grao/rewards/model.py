"""Scores of whole texts by a model: a reward model's output, an encoder's similarity to the reference.

Left out: pairwise models that read two answers at once (a judge does), process rewards, several outputs; poolings other
than the mean, prefixes such as `query:`, and a projection behind the encoder.
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
        model: moves to this process's GPU if there is one.
        tokenizer: the model's.
        relative: how two scores become R(o, y).
        name: for logs; by default `model` or `embedding`.
        token_budget: padded tokens that are forwarded at once (memory); changes no score.

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
        self, sequences: Iterable[list[int]], kept: str, cut: Callable[[list[int]], list[int]]
    ) -> list[list[int]]:
        """Those that the model can read as they are, longer ones cut."""
        whole = list(sequences)
        check_tokens(self.model, self.tokenizer, f"reward {self.name}", [max(ids, default=0) for ids in whole])
        if any(len(ids) > self._longest for ids in whole):
            warnings.warn(
                f"reward {self.name}: texts of more than {self._longest} tokens are cut, {kept}", stacklevel=3
            )
        return [ids if len(ids) <= self._longest else cut(ids) for ids in whole]


class RewardModel(_ModelReward):
    """r(x) is the one output of a sequence classifier, whose tokenizer has a padding token.

    Prompt and answer are read as `grao reward train` shows them in training (`conversation_ids`). What is longer
    than the model can read is cut on the left, so that the answer stays, but for a special token at the beginning.
    """

    @classmethod
    def load(cls, path: str, dtype: str = "auto", **options: Any) -> "RewardModel":
        """The model and tokenizer of a folder, such as `model/` of `grao reward train`, or of the hub.

        Args:
            path: folder or hub id.
            dtype: number format of the weights; `auto` takes the checkpoint's.
            options: `relative`, `name`, `token_budget`.

        Raises:
            InputError: if there is no reward model.
        """
        return cls(load_reward_model(path, dtype), load_tokenizer(path), **options)

    @classmethod
    def of(cls, model: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> "RewardModel":
        """A model as it is given to a trainer.

        Args:
            model: a sequence classifier with one output, or the folder or hub id of one.
            tokenizer: its own; by default the one beside its weights.

        Raises:
            InputError: if it has not one output, or there is no tokenizer.
        """
        model = load_reward_model(model) if isinstance(model, str) else model
        path, outputs = str(model.config._name_or_path), getattr(model.config, "num_labels", 0)
        if outputs != 1 or not hasattr(model, "can_generate") or model.can_generate():
            raise InputError(f"rewards: {type(model).__name__} is no reward model, a sequence classifier of one output")
        if tokenizer is None and not path:
            raise InputError(f"rewards: the reward model {type(model).__name__} has no tokenizer; give both in a pair")
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
        """See `ScoredReward.scores`; the columns play no part.

        Raises:
            InputError: if the chat template refuses a conversation.
        """
        # The model looks for the last token before the padding.
        self.model.config.get_text_config().pad_token_id = self._pad_id
        ids = conversation_ids(self.tokenizer, prompts, answers)
        sequences = self._shortened(ids, "the end with the answer is kept", self._cut_left)
        return forward_rows(self.model, sequences, self._pad_id, self._token_budget, _output)

    def _cut_left(self, ids: list[int]) -> list[int]:
        first = [token for token in ids[:1] if token in self.tokenizer.all_special_ids]  # a classifier may look there
        return first + ids[len(ids) - self._longest + len(first) :]


class EmbeddingSimilarity(_ModelReward):
    """r(x) is the cosine of the vectors of x and y; r(y) is 1, so an answer can at best tie with the reference.

    The model is an encoder without output layer. A vector is the mean of its last layer's over all tokens, which is
    what most sentence encoders were trained for. Longer texts are cut at the model's positions.
    """

    _kind = "embedding"

    def scored(self, batch: RewardBatch) -> Scored:
        """See `ScoredReward.scored`; the columns of the data play no part."""
        return super().scored(replace(batch, columns=[{} for _ in batch.columns]))

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Tensor:
        """See `ScoredReward.scores`."""
        vectors = self.vectors([*answers, *columns["reference"]])
        return (vectors[: len(answers)] * vectors[len(answers) :]).sum(dim=-1)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of N texts, (N, hidden) float64; of an empty text 0."""
        ids: list[list[int]] = self.tokenizer(list(texts), verbose=False)["input_ids"]
        # A text without tokens is encoded as padding and then taken out.
        shown = self._shortened(ids, "their beginning is kept", lambda tokens: tokens[: self._longest])
        sequences = [tokens or [self._pad_id] for tokens in shown]
        vectors = normalize(forward_rows(self.model, sequences, self._pad_id, self._token_budget, _mean_vector), dim=-1)
        vectors[[index for index, tokens in enumerate(ids) if not tokens]] = 0.0
        return vectors


def _output(output: Any, mask: Tensor) -> Tensor:
    """The one number of each row, (S,)."""
    return torch.squeeze(output.logits, -1)


def _mean_vector(output: Any, mask: Tensor) -> Tensor:
    """Mean over the tokens of each row, (S, hidden)."""
    vectors: Tensor = output.last_hidden_state  # (S, T, hidden)
    weights = mask[..., None].to(vectors.dtype)
    return (vectors * weights).sum(dim=1) / weights.sum(dim=1)


def local_device() -> str:
    """The GPU of this process, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


@torch.no_grad()
def forward_rows(
    model: nn.Module, sequences: Sequence[Sequence[int]], pad_id: int, token_budget: int, read: _Read
) -> Tensor:
    """What is read off each sequence, (S, ...) float64 on the CPU, in the order given.

    Equal sequences are forwarded once and get the very same result; at two positions of a batch rounding would differ.

    Args:
        model: in evaluation mode.
        sequences: S sequences of token ids, padded on the right to the longest beside them.
        pad_id: token id of the padding.
        token_budget: padded tokens that are forwarded at once; a longer sequence goes alone.
        read: (the model's output, attention mask (S, T)) -> (S, ...), one result for each row.
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
