"""Metrics of a mixture of experts: which experts the tokens of a step are routed to, and which the gradient reaches.

A router chooses k of a layer's E experts for every token. Measured are the choices for sampled and for reference
tokens, the share of choices for sampled tokens that differ from those of the model before training (if that model is
run anyway), and how the squared norm of the gradient is spread over the experts. No forward pass is added.
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

from grao.engine.interface import Engine, Loss, Pass, mode, to_device, transformers_model
from grao.engine.routers import recorded_routers
from grao.engine.select import random_batch
from grao.engine.sharded import full_value
from grao.types import Batch, Role, TokenIds

_BY_EXPERT: dict[str, Callable[[Tensor, int], Tensor]] = {
    "first": lambda grad, experts: grad.reshape(experts, -1),  # a bias (E, n), or lora_A of peft: (E * r, in)
    "last": lambda grad, experts: grad.reshape(-1, experts).T,  # lora_B of peft: (out, r * E)
}
"""Which dimension of a 2-D weight enumerates the experts -> the function that reshapes its gradient to (E, n)."""


@dataclass(frozen=True)
class Layer:
    """A router and the experts that it chooses from."""

    router: nn.Module
    top_k: int
    weights: tuple[tuple[nn.Module, str, str], ...]
    """Weights that hold all experts, each as its module, its name there, and a key of `_BY_EXPERT`."""
    modules: tuple[nn.Module, ...]
    """The experts, if each is a module of its own; empty otherwise."""


@dataclass(frozen=True)
class Experts:
    """The experts of a model."""

    layers: tuple[Layer, ...]
    count: int
    """Experts per layer, E."""

    @staticmethod
    def of(model: nn.Module) -> "Experts | None":
        """Return the experts of all recorded routers that have as many experts as the first; None if there are none."""
        inner = transformers_model(model)
        routers, _ = recorded_routers(inner)
        sizes = [_outputs(router) for router in routers]
        default_top_k = getattr(inner.config.get_text_config(), "num_experts_per_tok", None)
        alike = [router for router, size in zip(routers, sizes, strict=True) if size == sizes[0]]
        layers = [_layer(inner, router, sizes[0], getattr(router, "top_k", default_top_k) or 1) for router in alike]
        return Experts(tuple(layers), sizes[0]) if layers and sizes[0] > 1 else None

    @contextmanager
    def recorded_choices(self) -> Iterator[list[Tensor]]:
        """Record the experts that each layer chooses for the tokens of a forward pass: (T, k) per layer."""
        choices: list[Tensor] = []

        def record(layer: Layer) -> Callable[..., None]:
            return lambda module, inputs, output: choices.append(_choices(output, self.count, layer.top_k))

        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(layer.router.register_forward_hook(record(layer)))
            yield choices

    @torch.no_grad()
    def gradient(self) -> dict[str, float]:
        """Return how the squared norm of the gradient is spread over the experts of a layer, averaged over layers.

        `gradient_top` is the share of the tenth of the experts with the largest gradients, `gradient_spread` the
        entropy over experts as a share of log E (1 is even), `gradient_none` the share of experts without any gradient.
        Empty if no expert is trained, or this process holds no gradient of any.
        """
        squares = [norms for layer in self.layers if (norms := self._squares(layer)) is not None]
        if not squares:
            return {}
        by_expert = torch.stack(squares).double()  # (L, E)
        shares = by_expert / by_expert.sum(dim=1, keepdim=True)
        top = shares.topk(math.ceil(self.count / 10), dim=1).values.sum(dim=1)
        numbers = torch.stack([top.mean(), _evenness(shares).mean(), (by_expert == 0).double().mean()]).tolist()
        return dict(zip(("gradient_top", "gradient_spread", "gradient_none"), numbers, strict=True))

    def _squares(self, layer: Layer) -> Tensor | None:
        """Return the (E,) squared norms of the experts' gradients; None if there are none."""
        grads = [(_BY_EXPERT[key], getattr(module, name).grad) for module, name, key in layer.weights]
        norms = [_norms(grad, by_expert, self.count) for by_expert, grad in grads if grad is not None]
        module_grads = [[p.grad for p in module.parameters() if p.grad is not None] for module in layer.modules]
        if any(module_grads):
            device = next(layer.router.parameters()).device
            norms.append(torch.stack([full_value(get_total_norm(expert)).to(device) for expert in module_grads]))
        return torch.stack(norms).square().sum(dim=0) if norms else None

    def observable_with(self, engine: Engine, model: nn.Module) -> bool:
        """Whether a pass of `engine` yields every layer's choices for every token; tried on a few random tokens."""
        batch = random_batch(model)
        with suppress(ValueError, TypeError, RuntimeError, AttributeError, IndexError, StopIteration):
            with torch.no_grad(), mode(model, training=False), self.recorded_choices() as layers:
                engine.run(model, batch)
            shapes = {tuple(choices.shape) for choices in layers}
            return (
                len(layers) == len(self.layers)
                and len(shapes) == 1
                and shapes.pop()[0] > max(engine.answer_indices(batch))
            )
        return False


