"""What a model can read: how many tokens, and which."""

from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from grao.errors import InputError


def positions(model: nn.Module) -> int | None:
    """Longest input in tokens; None where the model sets no limit.

    RoBERTa and its kin count positions from the one behind that of their padding, and have as many fewer.
    """
    config: Any = model.config
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    reserved = next((int(idx) + 1 for table in tables if (idx := getattr(table, "padding_idx", None)) is not None), 0)
    return longest - reserved if isinstance(longest, int) and longest > reserved else None


def embedded_tokens(model: nn.Module) -> int:
    """Rows of the model's embedding: token ids from here on cannot be looked up."""
    embedding: Any = cast(Any, model).get_input_embeddings()
    return len(embedding.weight)


def padding_id(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> int:
    """The tokenizer's padding token, or one that the model can look up and no text ends with: padding is masked."""
    pad = tokenizer.pad_token_id
    if pad is not None and pad < embedded_tokens(model):
        return int(pad)
    return int(tokenizer.eos_token_id == 0)


def check_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str, ids: Sequence[int]) -> None:
    """Checks that a model can look up the tokens of a text.

    Raises:
        InputError: if it cannot; the message begins with `name`.
    """
    rows, last = embedded_tokens(model), max(ids, default=0)
    if last >= rows:
        token = tokenizer.convert_ids_to_tokens(last)
        raise InputError(
            f"{name}: the token {token!r} has the id {last}, but the model's embedding has {rows} rows; take the "
            "model's own tokenizer, or resize the embedding to this one (resize_token_embeddings)"
        )
