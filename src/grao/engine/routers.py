"""The load-balancing loss of a mixture of experts, over the tokens of a whole step.

transformers defines it for one forward pass: E * sum_e f_e * p_e with E experts, where f_e is how often expert e is
chosen and p_e its mean router probability, both per token and layer (Switch Transformer, arXiv 2101.03961, eq. 4-6).
A product of means is not a sum over micro-batches. So f is counted over the whole step first; with f fixed, the loss is
linear in p and does add up over micro-batches. Left out: the losses of DeepSeek-V3, which balances by a bias instead;
transformers does not define them.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grao.engine.interface import Engine, Loss, Pass
from grao.errors import InputError
from grao.types import Batch


@dataclass(frozen=True)
class Routing:
    """Router statistics of some tokens, summed over layers."""

    choices: Tensor
    """(E,), how often each expert was chosen."""
    probabilities: Tensor
    """(E,), sum of router probabilities, with gradient."""
    tokens: Tensor
    """Scalar, number of tokens times number of layers."""

    @staticmethod
    def of(logits: list[Tensor], shares: Tensor, top_k: int) -> "Routing":
        """Compute the statistics of one forward pass.

        Args:
            logits: (T, E) router logits of each layer.
            shares: (T,), weight of each token (`Engine.shares`).
            top_k: experts per token.
        """
        probabilities = torch.stack([layer.float().softmax(dim=-1) for layer in logits])  # (layers, T, E)
        chosen = torch.zeros_like(probabilities).scatter_(-1, probabilities.topk(top_k, dim=-1).indices, 1.0)
        weights = shares.to(probabilities)[:, None]
        return Routing(
            choices=(chosen * weights).sum(dim=(0, 1)),
            probabilities=(probabilities * weights).sum(dim=(0, 1)),
            tokens=len(logits) * shares.sum().to(probabilities),
        )

    def counts(self) -> Tensor:
        """Return (E + 1,) choices and tokens, to be summed over micro-batches and processes."""
        return torch.cat([self.choices, self.tokens[None]]).detach()


def balance_loss(routing: Routing, counts: Tensor) -> Tensor:
    """Return a micro-batch's share of the step's load-balancing loss; the shares sum to E * sum_e f_e * p_e.

    Args:
        routing: of the micro-batch.
        counts: (E + 1,), `Routing.counts` summed over the whole step.
    """
    choices, tokens = counts[:-1], counts[-1]
    return len(choices) * (choices / tokens * routing.probabilities / tokens).sum()


@dataclass(frozen=True)
class Routers:
    """The routers of a model."""

    modules: tuple[nn.Module, ...]
    index: int
    """Index of the logits in a router's output tuple."""
    top_k: int
    """Experts per token."""

    @staticmethod
    def of(model: PreTrainedModel) -> "Routers":
        """Return the routers whose logits transformers records for its own loss.

        Raises:
            InputError: if transformers defines no load-balancing loss for the model.
        """
        config: Any = model.config.get_text_config()
        modules, index = recorded_routers(model)
        modeling = next((sys.modules[type(router).__module__] for router in modules), None)
        if not hasattr(modeling, "load_balancing_loss_func"):
            raise InputError(f"training.router_loss: {config.model_type} has no load-balancing loss; leave it at 0")
        return Routers(modules, index, config.num_experts_per_tok)

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Record the (T, E) logits of every router, layer by layer, inside the context."""
        logits: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            logits.append(output[self.index] if isinstance(output, tuple) else output)

        with ExitStack() as hooks:
            for module in self.modules:
                hooks.enter_context(module.register_forward_hook(keep))
            yield logits


def recorded_routers(model: nn.Module) -> tuple[tuple[nn.Module, ...], int]:
    """Return the routers whose logits transformers records (perhaps none), and the index of the logits in their output.

    Left out: models that record routers of several classes.
    """
    owner = next((part for part in model.modules() if "router_logits" in _recorded(part)), None)
    recorder = _recorded(owner)["router_logits"] if owner else None
    kind: Any = getattr(recorder, "target_class", recorder)
    modules = owner.modules() if owner and isinstance(kind, type) else ()
    return tuple(module for module in modules if isinstance(module, kind)), getattr(recorder, "index", 0)


def _recorded(module: nn.Module | None) -> dict[str, Any]:
    return getattr(module, "_can_record_outputs", None) or {}


@dataclass(frozen=True)
class BalancedPass:
    """A forward pass whose loss includes its share of the load-balancing loss.

    Args:
        engine: runs the pass.
        routers: of the model.
        weight: of the load-balancing loss.
        copies: `Engine.copies` of the step's plan.
        counts: (E + 1,), `Routing.counts` of the whole step; None if the micro-batch is the whole step.
    """

    engine: Engine
    routers: Routers
    weight: float
    copies: Mapping[int, int]
    counts: Tensor | None

    def __call__(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`."""
        result, routing = routed_pass(self.engine, self.routers, model, batch, self.copies, loss)
        share = balance_loss(routing, routing.counts() if self.counts is None else self.counts)
        return replace(result, loss=result.loss + self.weight * share, balance=share.detach())


def routed_pass(
    engine: Engine,
    routers: Routers,
    model: nn.Module,
    batch: Batch,
    copies: Mapping[int, int],
    loss: Loss | None = None,
) -> tuple[Pass, Routing]:
    """Run `Engine.run` and also return the router statistics.

    Args:
        engine: runs the pass.
        routers: of the model.
        model: as in `Engine.run`.
        batch: as in `Engine.run`.
        copies: `Engine.copies` of the step's plan.
        loss: as in `Engine.run`.
    """
    with routers.recorded() as logits:
        result = engine.run(model, batch, loss)
    return result, Routing.of(logits, engine.shares(batch, copies).to(logits[0].device), routers.top_k)
