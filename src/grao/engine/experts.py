"""What a mixture of experts does with the answers of a step, and which of its experts the gradient reaches.

A router chooses k of a layer's E experts for every token. Counted are the choices for sampled and for reference tokens,
how many of those for sampled tokens differ from the choices of the model before training (where that model is asked
anyway), and how the squared norm of the gradient is spread over the experts. No pass through the model is added.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from grao.engine.interface import Engine, Loss, Pass, mode, sent, transformers_model
from grao.engine.routers import recorded_routers
from grao.engine.select import random_batch
from grao.engine.sharded import whole
from grao.types import Batch, Role, TokenIds

_BY_EXPERT: dict[str, Callable[[Tensor, int], Tensor]] = {
    "first": lambda grad, experts: grad.reshape(experts, -1),  # a bias (E, n), or lora_A of peft: (E * r, in)
    "last": lambda grad, experts: grad.reshape(-1, experts).T,  # lora_B of peft: (out, r * E)
}
"""Where in a tensor of two dimensions the experts lie -> the tensor as (E, n)."""


@dataclass(frozen=True)
class Layer:
    """A router and the experts that it chooses from."""

    router: nn.Module
    top_k: int
    weights: tuple[tuple[nn.Module, str, str], ...]
    """Those that hold all experts: module, name in it, and key in `_BY_EXPERT`."""
    modules: tuple[nn.Module, ...]
    """The experts, where each is a module of its own."""


@dataclass(frozen=True)
class Experts:
    """The experts of a model."""

    layers: tuple[Layer, ...]
    count: int
    """Of a layer, E."""

    @staticmethod
    def of(model: nn.Module) -> "Experts | None":
        """Those whose routers transformers knows; None if the model has none."""
        inner = transformers_model(model)
        routers, _ = recorded_routers(inner)
        sizes = [_outputs(router) for router in routers]
        usual = getattr(inner.config.get_text_config(), "num_experts_per_tok", None)
        alike = [router for router, size in zip(routers, sizes, strict=True) if size == sizes[0]]
        layers = [_layer(inner, router, sizes[0], getattr(router, "top_k", usual) or 1) for router in alike]
        return Experts(tuple(layers), sizes[0]) if layers and sizes[0] > 1 else None

    @contextmanager
    def chosen(self) -> Iterator[list[Tensor]]:
        """Inside, the (T, k) experts that each layer chose for the tokens of a pass."""
        seen: list[Tensor] = []

        def keep(layer: Layer) -> Callable[..., None]:
            return lambda module, inputs, output: seen.append(_choices(output, self.count, layer.top_k))

        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(layer.router.register_forward_hook(keep(layer)))
            yield seen

    @torch.no_grad()
    def gradient(self) -> dict[str, float]:
        """How the squared norm of the gradient is spread over the experts of a layer, a mean over layers.

        `gradient_top` is the share of the tenth of the experts that have most of it, `gradient_spread` its entropy as
        a share of log E (1 is even), `gradient_none` the share of experts that have none at all. Empty if no expert is
        trained, or its gradient lies elsewhere.
        """
        squares = [norms for layer in self.layers if (norms := self._squares(layer)) is not None]
        if not squares:
            return {}
        whole = torch.stack(squares).double()  # (L, E)
        shares = whole / whole.sum(dim=1, keepdim=True)
        top = shares.topk(math.ceil(self.count / 10), dim=1).values.sum(dim=1)
        numbers = torch.stack([top.mean(), _evenness(shares).mean(), (whole == 0).double().mean()]).tolist()
        return dict(zip(("gradient_top", "gradient_spread", "gradient_none"), numbers, strict=True))

    def _squares(self, layer: Layer) -> Tensor | None:
        """(E,), the squared norm of each expert's gradient; None if there is none."""
        grads = [(_BY_EXPERT[key], getattr(module, name).grad) for module, name, key in layer.weights]
        norms = [_norms(grad, by_expert, self.count) for by_expert, grad in grads if grad is not None]
        apart = [[p.grad for p in module.parameters() if p.grad is not None] for module in layer.modules]
        if any(apart):
            device = next(layer.router.parameters()).device
            norms.append(torch.stack([whole(get_total_norm(own)).to(device) for own in apart]))
        return torch.stack(norms).square().sum(dim=0) if norms else None

    def seen_by(self, engine: Engine, model: nn.Module) -> bool:
        """Whether a pass through the model shows the choices for each of its tokens: tried on a few random ones."""
        batch = random_batch(model)
        with suppress(ValueError, TypeError, RuntimeError, AttributeError, IndexError, StopIteration):
            with torch.no_grad(), mode(model, training=False), self.chosen() as layers:
                engine.run(model, batch)
            shapes = {tuple(choices.shape) for choices in layers}
            return (
                len(layers) == len(self.layers)
                and len(shapes) == 1
                and shapes.pop()[0] > max(engine.answer_places(batch))
            )
        return False