class RoutedEngine:
    """An engine that also counts the experts chosen for answers with a weight.

    Args:
        engine: runs the passes.
        experts: of the model.
        total: sums a tensor over all processes.
    """

    def __init__(self, engine: Engine, experts: Experts, total: Callable[[Tensor], Tensor]) -> None:
        self._engine, self._experts, self._total = engine, experts, total
        self.plan, self.copies, self.shares = engine.plan, engine.copies, engine.shares
        self.answer_indices = engine.answer_indices
        self._initial: dict[tuple[TokenIds, TokenIds], Tensor] = {}
        """(prompt, sample) -> (T, L, k) choices of the model before training."""
        self._runs_initial_model = False
        self.begin()

    def begin(self) -> None:
        """Reset the counts."""
        self._counts: Tensor | None = None
        self._moved: Tensor | None = None

    @contextmanager
    def initial_model(self) -> Iterator[None]:
        """Inside the context, passes are those of the model before training, on the samples of the next update."""
        self._initial.clear()
        self._runs_initial_model = True
        try:
            yield
        finally:
            self._runs_initial_model = False

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`. Passes without a gradient are counted only inside `initial_model`."""
        if not (self._runs_initial_model or torch.is_grad_enabled()):
            return self._engine.run(model, batch, loss)
        with self._experts.recorded_choices() as layers:
            result = self._engine.run(model, batch, loss)
        indices = to_device(torch.tensor(self.answer_indices(batch)), layers[0].device)
        self._count(batch, torch.stack(layers, dim=1)[indices])
        return result

    @torch.no_grad()
    def _count(self, batch: Batch, chosen: Tensor) -> None:
        """Count the (N, L, k) choices for the answer tokens of a batch."""
        parts = chosen.split(batch.lengths)
        texts = [(group.item.prompt_ids, answer.ids) for group, answer in zip(batch.owners, batch.answers, strict=True)]
        samples = [row for row, answer in enumerate(batch.answers) if answer.role is Role.SAMPLE and answer.weight]
        if self._runs_initial_model:
            self._initial |= {texts[row]: parts[row].to(torch.int16) for row in samples}
            return
        # Answers without a weight go into an extra column: to mask them out would make the host wait for the GPU.
        roles = torch.tensor([int(answer.role) if answer.weight else len(Role) for answer in batch.answers])
        token_roles = roles.repeat_interleave(torch.tensor(batch.lengths))
        layers, experts = chosen.shape[1], self._experts.count
        index = (to_device(token_roles, chosen.device)[:, None, None] * experts + chosen).transpose(0, 1).flatten(1)
        counts = torch.zeros(layers, (len(Role) + 1) * experts, device=chosen.device)
        counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
        self._counts = counts if self._counts is None else self._counts + counts
        if known := [row for row in samples if texts[row] in self._initial]:
            now = torch.cat([parts[row] for row in known])
            before = torch.cat([self._initial[texts[row]] for row in known])
            changed = (now[..., None] != before[..., None, :]).all(dim=-1)
            moved = torch.stack([changed.sum(), torch.tensor(changed.numel(), device=changed.device)])
            self._moved = moved if self._moved is None else self._moved + moved

    def numbers(self) -> dict[str, float]:
        """Return the metrics of all passes since `begin`, over all processes; metrics without data are left out."""
        layers, experts = len(self._experts.layers), self._experts.count
        device = next(self._experts.layers[0].router.parameters()).device
        local = [torch.zeros(size, device=device) for size in (layers * (len(Role) + 1) * experts, 2)]
        for sums, part in zip(local, (self._counts, self._moved), strict=True):
            if part is not None:
                sums += part.flatten()
        totals = self._total(torch.cat(local)).double().cpu()
        counts, (moved, compared) = totals[:-2].view(layers, -1, experts), totals[-2:].tolist()
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
            samples, reference = loads.values()
            # Jensen-Shannon divergence between the two loads, in bits.
            divergence = _evenness((samples + reference) / 2) - (_evenness(samples) + _evenness(reference)) / 2
            numbers["apart"] = math.log2(experts) * divergence.mean().item()
        return {f"experts/{name}": number for name, number in {**numbers, **self._experts.gradient()}.items()}


def _layer(model: nn.Module, router: nn.Module, count: int, top_k: int) -> Layer:
    """Find a router's experts: they are in the nearest ancestor that contains any and contains no other router."""
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
    """Yield the weights that stack all experts in one tensor, or the adapter weights on top of them."""
    for part in above.modules():
        if isinstance(part, ParamWrapper) and part.num_experts == count:
            yield from ((layer, "weight", "first") for layer in part.lora_A.values())
            yield from ((layer, "weight", "last") for layer in part.lora_B.values())
        own = {name: weight for name, weight in part.named_parameters(recurse=False) if weight.shape[:1] == (count,)}
        if part is not router and any(weight.dim() == 3 for weight in own.values()):
            yield from ((part, name, "first") for name in own)


def _outputs(router: nn.Module) -> int:
    """Return the number of experts that a router chooses from, which is the number of rows of its weight."""
    return next((weight.shape[0] for weight in router.parameters() if weight.dim() == 2), 0)


def _choices(output: Any, count: int, top_k: int) -> Tensor:
    """Return the (T, k) choices from a router's output: its indices if it returns any, else the top k of its logits."""
    parts = output if isinstance(output, tuple) else (output,)
    indices = [part for part in parts if part.dim() == 2 and not part.is_floating_point()]
    logits = (part for part in parts if part.shape[-1] == count)
    chosen: Tensor = indices[0] if indices else next(logits).reshape(-1, count).topk(top_k, dim=-1).indices
    return chosen


def _evenness(shares: Tensor) -> Tensor:
    """Return the (L,) entropies of (L, E) shares that sum to 1, divided by log E."""
    entropies: Tensor = torch.special.entr(shares).sum(dim=-1)
    return entropies / math.log(shares.shape[-1])


def _norms(grad: Tensor, by_expert: Callable[[Tensor, int], Tensor], experts: int) -> Tensor:
    """Return the (E,) norms of a gradient that holds all experts; of a sharded 3-D one, only the norms are gathered."""
    precise = torch.promote_types(grad.dtype, torch.float32)
    if grad.dim() == 3:
        return full_value(torch.linalg.vector_norm(grad, dim=(1, 2), dtype=precise))
    norms: Tensor = torch.linalg.vector_norm(by_expert(full_value(grad), experts), dim=1, dtype=precise)
    return norms
