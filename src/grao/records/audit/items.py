"""What an audit asked and what it was told, text by text: the figures are made of nothing else."""

from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What one reward said of a text against the reference."""

    value: float | None
    """R(text, y) as in training: above 0 the text is better, None is missing."""
    shown_first: float | None = None
    """A judge's verdict on the text, 1, 0 or -1, when it was shown first; None: not asked so, or unreadable."""
    shown_second: float | None = None
    """The same when it was shown second."""
    probability: float | None = None
    """That the text is the better one: a judge's own, half of a tie's included, or the logistic of a difference."""


@dataclass(frozen=True)
class PairItem:
    """A reference and a worse answer to the same prompt."""

    id: str
    """Of the prompt."""
    prompt: str
    reference: str
    rejected: str
    held_out: bool
    """Whether no training run with this recipe sees the prompt."""
    readings: dict[str, Reading]
    """Of the rejected answer, by reward."""


@dataclass(frozen=True)
class EditItem:
    """A reference against itself, as it is or trivially edited."""

    id: str
    edit: str
    readings: dict[str, Reading]
    """Of the edited reference, by reward."""


@dataclass(frozen=True)
class GroupItem:
    """A prompt that the policy answered G times."""

    id: str
    prompt: str
    reference: str
    reference_tokens: int
    rewards: list[float | None]
    """G, the total of the mix."""
    parts: dict[str, list[float | None]]
    """G of each reward by name, and one, of the first sample, of the second judge."""
    no_signal: bool
    """All members have the same reward: nothing is learned."""
    dropped: bool
    """Too few rewards to learn from."""
    tokens: list[int]
    """G."""
    truncated: list[bool]
    """G."""
    best: str
    """The sample with the highest reward."""
