"""Detection of policy collapse from the logged metrics of a run; each kind is reported once.

The mean of the last ten logged steps is compared with that of the first ten, so that each run is its own baseline. The
limits are extreme, because avoiding false alarms matters more than an early warning. Reward hacking is detected
separately (`grao.training.watch`).
"""

from collections import deque
from collections.abc import Callable, Iterable

from grao.records.run import Step

_WINDOW = 10
"""Number of logged steps that are averaged."""


def _entropy(start: Step, now: Step) -> str | None:
    # Methods that only imitate do not sample; their entropy may become low without a collapse.
    before, entropy, sampled = start["entropy"], now["entropy"], now["completion/tokens"]
    if sampled and entropy < 0.05 and entropy < 0.1 * before:
        return f"entropy has fallen from {before:.2g} to {entropy:.2g} nats per token: nearly all answers are the same"
    return None


def _vanishing(start: Step, now: Step) -> str | None:
    before, length, reference = start["completion/tokens"], now["completion/tokens"], now["reference/tokens"]
    if length < 0.1 * before and length < 0.25 * reference:
        return f"answers have shrunk from {before:.0f} to {length:.1f} tokens; references have {reference:.0f}"
    return None


def _endless(start: Step, now: Step) -> str | None:
    before, length, reference = start["completion/tokens"], now["completion/tokens"], now["reference/tokens"]
    cut, cut_before = now["completion/truncated"], start["completion/truncated"]
    if length > 2 * before and length > 2 * reference and cut > 0.5 and cut_before < 0.25:
        return f"answers have grown from {before:.0f} to {length:.0f} tokens, and {cut:.0%} are truncated"
    return None


def _repetition(start: Step, now: Step) -> str | None:
    before, share = start["completion/repeats"], now["completion/repeats"]
    if share > 0.5 and share > before + 0.3:
        return f"{share:.0%} of the answers repeat themselves ({before:.0%} at the start)"
    return None


def _reference(start: Step, now: Step) -> str | None:
    before, share = start["update_share/reference"], now["update_share/reference"]
    if share > 0.95 and before < 0.75:
        return f"references have {share:.0%} of the update's weight ({before:.0%} at the start), samples almost none"
    return None


_KINDS: tuple[Callable[[Step, Step], str | None], ...] = (_entropy, _vanishing, _endless, _repetition, _reference)


class CollapseWatch:
    """Detector of collapse that is fed the logged training steps in order."""

    def __init__(self) -> None:
        self._first: list[Step] = []
        self._last: deque[Step] = deque(maxlen=_WINDOW)
        self._kinds = list(_KINDS)

    def look(self, line: Step) -> list[str]:
        """Process one step.

        Args:
            line: metrics of the step.

        Returns:
            `step N: reason` for each kind of collapse that is detected for the first time.
        """
        if len(self._first) < _WINDOW:
            self._first.append(line)
            return []
        self._last.append(line)
        if len(self._last) < _WINDOW:
            return []
        start, now = _mean(self._first), _mean(self._last)
        reasons = {kind: _reason(kind, start, now) for kind in self._kinds}
        self._kinds = [kind for kind, reason in reasons.items() if not reason]
        return [f"step {line['step']:.0f}: {reason}" for reason in reasons.values() if reason]


def collapses(lines: Iterable[Step]) -> list[str]:
    """Return everything that `CollapseWatch` reports for the training steps of a run."""
    watch = CollapseWatch()
    return [reason for line in lines for reason in watch.look(line)]


def _reason(kind: Callable[[Step, Step], str | None], start: Step, now: Step) -> str | None:
    try:
        return kind(start, now)
    except KeyError:  # not every method logs every metric
        return None


def _mean(lines: Iterable[Step]) -> Step:
    """Mean of every metric that all lines have, without those that are NaN."""
    lines = list(lines)
    names = set(lines[0]).intersection(*lines[1:])
    sums = {name: sum(line[name] for line in lines) for name in names}
    return {name: total / len(lines) for name, total in sums.items() if total == total}