class RoutedEngine:
    """An engine that looks at what the routers choose for answers with a weight.

    Args:
        engine: the way through the model.
        experts: of that model.
        total: the sum of a tensor over all processes.
    """

    def __init__(self, engine: Engine, experts: Experts, total: Callable[[Tensor], Tensor]) -> None:
        self._engine, self._experts, self._total = engine, experts, total
        self.plan, self.copies, self.shares = engine.plan, engine.copies, engine.shares
        self.answer_places = engine.answer_places
        self._start: dict[tuple[TokenIds, TokenIds], Tensor] = {}
        self._starting = False
        self.begin()

    def begin(self) -> None:
        """Forgets the choices that were counted."""
        self._counts: Tensor | None = None
        self._moved: Tensor | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Inside, the passes are those of the model before training, on the samples of the next update."""
        self._start.clear()
        self._starting = True
        try:
            yield
        finally:
            self._starting = False

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`. What is forwarded without a gradient is looked at only where `starting`."""
        if not (self._starting or torch.is_grad_enabled()):
            return self._engine.run(model, batch, loss)
        with self._experts.chosen() as layers:
            seen = self._engine.run(model, batch, loss)
        places = sent(torch.tensor(self.answer_places(batch)), layers[0].device)
        self._look(batch, torch.stack(layers, dim=1)[places])
        return seen

    @torch.no_grad()
    def _look(self, batch: Batch, chosen: Tensor) -> None:
        """Takes in (N, L, k) choices for the answer tokens of a batch."""
        parts = chosen.split(batch.lengths)
        texts = [(group.item.prompt_ids, answer.ids) for group, answer in zip(batch.owners, batch.answers, strict=True)]
        samples = [row for row, answer in enumerate(batch.answers) if answer.role is Role.SAMPLE and answer.weight]
        if self._starting:
            self._start |= {texts[row]: parts[row].to(torch.int16) for row in samples}
            return
        roles = torch.tensor([int(answer.role) if answer.weight else len(Role) for answer in batch.answers])
        of_tokens = roles.repeat_interleave(torch.tensor(batch.lengths))
        layers, experts = chosen.shape[1], self._experts.count
        index = (sent(of_tokens, chosen.device)[:, None, None] * experts + chosen).transpose(0, 1).flatten(1)
        counts = torch.zeros(layers, (len(Role) + 1) * experts, device=chosen.device)
        counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
        self._counts = counts if self._counts is None else self._counts + counts
        if known := [row for row in samples if texts[row] in self._start]:
            now, then = torch.cat([parts[row] for row in known]), torch.cat([self._start[texts[row]] for row in known])
            other = (now[..., None] != then[..., None, :]).all(dim=-1)
            moved = torch.stack([other.sum(), torch.tensor(other.numel(), device=other.device)])
            self._moved = moved if self._moved is None else self._moved + moved

    def numbers(self) -> dict[str, float]:
        """What the passes since `begin` showed, over all processes, for the log; what was not seen is left out."""
        layers, experts = len(self._experts.layers), self._experts.count
        device = next(self._experts.layers[0].router.parameters()).device
        mine = [torch.zeros(size, device=device) for size in (layers * (len(Role) + 1) * experts, 2)]
        for sums, part in zip(mine, (self._counts, self._moved), strict=True):
            if part is not None:
                sums += part.flatten()
        both = self._total(torch.cat(mine)).double().cpu()
        counts, (moved, compared) = both[:-2].view(layers, -1, experts), both[-2:].tolist()
        loads = {
            name: counts[:, role] / counts[:, role].sum(dim=1, keepdim=True)  # (L, E)
            for name, role in (("samples", Role.SAMPLE), ("reference", Role.REFERENCE))
            if counts[:, role].any()
        }
        numbers = {"drift": moved / compared} if compared else {}
        for name, load in loads.items():
            numbers[f"balance_{name}"] = _evenness(load).mean().item()
            numbers[f"busiest_{name}"] = experts * load.amax(dim=1).mean().item()
        if len(loads) == 2:
            one, other = loads.values()
            apart = _evenness((one + other) / 2) - (_evenness(one) + _evenness(other)) / 2
            numbers["apart"] = math.log2(experts) * apart.mean().item()
        return {f"experts/{name}": number for name, number in {**numbers, **self._experts.gradient()}.items()}


