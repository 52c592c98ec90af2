"""DPO (Rafailov et al., arXiv 2305.18290): prefer the reference to the rejected answer, relative to a frozen policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.lazy import torch
from grao.methods.base import Method, Needs, StepGroups, TokenLoss, TokenView, Weighted, method
from grao.settings import PositiveFloat
from grao.types import PerAnswer, Role

if TYPE_CHECKING:
    from torch import Tensor


@method
class DPO(Method):
    """References preferred to rejected answers (arXiv 2305.18290). Needs `data.rejected`; nothing is sampled."""

    name: Literal["dpo"] = "dpo"
    """The method."""
    beta: PositiveFloat = 0.1
    """Scale of the margin. The smaller beta is, the further the policy may move from its starting point."""

    needs = Needs(samples=False, rejected=True, frozen=True, whole_groups=True)

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weight 1 for both answers of a pair. The loss of the pair is assigned to its reference."""
        pair = (groups.lengths.rejected > 0).to(groups.rewards.dtype)
        return Weighted(PerAnswer.of(groups.rewards.new_zeros(groups.rewards.shape), pair, pair))

    def loss(self, tokens: TokenView) -> TokenLoss:
        """-log sigmoid(beta * (log-ratio of the reference - log-ratio of the rejected answer)), eq. 7."""
        ratios = tokens.total(tokens.logps - tokens.frozen)  # (S,)
        chosen, rejected = (tokens.roles == role for role in (Role.REFERENCE, Role.REJECTED))
        pairs = chosen[:, None] & rejected & (tokens.groups[:, None] == tokens.groups)  # (S, S)
        margin = self.beta * (ratios - torch.where(pairs, ratios, 0.0).sum(dim=1))  # (S,), valid at references

        def on_reference(values: Tensor) -> Tensor:
            return torch.where(chosen, values.detach(), torch.nan)

        return TokenLoss(
            torch.where(chosen, -torch.nn.functional.logsigmoid(margin), 0.0),
            {
                "dpo/margin": on_reference(margin),
                "dpo/accuracy": on_reference((margin > 0).to(margin)),
                "dpo/reference": on_reference(self.beta * ratios),
            },
        )

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the log-likelihood of the references, in nats per token."""
        return {"reference/loglik": loglik.reference}
