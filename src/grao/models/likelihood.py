"""Log-likelihoods of completions given their prompts: the plain, padded version.

Left out for now: sharing the prompt within a group and chunking the output layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Likelihood:
    """Of S completions."""

    mean: Tensor
    """(S,), J(x): mean log-likelihood per token in nats, with gradient."""
    tokens: Tensor
    """(S, T), log-likelihood of every token; 0 behind the end. With gradient."""
    mask: Tensor
    """(S, T) bool, true on the completion's own tokens."""
    entropies: Tensor
    """(S, T), entropy of the next-token distribution in nats; 0 behind the end. Without gradient."""

    @property
    def entropy(self) -> Tensor:
        """(S,), mean entropy over each completion's tokens."""
        return self.entropies.sum(dim=1) / self.mask.sum(dim=1)


def completion_likelihood(
    model: nn.Module,
    prompts: Sequence[TokenIds],
    completions: Sequence[TokenIds],
    pad_id: int = 0,
    temperature: float = 1.0,
) -> Likelihood:
    """J(x) = 1/|x| * sum_t log pi(x_t | q, x_<t) for S pairs of prompt and completion (paper, eq. 3).

    Prompts are padded on the left and completions on the right, so that the output layer sees the
    positions of completions only. Goes through the forward of `model` as it was given (wrapped or not).

    Args:
        model: causal language model of transformers.
        prompts: S token sequences of at least one token.
        completions: S token sequences of at least one token, the end token included.
        pad_id: any valid token; padding is masked.
        temperature: divides the logits.
    """
    prompt_length = max(map(len, prompts))
    length = max(map(len, completions))
    device = next(model.parameters()).device
    rows = torch.full((len(prompts), prompt_length + length), pad_id)
    attention = torch.zeros_like(rows)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, end = prompt_length - len(prompt), prompt_length + len(completion)
        rows[row, start:end] = torch.tensor([*prompt, *completion])
        attention[row, start:end] = 1
    rows, attention = rows.to(device), attention.to(device)

    logits = model(
        input_ids=rows,
        attention_mask=attention,
        position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=length + 1,
    ).logits[:, :-1]
    precise = torch.promote_types(logits.dtype, torch.float32)
    logps = F.log_softmax(logits.to(precise) / temperature, dim=-1)  # (S, T, V)
    targets = rows[:, prompt_length:]
    mask = attention[:, prompt_length:].bool()
    tokens = logps.gather(-1, targets[..., None]).squeeze(-1) * mask
    count = mask.sum(dim=1)
    with torch.no_grad():
        entropies = -(logps.exp() * logps).sum(dim=-1) * mask
    return Likelihood(mean=tokens.sum(dim=1) / count, tokens=tokens, mask=mask, entropies=entropies)
