"""Sampling on a GPU at the price of its kernels: one step is captured as a CUDA graph and replayed.

The host issues hundreds of small kernels for a token, which takes several times as long as they run; a replay is one
call. Prompts are read once, completions run in slots (`grao.rollouts.slots`), and a slot whose completion has ended
takes the next one, so that the batch stays full whatever the lengths. The same uniform number decides the same token as
in the plain loop. On a CPU the same steps run without capture.
Before it is used, what this gives is compared with the model's own forward pass; a model that does not fit takes the
plain loop. Left out: speculative decoding, and caches that hold more than keys and values of all tokens.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from grao.engine.interface import mode, transformers_model
from grao.engine.memory import Budget, free_bytes, whole_bytes
from grao.errors import InputError, one_line
from grao.rollouts.base import Sampling
from grao.rollouts.decoding import prepacked
from grao.rollouts.graphs import Graphs, Step
from grao.rollouts.latent import Absorbed
from grao.rollouts.sampling import keyed_uniforms
from grao.rollouts.slots import Slots, check_layers, prefill, token_bytes
from grao.rollouts.transformers import TransformersGenerator, gap_to_forward, tolerated_gap
from grao.types import Answer, TokenIds

LOOK = 8
"""Steps between two looks at which completions have ended: a look waits for the device, a step does not."""
_FEWEST = 8
"""Rows below which a smaller batch is no faster."""
_TOGETHER = 16384
"""Tokens of prompts that are read at once."""
_SHARE = 0.5
"""Of the free memory: what the cache takes at most, and of the whole: what must be free to keep it between rollouts."""
_NOISE, _MORE = 4, 0.05
"""In half precision sampled tokens may be off a forward pass by so many times what the plain loop is, and nats more."""
_NARROW = 4
"""Tokens of a sliding window while the model is tried: fewer than the texts have."""


class CapturedGenerator:
    """Samples groups in slots, with captured steps on a GPU.

    Args:
        model: the policy; it is switched to evaluation mode while it samples, and back.
        stop_ids: every token that ends a completion.
        pad_id: any valid token.
        batch_size: slots at most; halved if memory runs out.
        alone: whether this is the only process; among several it may not halve by itself.

    Raises:
        InputError: if no way of sampling gives the model's own probabilities.
    """

    def __init__(
        self, model: nn.Module, stop_ids: Sequence[int], pad_id: int = 0, batch_size: int = 64, alone: bool = True
    ) -> None:
        self.model, self.pad_id = model, pad_id
        self.stop_ids = torch.tensor(sorted(set(stop_ids)))
        self._at_once = Budget("rollout.batch_size", batch_size, alone)
        self._absorbed: Absorbed | None = None
        self._slots: Slots | None = None
        self._wanted = 0
        self._graphs, self._tried = Graphs(), False
        self._plain = TransformersGenerator(model, stop_ids, pad_id, batch_size, alone)
        self.remark = self._plain.remark or self._misfit()
        """Why the plain loop samples; empty if it does not."""
        self._tried = True
        if self.remark and not self._plain.remark:  # of which the plain loop has said so
            name = type(transformers_model(model)).__name__
            warnings.warn(f"model: {name} is sampled by the plain loop, not in slots: {self.remark}", stacklevel=3)

    def sync(self, policy: nn.Module) -> None:
        """Nothing to do: the policy itself samples, and an optimiser changes its weights in place."""

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`. The longest prompts come first."""
        if self.remark:
            yield from self._plain.generate(prompts, keys, sampling)
            return
        if not self._graphs.fit(self.model):
            self.release()
        try:
            with mode(self.model, training=False), prepacked(self.model):
                if self._absorbed:
                    self._absorbed.refresh()
                rollout = _Rollout(self, prompts, keys, sampling)
                while rollout.groups:
                    for group in self._at_once.run(rollout.until_groups_end):
                        yield group.index, [group.answers[sample] for sample in range(sampling.samples)]
        except Exception:
            self.release()  # whatever lies in the slots must not be seen again
            raise
        if not self._roomy():
            self.release()

    def release(self) -> None:
        """Frees slots and graphs, which the next rollout makes anew."""
        self._slots = None
        self._graphs.clear()

    def slots(self, wanted: int, limit: int, room: int, sampling: Sampling) -> Slots:
        """Free slots, at most `limit` and as many of those wanted as memory has room for.

        Those of the last rollout are taken if they suffice.
        """
        kept, longest = self._slots, sampling.max_new_tokens
        if kept and wanted <= self._wanted and kept.rows <= limit and room <= kept.room and longest <= kept.longest:
            kept.clear()
            return kept
        self.release()
        like, device = prefill(self.model, [[self.pad_id] * 2], self.pad_id), _device(self.model)
        free = free_bytes(device)
        fit = wanted if free is None else int(_SHARE * free) // (room * token_bytes(like))
        rows = max(1, min(wanted, fit))
        self._slots = Slots(self.model, like, rows, room, longest, self.stop_ids.to(device), self.pad_id)
        self._wanted = wanted
        return self._slots

    def step(self, slots: Slots, rows: int, room: int, sampling: Sampling) -> Step:
        """What brings the first `rows` slots a token further."""

        def step() -> None:
            with self._absorbed.attention() if self._absorbed else nullcontext():
                slots.step(rows, room, sampling)

        ready = self._graphs.step((rows, room, replace(sampling, samples=1)), step, slots.alive)
        if self._graphs.refused and self._tried:
            warnings.warn(f"sampling is slower, a step is not captured: {self._graphs.refused}", stacklevel=2)
            self._graphs.refused = ""
        return ready

    def _roomy(self) -> bool:
        """Whether the memory of the slots can be spared until the next rollout."""
        device = _device(self.model)
        free = free_bytes(device)
        return free is None or free > _SHARE * whole_bytes(device)

    def _misfit(self) -> str:
        """Why the model cannot be sampled in slots; empty if it can."""
        self.remark, why = "", ""
        try:
            check_layers(self.model)
            with mode(self.model, training=False):
                like: Any = prefill(self.model, [[self.pad_id] * 2], self.pad_id)
            absorbed = Absorbed.of(self.model, like.layers[0].keys.dtype)
            tolerated = min(tolerated_gap(self.model), _NOISE * self._plain.gap + _MORE)
        except Exception as error:
            return one_line(error)
        for self._absorbed in (absorbed, None) if absorbed else (None,):
            self._graphs.refused = ""
            try:
                with _narrow_window(self.model):
                    gap = gap_to_forward(self, 4)
            except InputError:
                raise
            except Exception as error:  # whatever a model's own code makes of a cache that is handled like others
                why = one_line(error)
                continue
            finally:
                self.release()
            if gap < tolerated and not self._graphs.refused:
                return ""
            off = f"sampled tokens are {gap:.2g} nats off the probabilities of a plain forward pass"
            why = self._graphs.refused or off
        return why


