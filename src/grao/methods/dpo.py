"""DPO (Rafailov et al., arXiv 2305.18290): the reference above the rejected answer, measured from the frozen policy."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from grao.methods.method import Groups, Needs, Role, TokenLoss, Weighted, columns
from grao.methods.tokens import TokenView


@dataclass(frozen=True)
class DPO:
    """-log sigmoid(beta * (log-ratio of the reference - log-ratio of the rejected answer)), eq. 7."""

    beta: float = 0.1

    needs = Needs(samples=False, rejected=True, frozen=True, whole_groups=True)
    credit = None

    def weigh(self, groups: Groups) -> Weighted:
        """Both answers of every pair; their weights are in the loss."""
        pair = (groups.lengths[:, -1] > 0).to(groups.rewards.dtype)
        both = columns(torch.zeros_like(groups.rewards), pair, pair)
        return Weighted(both, shares=both)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """One loss a pair, on its reference."""
        ratios = tokens.total(tokens.logps - tokens.frozen)  # (S,)
        chosen, rejected = (tokens.roles == role for role in (Role.REFERENCE, Role.REJECTED))
        of_group = {int(group): place for place, group in enumerate(tokens.groups[rejected].tolist())}
        order = [of_group[group] for group in tokens.groups[chosen].tolist()]
        margin = self.beta * (ratios[chosen] - ratios[rejected][order])  # (pairs,)
        places = chosen.nonzero().squeeze(-1)

        def on_reference(values: Tensor) -> Tensor:
            return torch.full_like(ratios, torch.nan).index_copy(0, places, values.detach())

        return TokenLoss(
            torch.zeros_like(ratios).index_copy(0, places, -F.logsigmoid(margin)),
            {
                "dpo/margin": on_reference(margin),
                "dpo/accuracy": on_reference((margin > 0).to(margin)),
                "dpo/reference": on_reference(self.beta * ratios[chosen]),
            },
        )

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """How likely the references are, in nats per token."""
        return {"reference/loglik": reference_loglik}
