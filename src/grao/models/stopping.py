"""Which tokens end a completion, and with which of them the model itself stops."""

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.errors import InputError
from grao.models.likelihood import completion_likelihood

TokenIds = Sequence[int]


def stop_token_ids(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a completion: those of the generation config, else of the model, else the tokenizer's.

    A model may end with another token than `tokenizer.eos_token_id`; only the generation config knows.
    """
    for candidate in (
        model.generation_config.eos_token_id if model.generation_config else None,
        model.config.eos_token_id,
        tokenizer.eos_token_id,
    ):
        if isinstance(candidate, int):
            return (candidate,)
        if candidate:
            return tuple(candidate)
    raise InputError("the model names no end token: neither generation_config.json nor the tokenizer has an eos_token")


@torch.no_grad()
def likeliest_stop(
    model: nn.Module, stop_ids: Sequence[int], prompts: Sequence[TokenIds], answers: Sequence[TokenIds]
) -> int:
    """The stop token that the model itself puts behind an answer, measured on a few answers without end token.

    Where a generation config lists several, only the model knows which one it uses; a reference closed with
    another would teach it never to stop.
    """
    if len(stop_ids) == 1:
        return stop_ids[0]
    scores = [completion_likelihood(model, prompts, [[*answer, stop] for answer in answers]) for stop in stop_ids]
    last = [score.tokens[torch.arange(len(answers)), score.mask.sum(dim=1) - 1].mean() for score in scores]
    return stop_ids[int(torch.stack(last).argmax())]