def _layer(model: nn.Module, router: nn.Module, count: int, top_k: int) -> Layer:
    """A router with its experts: those below the first module above it that holds any, and no other router."""
    name = next(name for name, module in model.named_modules() if module is router)
    while name:
        name = name.rpartition(".")[0]
        above = model.get_submodule(name)
        if sum(isinstance(part, type(router)) for part in above.modules()) > 1:
            break
        weights = tuple(_stacked(above, router, count))
        lists = [part for part in above.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
        if weights or lists:
            return Layer(router, top_k, weights, () if weights else tuple(lists[0]))
    return Layer(router, top_k, (), ())


def _stacked(above: nn.Module, router: nn.Module, count: int) -> Iterator[tuple[nn.Module, str, str]]:
    """Weights that hold all experts one behind the other, and what an adapter has in their place."""
    for part in above.modules():
        if isinstance(part, ParamWrapper) and part.num_experts == count:
            yield from ((layer, "weight", "first") for layer in part.lora_A.values())
            yield from ((layer, "weight", "last") for layer in part.lora_B.values())
        own = {name: weight for name, weight in part.named_parameters(recurse=False) if weight.shape[:1] == (count,)}
        if part is not router and any(weight.dim() == 3 for weight in own.values()):
            yield from ((part, name, "first") for name in own)


def _outputs(router: nn.Module) -> int:
    """Experts that a router chooses from: the rows of its weight."""
    return next((weight.shape[0] for weight in router.parameters() if weight.dim() == 2), 0)


def _choices(output: Any, count: int, top_k: int) -> Tensor:
    """(T, k), from what a router gives: its choices, or else the largest of its (T, E) logits."""
    parts = output if isinstance(output, tuple) else (output,)
    given = [part for part in parts if part.dim() == 2 and not part.is_floating_point()]
    logits = (part for part in parts if part.shape[-1] == count)
    chosen: Tensor = given[0] if given else next(logits).reshape(-1, count).topk(top_k, dim=-1).indices
    return chosen


def _evenness(shares: Tensor) -> Tensor:
    """(L, E) shares that sum to 1 -> (L,), their entropy as a share of log E."""
    entropies: Tensor = torch.special.entr(shares).sum(dim=-1)
    return entropies / math.log(shares.shape[-1])


def _norms(grad: Tensor, by_expert: Callable[[Tensor, int], Tensor], experts: int) -> Tensor:
    """(E,), of a gradient that holds all experts; a large one is never gathered."""
    precise = torch.promote_types(grad.dtype, torch.float32)
    if grad.dim() == 3:
        return whole(torch.linalg.vector_norm(grad, dim=(1, 2), dtype=precise))
    norms: Tensor = torch.linalg.vector_norm(by_expert(whole(grad), experts), dim=1, dtype=precise)
    return norms
