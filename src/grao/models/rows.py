"""Many sequences through a model without gradient, a few at a time: for models that score or encode whole texts."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grao.core import plan_padded

Read = Callable[[Any, Tensor], Tensor]
"""(the model's output, attention mask (S, T)) -> (S, ...), one result for each row."""


def local_device() -> str:
    """The GPU of this process, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


@torch.no_grad()
def forward_rows(
    model: nn.Module, sequences: Sequence[Sequence[int]], pad_id: int, token_budget: int, read: Read
) -> Tensor:
    """What is read off each sequence, (S, ...) float64 on the CPU, in the order given.

    Equal sequences are forwarded once and get the very same result; in two places of a batch rounding would differ.

    Args:
        model: in evaluation mode.
        sequences: S sequences of token ids, padded on the right to the longest beside them.
        pad_id: token id of the padding.
        token_budget: padded tokens that are forwarded at once; a longer sequence goes alone.
        read: takes the result out of the model's output.
    """
    device = next(model.parameters()).device
    different = list(dict.fromkeys(map(tuple, sequences)))
    results: dict[tuple[int, ...], Tensor] = {}
    for rows in plan_padded([0] * len(different), [len(ids) for ids in different], token_budget):
        ids = [torch.tensor(different[row], device=device) for row in rows]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_id)
        lengths = torch.tensor([len(one) for one in ids], device=device)
        mask = (torch.arange(padded.shape[1], device=device) < lengths[:, None]).long()
        found = read(model(input_ids=padded, attention_mask=mask), mask)
        results.update(zip([different[row] for row in rows], found.double().cpu(), strict=True))
    return torch.stack([results[tuple(ids)] for ids in sequences])
