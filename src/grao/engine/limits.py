"""Limits of a model's input: context length and vocabulary."""

from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from grao.errors import InputError


def positions(model: nn.Module) -> int | None:
    """Return the longest input in tokens, or None if the model sets no limit.

    RoBERTa-style models start counting positions after the padding index; positions up to it cannot be used.
    """
    config: Any = model.config
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    reserved = next((int(pad) + 1 for table in tables if (pad := getattr(table, "padding_idx", None)) is not None), 0)
    return longest - reserved if isinstance(longest, int) and longest > reserved else None


def embedded_tokens(model: nn.Module) -> int:
    """Return the number of rows of the input embedding; token ids must be smaller."""
    embedding: Any = cast(Any, model).get_input_embeddings()
    return len(embedding.weight)


def padding_id(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> int:
    """Return the tokenizer's padding token if the model has a row for it, else 0, or 1 if 0 is the end token.

    Padding is masked, so any token in the embedding will do.
    """
    pad = tokenizer.pad_token_id
    if pad is not None and pad < embedded_tokens(model):
        return int(pad)
    return int(tokenizer.eos_token_id == 0)


def check_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str, ids: Sequence[int]) -> None:
    """Check that every token id is in the model's embedding.

    Args:
        model: the model that will read the ids.
        tokenizer: names the token in the message.
        name: name of the text, with which the message begins.
        ids: token ids of the text.

    Raises:
        InputError: if a token id is out of range.
    """
    rows, highest = embedded_tokens(model), max(ids, default=0)
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise InputError(
            f"{name}: the token {token!r} has the id {highest}, but the model's embedding has {rows} rows; use the "
            "model's own tokenizer, or resize the embedding to this tokenizer (resize_token_embeddings)"
        )