@dataclass(eq=False)
class _Group:
    """A prompt whose completions are under way."""

    index: int
    prompt: TokenIds
    uniforms: Tensor
    """(G, T)."""
    waiting: list[int]
    """Samples that are in no slot, the next one last."""
    answers: dict[int, Answer] = field(default_factory=dict)
    prefix: Any = None
    """A cache that holds the prompt, and its row there, while samples wait; None before and afterwards."""


class _Rollout:
    """B prompts on their way through the slots."""

    def __init__(
        self, engine: CapturedGenerator, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> None:
        self._engine, self._sampling = engine, sampling
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        waiting = list(range(sampling.samples))[::-1]
        self.groups = [_Group(i, prompts[i], keyed_uniforms([keys[i]], sampling), [*waiting]) for i in order]
        """Those that are not finished."""
        self._slots: Slots | None = None
        self._limit = 0
        self._occupants: dict[int, tuple[_Group, int]] = {}
        """Slot -> what it samples."""

    def until_groups_end(self, limit: int) -> list[_Group]:
        """Goes on, in at most `limit` slots, until all completions of a group have ended; returns such groups."""
        slots = self._slots if self._slots and limit == self._limit else self._begin(limit)
        while True:
            self._refill(slots)
            rows, room = self._compacted(slots)
            step = self._engine.step(slots, rows, room, self._sampling)
            for _ in range(min(LOOK, self._sampling.max_new_tokens - min(slots.counts.values()))):
                step()
            finished = self._harvest(slots, rows)
            if finished:
                self.groups = [group for group in self.groups if group not in finished]
                return finished

    def _begin(self, limit: int) -> Slots:
        """New slots; what was under way in others begins again, and draws the same."""
        for group, sample in self._occupants.values():
            group.waiting.append(sample)
        for group in self.groups:
            group.prefix = None
        most = min(limit, max(1, self._slots.rows // 2)) if self._slots else limit  # memory ran out with those
        self._occupants, self._slots, self._limit = {}, None, limit
        wanted = min(most, sum(len(group.waiting) for group in self.groups))
        longest = max(len(group.prompt) for group in self.groups) + self._sampling.max_new_tokens
        self._slots = self._engine.slots(wanted, most, bucket(longest), self._sampling)
        return self._slots

    def _refill(self, slots: Slots) -> None:
        """Puts waiting completions into free slots."""
        free = [slot for slot in range(slots.rows) if slot not in self._occupants][::-1]
        chosen: list[tuple[_Group, list[int]]] = []
        for group in self.groups:
            if group.waiting and free:
                taken = [free.pop() for _ in range(min(len(free), len(group.waiting)))]
                chosen.append((group, taken))
        self._read([group for group, _ in chosen if group.prefix is None])
        for group, taken in chosen:
            samples = [group.waiting.pop() for _ in taken]
            self._occupants |= {slot: (group, sample) for slot, sample in zip(taken, samples, strict=True)}
            slots.fill(taken, group.prompt, group.prefix, group.uniforms[samples])
            if not group.waiting:
                group.prefix = None

    def _read(self, groups: Sequence[_Group]) -> None:
        """Reads prompts, the longest of which come first, several at once."""
        while groups:
            together = groups[: max(1, _TOGETHER // len(groups[0].prompt))]
            cache = prefill(self._engine.model, [group.prompt for group in together], self._engine.pad_id)
            for row, group in enumerate(together):
                group.prefix = cache, row
            groups = groups[len(together) :]

    def _compacted(self, slots: Slots) -> tuple[int, int]:
        """The rows and the room of the next steps, as small as the completions under way allow."""
        under_way, rows = sorted(self._occupants), slots.rows
        while rows // 2 >= max(len(under_way), _FEWEST):
            rows //= 2
        if under_way[-1] >= rows:
            slots.compact(under_way)
            self._occupants = {row: self._occupants[slot] for row, slot in enumerate(under_way)}
        furthest = max(len(group.prompt) + slots.counts[slot] for slot, (group, _) in self._occupants.items())
        return rows, min(bucket(furthest + LOOK), slots.room)

    def _harvest(self, slots: Slots, rows: int) -> list[_Group]:
        """Takes the completions that have ended out of their slots; returns the groups that this finishes."""
        finished = []
        for slot, answer in slots.harvest(rows).items():
            group, sample = self._occupants.pop(slot)
            group.answers[sample] = answer
            if len(group.answers) == self._sampling.samples:
                finished.append(group)
        return finished


def bucket(length: int) -> int:
    """The next of 64, 80, 96, 112, 128, 160, ...: few enough to capture each, at most a quarter more than needed."""
    step = max(16, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


@contextmanager
def _narrow_window(model: nn.Module) -> Iterator[None]:
    """Within it, a sliding window is shorter than the texts on which the model is tried, so that it shows there."""
    config: Any = transformers_model(model).config.get_text_config()
    window = getattr(config, "sliding_window", None)
    try:
        if window:
            config.sliding_window = min(window, _NARROW)
        yield
    finally:
        if window:
            config.sliding_window = window


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
