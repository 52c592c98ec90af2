"""The plain way through the model: one row a sequence, padded. Works for every causal language model."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grao.core import Plan, plan_padded, weighted_likelihood_loss
from grao.models.engine import Batch, Pass
from grao.models.likelihood import completion_likelihood


@dataclass(frozen=True)
class PaddedEngine:
    """One row a sequence, padded; works for every causal language model."""

    pad_id: int = 0

    def plan(self, batch: Batch, token_budget: int) -> Plan:
        """See `Engine.plan`."""
        return plan_padded(*batch.lengths(), token_budget)

    def run(self, model: nn.Module, batch: Batch) -> Pass:
        """See `Engine.run`."""
        seen = completion_likelihood(model, batch.prompts, batch.completions, self.pad_id)
        loss = weighted_likelihood_loss(batch.weights.to(seen.mean), seen.mean, prompts=1)
        return Pass(loss, seen.mean.detach(), seen.entropy, seen.tokens.detach()[seen.mask])

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
