"""Whether a policy collapses, read off the curves of its run; each kind is told once.

The mean of the last ten logged steps is compared with that of the first ten, so a run is measured by its own beginning.
The limits are far out: no false alarm counts more than an early one. A hacked reward is another matter (`watch`).
"""

from collections import deque
from collections.abc import Callable, Iterable

from grao.records.run import Step

_WINDOW = 10
"""Logged steps that are averaged."""


def _entropy(start: Step, now: Step) -> str | None:
    before, left, sampled = start["entropy"], now["entropy"], now["completion/tokens"]  # what imitates may be sure
    if sampled and left < 0.05 and left < 0.1 * before:
        return f"entropy has fallen from {before:.2g} to {left:.2g} nats a token: nearly every answer is the same"
    return None


def _vanishing(start: Step, now: Step) -> str | None:
    before, left, wanted = start["completion/tokens"], now["completion/tokens"], now["reference/tokens"]
    if left < 0.1 * before and left < 0.25 * wanted:
        return f"answers have shrunk from {before:.0f} to {left:.1f} tokens; references have {wanted:.0f}"
    return None


def _endless(start: Step, now: Step) -> str | None:
    before, left, wanted = start["completion/tokens"], now["completion/tokens"], now["reference/tokens"]
    cut, cut_before = now["completion/truncated"], start["completion/truncated"]
    if left > 2 * before and left > 2 * wanted and cut > 0.5 and cut_before < 0.25:
        return f"answers have grown from {before:.0f} to {left:.0f} tokens, {cut:.0%} are cut at the limit"
    return None


def _repetition(start: Step, now: Step) -> str | None:
    before, share = start["completion/repeats"], now["completion/repeats"]
    if share > 0.5 and share > before + 0.3:
        return f"{share:.0%} of the answers repeat themselves, {before:.0%} did at the start"
    return None


def _reference(start: Step, now: Step) -> str | None:
    before, share = start["update_share/reference"], now["update_share/reference"]
    if share > 0.95 and before < 0.75:
        return f"references have {share:.0%} of the update's weight, {before:.0%} at the start: samples count no more"
    return None


_KINDS: tuple[Callable[[Step, Step], str | None], ...] = (_entropy, _vanishing, _endless, _repetition, _reference)


class CollapseWatch:
    """Sees one logged training step after the other."""

    def __init__(self) -> None:
        self._first: list[Step] = []
        self._last: deque[Step] = deque(maxlen=_WINDOW)
        self._kinds = list(_KINDS)

    def look(self, line: Step) -> list[str]:
        """A sentence on each kind of collapse that shows with this step and did not before."""
        if len(self._first) < _WINDOW:
            self._first.append(line)
            return []
        self._last.append(line)
        if len(self._last) < _WINDOW:
            return []
        start, now = _mean(self._first), _mean(self._last)
        found = {kind: _told(kind, start, now) for kind in self._kinds}
        self._kinds = [kind for kind, words in found.items() if not words]
        return [f"step {line['step']:.0f}: {words}" for words in found.values() if words]


def collapses(lines: Iterable[Step]) -> list[str]:
    """What `CollapseWatch` says of all training steps of a run."""
    watch = CollapseWatch()
    return [words for line in lines for words in watch.look(line)]


def _told(kind: Callable[[Step, Step], str | None], start: Step, now: Step) -> str | None:
    try:
        return kind(start, now)
    except KeyError:  # not every method logs everything
        return None


def _mean(lines: Iterable[Step]) -> Step:
    """The mean of every number that all of these lines have and that is one."""
    lines = list(lines)
    names = set(lines[0]).intersection(*lines[1:])
    sums = {name: sum(line[name] for line in lines) for name in names}
    return {name: total / len(lines) for name, total in sums.items() if total == total}
