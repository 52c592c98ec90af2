"""Sampling on a GPU without launch overhead: a decoding step is captured as a CUDA graph and replayed.

A decoding step consists of hundreds of small kernels. The CPU takes several times as long to launch them as the GPU to
run them; replaying a graph is one launch. Each prompt is prefilled once, and completions run in slots
(`grao.rollouts.slots`): a slot whose completion has ended takes the next one, so that the batch stays full whatever the
lengths. Every token is drawn from the same uniform number as in the plain loop (`grao.rollouts.transformers`). On a CPU
the same steps run without capture.

At the start, sampled log-probabilities are compared with the model's own forward pass; a model that does not match is
sampled by the plain loop. Left out: speculative decoding, and caches that hold anything but keys and values of all
tokens.
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

STEPS_PER_CHECK = 8
"""Steps between two checks for completions that have ended: a check waits for the GPU, a step does not."""
_FEWEST_ROWS = 8
"""Rows below which a smaller batch is no faster."""
_PREFILL_TOKENS = 16384
"""Prompt tokens that are prefilled together."""
_SHARE = 0.5
"""Largest share of the free memory that the cache may take, and share of all memory that must be free for the cache to
be kept between rollouts."""
_GAP_FACTOR, _GAP_MARGIN = 4, 0.05
"""Gap to a forward pass tolerated in half precision: this many times the plain loop's gap, plus this many nats."""
_TEST_WINDOW = 4
"""Tokens of a sliding window while the model is tested: fewer than the test sequences have."""


