"""The plain way through the model: one row a sequence, padded. Works for every causal language model."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grao.core import Plan, plan_padded, weighted_likelihood_loss
from grao.models.engine import Batch, Loss, Pass, Tokens
from grao.models.likelihood import completion_likelihood
from grao.models.packed import transformers_model


@dataclass(frozen=True)
class PaddedEngine:
    """One row a sequence, padded; works for every causal language model."""

    pad_id: int = 0

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """See `Engine.plan`."""
        return plan_padded(*batch.lengths(), token_budget, batch.groups if whole_groups else None)

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`."""
        states: list[Tensor] = []
        with _hidden_states(model, states) if loss is not None else nullcontext():
            seen = completion_likelihood(model, batch.prompts, batch.completions, self.pad_id)
        logps = seen.tokens[seen.mask]
        if loss is None:
            value = weighted_likelihood_loss(batch.weights.to(seen.mean), seen.mean, prompts=1)
        else:
            value = loss(
                Tokens(logps, seen.entropies[seen.mask], states[0][:, -seen.mask.shape[1] - 1 : -1][seen.mask])
            )
        return Pass(value, seen.mean.detach(), seen.entropy, logps.detach())

    def copies(self, batch: Batch, plan: Plan) -> Counter[int]:
        """See `Engine.copies`."""
        return Counter(batch.groups)

    def shares(self, batch: Batch, copies: Mapping[int, int]) -> Tensor:
        """See `Engine.shares`."""
        before, behind = max(map(len, batch.prompts)), max(map(len, batch.completions))
        shares = torch.zeros(len(batch.prompts), before + behind)
        for row, (prompt, completion, group) in enumerate(
            zip(batch.prompts, batch.completions, batch.groups, strict=True)
        ):
            shares[row, before - len(prompt) : before] = 1 / max(copies[group], 1)
            shares[row, before : before + len(completion)] = 1
        shares[batch.weights == 0] = 0
        return shares.flatten()


@contextmanager
def _hidden_states(model: nn.Module, states: list[Tensor]) -> Iterator[None]:
    """Inside, what goes into the output layer is kept, (S, T, D)."""
    layer = transformers_model(model).get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    try:
        yield
    finally:
        hook.remove()
