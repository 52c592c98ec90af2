"""The load-balancing loss of a mixture of experts, over the tokens of a whole step.

transformers defines it for one forward pass: E * sum_e f_e * p_e with E experts, f_e how often expert e is chosen and
p_e its mean router probability, both per token and layer (Switch Transformer, arXiv 2101.03961, eq. 4-6). A product of
means is no sum over micro-batches, so choices are counted over the whole step first; with f fixed the loss is linear
in p. Left out: DeepSeek-V3's own losses, which transformers does not define; it balances by a bias instead.
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
    """What the routers did with some tokens, summed over layers."""

    choices: Tensor
    """(E,), how often each expert was chosen."""
    probabilities: Tensor
    """(E,), sum of router probabilities, with gradient."""
    tokens: Tensor
    """Scalar, tokens times layers."""

    @staticmethod
    def of(logits: list[Tensor], shares: Tensor, top_k: int) -> "Routing":
        """From the routers' (T, E) logits, one tensor a layer, and how much each of the T tokens counts."""
        probabilities = torch.stack([layer.float().softmax(dim=-1) for layer in logits])  # (layers, T, E)
        chosen = torch.zeros_like(probabilities).scatter_(-1, probabilities.topk(top_k, dim=-1).indices, 1.0)
        weights = shares.to(probabilities)[:, None]
        return Routing(
            choices=(chosen * weights).sum(dim=(0, 1)),
            probabilities=(probabilities * weights).sum(dim=(0, 1)),
            tokens=len(logits) * shares.sum().to(probabilities),
        )

    def counts(self) -> Tensor:
        """(E + 1,), choices and tokens, to be added up over micro-batches and processes."""
        return torch.cat([self.choices, self.tokens[None]]).detach()


def balance_loss(routing: Routing, counts: Tensor) -> Tensor:
    """Share of a micro-batch in the loss of its step; the shares add up to E * sum_e f_e * p_e.

    Args:
        routing: of the micro-batch.
        counts: (E + 1,), `Routing.counts` added up over the whole step.
    """
    choices, tokens = counts[:-1], counts[-1]
    return len(choices) * (choices / tokens * routing.probabilities / tokens).sum()


@dataclass(frozen=True)
class Routers:
    """The routers of a model."""

    modules: tuple[nn.Module, ...]
    index: int
    """Place of the logits in a router's output."""
    top_k: int
    """Experts per token."""

    @staticmethod
    def of(model: PreTrainedModel) -> "Routers":
        """The routers whose logits transformers records for its own loss.

        Raises:
            InputError: if transformers defines no load-balancing loss for the model.
        """
        config: Any = model.config.get_text_config()
        modules, index = recorded_routers(model)
        home = next((sys.modules[type(part).__module__] for part in modules), None)
        if not hasattr(home, "load_balancing_loss_func"):
            raise InputError(f"training.router_loss: {config.model_type} has no load-balancing loss; leave it at 0")
        return Routers(modules, index, config.num_experts_per_tok)

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Inside, the (T, E) logits of every router, layer by layer."""
        logits: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            logits.append(output[self.index] if isinstance(output, tuple) else output)

        with ExitStack() as hooks:
            for module in self.modules:
                hooks.enter_context(module.register_forward_hook(keep))
            yield logits


def recorded_routers(model: nn.Module) -> tuple[tuple[nn.Module, ...], int]:
    """The routers whose logits transformers records, and the place of the logits in their output; perhaps none.

    Left out: models that record routers of several kinds.
    """
    owner = next((part for part in model.modules() if "router_logits" in _recorded(part)), None)
    recorder = _recorded(owner)["router_logits"] if owner else None
    kind: Any = getattr(recorder, "target_class", recorder)
    found = owner.modules() if owner and isinstance(kind, type) else ()
    return tuple(part for part in found if isinstance(part, kind)), getattr(recorder, "index", 0)


def _recorded(module: nn.Module | None) -> dict[str, Any]:
    return getattr(module, "_can_record_outputs", None) or {}


@dataclass(frozen=True)
class BalancedPass:
    """A pass through the model whose loss holds the routers' share too.

    `counts` is None where the micro-batch is the whole step: then its own choices count.
    """

    engine: Engine
    routers: Routers
    weight: float
    copies: Mapping[int, int]
    """From `Engine.copies` of the step's plan."""
    counts: Tensor | None

    def __call__(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """As `Engine.run`."""
        seen, routing = routed_pass(self.engine, self.routers, model, batch, self.copies, loss)
        share = balance_loss(routing, routing.counts() if self.counts is None else self.counts)
        return replace(seen, loss=seen.loss + self.weight * share, balance=share.detach())


def routed_pass(
    engine: Engine,
    routers: Routers,
    model: nn.Module,
    batch: Batch,
    copies: Mapping[int, int],
    loss: Loss | None = None,
) -> tuple[Pass, Routing]:
    """`Engine.run`, and what the routers did."""
    with routers.recorded() as logits:
        seen = engine.run(model, batch, loss)
    return seen, Routing.of(logits, engine.shares(batch, copies).to(logits[0].device), routers.top_k)