class CapturedGenerator:
    """Samples groups in slots, with captured steps on a GPU.

    Args:
        model: the policy; in evaluation mode while it samples.
        stop_ids: every token that ends a completion.
        pad_id: any valid token.
        batch_size: largest number of slots; halved if memory runs out.
        alone: whether this is the only process; with several, a process must not halve the batch by itself.

    Raises:
        InputError: if no way of sampling reproduces the model's own probabilities.
    """

    def __init__(
        self, model: nn.Module, stop_ids: Sequence[int], pad_id: int = 0, batch_size: int = 64, alone: bool = True
    ) -> None:
        self.model, self.pad_id = model, pad_id
        self.stop_ids = torch.tensor(sorted(set(stop_ids)))
        self._batch_size = Budget("rollout.batch_size", batch_size, alone)
        self._absorbed: Absorbed | None = None
        self._slots: Slots | None = None
        self._wanted = 0
        self._graphs, self._tested = Graphs(), False
        self._plain = TransformersGenerator(model, stop_ids, pad_id, batch_size, alone)
        self.remark = self._plain.remark or self._misfit()
        """Why the plain loop samples instead; empty if it does not."""
        self._tested = True
        if self.remark and not self._plain.remark:  # the plain loop has warned about its own remark
            name = type(transformers_model(model)).__name__
            warnings.warn(f"model: {name} uses the plain sampling loop, which is slower: {self.remark}", stacklevel=3)

    def sync(self, policy: nn.Module) -> None:
        """Do nothing: the policy itself samples, and the optimizer changes its weights in place."""

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`. The longest prompts are sampled first."""
        if self.remark:
            yield from self._plain.generate(prompts, keys, sampling)
            return
        if not self._graphs.still_valid(self.model):
            self.release()
        try:
            with mode(self.model, training=False), prepacked(self.model):
                if self._absorbed:
                    self._absorbed.refresh()
                rollout = _Rollout(self, prompts, keys, sampling)
                while rollout.groups:
                    for group in self._batch_size.run(rollout.until_groups_end):
                        yield group.index, [group.answers[sample] for sample in range(sampling.samples)]
        except Exception:
            self.release()  # slots left half-filled must not be reused
            raise
        if not self._can_keep_slots():
            self.release()

    def release(self) -> None:
        """Free slots and graphs; the next rollout creates new ones."""
        self._slots = None
        self._graphs.clear()

    def slots(self, wanted: int, limit: int, room: int, sampling: Sampling) -> Slots:
        """Return empty slots: those of the last rollout if they suffice, else new ones.

        Args:
            wanted: number of slots that the rollout can use; it gets fewer if memory is short.
            limit: largest number of slots.
            room: tokens of prompt and completion per slot.
            sampling: settings of the rollout.
        """
        slots, longest = self._slots, sampling.max_new_tokens
        if slots and wanted <= self._wanted and slots.rows <= limit and room <= slots.room and longest <= slots.longest:
            slots.clear()
            return slots
        self.release()
        example, device = prefill(self.model, [[self.pad_id] * 2], self.pad_id), _device(self.model)
        free = free_bytes(device)
        affordable = wanted if free is None else int(_SHARE * free) // (room * token_bytes(example))
        rows = max(1, min(wanted, affordable))
        self._slots = Slots(self.model, example, rows, room, longest, self.stop_ids.to(device), self.pad_id)
        self._wanted = wanted
        return self._slots

    def step(self, slots: Slots, rows: int, room: int, sampling: Sampling) -> Step:
        """Return a function that advances the first `rows` slots by one token, captured on a GPU.

        Args:
            slots: to advance.
            rows: number of slots, from the front.
            room: cache positions that the step attends to; all slots stand below it.
            sampling: settings of the rollout.
        """

        def step() -> None:
            with self._absorbed.attention() if self._absorbed else nullcontext():
                slots.step(rows, room, sampling)

        ready = self._graphs.step((rows, room, replace(sampling, samples=1)), step, slots.alive)
        if self._graphs.failure and self._tested:
            warnings.warn(
                f"sampling is slower: a step cannot be captured as a CUDA graph: {self._graphs.failure}", stacklevel=2
            )
            self._graphs.failure = ""
        return ready

    def _can_keep_slots(self) -> bool:
        """Whether enough memory is free to keep the slots until the next rollout."""
        device = _device(self.model)
        free = free_bytes(device)
        return free is None or free > _SHARE * whole_bytes(device)

    def _misfit(self) -> str:
        """Return why the model cannot be sampled in slots; empty if it can."""
        self.remark, reason = "", ""
        try:
            check_layers(self.model)
            with mode(self.model, training=False):
                example: Any = prefill(self.model, [[self.pad_id] * 2], self.pad_id)
            absorbed = Absorbed.of(self.model, example.layers[0].keys.dtype)
            tolerated = min(tolerated_gap(self.model), _GAP_FACTOR * self._plain.gap + _GAP_MARGIN)
        except Exception as error:
            return one_line(error)
        for self._absorbed in (absorbed, None) if absorbed else (None,):
            self._graphs.failure = ""
            try:
                with _narrow_window(self.model):
                    gap = gap_to_forward(self, 4)
            except InputError:
                raise
            except Exception as error:  # a model's code may fail in any way on a cache that is not its own
                reason = one_line(error)
                continue
            finally:
                self.release()
            if gap < tolerated and not self._graphs.failure:
                return ""
            mismatch = f"sampled tokens are {gap:.2g} nats off the probabilities of a plain forward pass"
            reason = self._graphs.failure or mismatch
        return reason


@dataclass(eq=False)
class _Group:
    """A prompt whose completions are being sampled."""

    index: int
    prompt: TokenIds
    uniforms: Tensor
    """(G, T) uniform numbers, one per token."""
    waiting: list[int]
    """Samples that are not in a slot yet; the next one is last."""
    answers: dict[int, Answer] = field(default_factory=dict)
    """Sample -> its finished completion."""
    prefix: Any = None
    """A cache and the prompt's row in it, kept while samples wait; None before and afterwards."""


class _Rollout:
    """Samples B prompts in slots."""

    def __init__(
        self, engine: CapturedGenerator, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> None:
        self._engine, self._sampling = engine, sampling
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        waiting = list(range(sampling.samples))[::-1]
        self.groups = [_Group(i, prompts[i], keyed_uniforms([keys[i]], sampling), [*waiting]) for i in order]
        """The unfinished groups."""
        self._slots: Slots | None = None
        self._limit = 0
        self._occupants: dict[int, tuple[_Group, int]] = {}
        """Slot -> the group and sample in it."""

    def until_groups_end(self, limit: int) -> list[_Group]:
        """Sample in at most `limit` slots until a group is complete; return all groups that are."""
        slots = self._slots if self._slots and limit == self._limit else self._new_slots(limit)
        while True:
            self._refill(slots)
            rows, room = self._compacted(slots)
            step = self._engine.step(slots, rows, room, self._sampling)
            for _ in range(min(STEPS_PER_CHECK, self._sampling.max_new_tokens - min(slots.counts.values()))):
                step()
            finished = self._harvest(slots, rows)
            if finished:
                self.groups = [group for group in self.groups if group not in finished]
                return finished

    def _new_slots(self, limit: int) -> Slots:
        """Start over in new slots; unfinished completions are sampled again from the same draws."""
        for group, sample in self._occupants.values():
            group.waiting.append(sample)
        for group in self.groups:
            group.prefix = None
        # If there are old slots, memory ran out with them; they may have been fewer than the limit that was halved.
        most_slots = min(limit, max(1, self._slots.rows // 2)) if self._slots else limit
        self._occupants, self._slots, self._limit = {}, None, limit
        wanted = min(most_slots, sum(len(group.waiting) for group in self.groups))
        longest = max(len(group.prompt) for group in self.groups) + self._sampling.max_new_tokens
        self._slots = self._engine.slots(wanted, most_slots, bucket(longest), self._sampling)
        return self._slots

    def _refill(self, slots: Slots) -> None:
        """Put waiting completions into free slots."""
        free = [slot for slot in range(slots.rows) if slot not in self._occupants][::-1]
        chosen: list[tuple[_Group, list[int]]] = []
        for group in self.groups:
            if group.waiting and free:
                taken = [free.pop() for _ in range(min(len(free), len(group.waiting)))]
                chosen.append((group, taken))
        self._prefill([group for group, _ in chosen if group.prefix is None])
        for group, taken in chosen:
            samples = [group.waiting.pop() for _ in taken]
            self._occupants |= {slot: (group, sample) for slot, sample in zip(taken, samples, strict=True)}
            slots.fill(taken, group.prompt, group.prefix, group.uniforms[samples])
            if not group.waiting:
                group.prefix = None

    def _prefill(self, groups: Sequence[_Group]) -> None:
        """Prefill prompts in batches; they are sorted by length, longest first."""
        while groups:
            batch = groups[: max(1, _PREFILL_TOKENS // len(groups[0].prompt))]
            cache = prefill(self._engine.model, [group.prompt for group in batch], self._engine.pad_id)
            for row, group in enumerate(batch):
                group.prefix = cache, row
            groups = groups[len(batch) :]

    def _compacted(self, slots: Slots) -> tuple[int, int]:
        """Return rows and room of the next steps, as small as the current completions allow.

        Both take few values only, because every combination is captured as a graph of its own.
        """
        occupied, rows = sorted(self._occupants), slots.rows
        while rows // 2 >= max(len(occupied), _FEWEST_ROWS):
            rows //= 2
        if occupied[-1] >= rows:
            slots.compact(occupied)
            self._occupants = {row: self._occupants[slot] for row, slot in enumerate(occupied)}
        furthest = max(len(group.prompt) + slots.counts[slot] for slot, (group, _) in self._occupants.items())
        return rows, min(bucket(furthest + STEPS_PER_CHECK), slots.room)

    def _harvest(self, slots: Slots, rows: int) -> list[_Group]:
        """Take finished completions out of their slots; return the groups that are now complete."""
        finished = []
        for slot, answer in slots.harvest(rows).items():
            group, sample = self._occupants.pop(slot)
            group.answers[sample] = answer
            if len(group.answers) == self._sampling.samples:
                finished.append(group)
        return finished


def bucket(length: int) -> int:
    """Round a length up to 64, 80, 96, 112, 128, 160, ...

    These are few enough values to capture a graph for each, and at most a quarter more than needed from 64 on.
    """
    step = max(16, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


@contextmanager
def _narrow_window(model: nn.Module) -> Iterator[None]:
    """Shorten a sliding window inside the context, so that the short test sequences exceed it."""
    config: Any = transformers_model(model).config.get_text_config()
    window = getattr(config, "sliding_window", None)
    try:
        if window:
            config.sliding_window = min(window, _TEST_WINDOW)
        yield
    finally:
        if window:
            config.sliding_window = window


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
