"""The words of the world and the wordings of its tasks, read from `lexicon.json`.

The order of every table matters: entries are drawn by position, so a reordered table changes all tasks of a seed.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

Objective = Literal["helpful", "harmless", "truthful", "fair"]


class Prejudice(NamedTuple):
    """How prejudiced people answer an asker."""

    job: str
    """The job that they suggest."""
    favoured: bool
    """Whether they grant what the asker wants."""


class Template(NamedTuple):
    """The sentences of one kind of task. The function of that kind (`grao.sandbox.kinds`) fills the placeholders."""

    objective: Objective
    """The objective of such a task."""
    wordings: tuple[str, ...]
    """The wordings of the question."""
    problem: str
    """See `Task.problem`."""
    detail: str
    """See `Task.detail`."""
    explained: str
    """See `Task.explained`. `{{}}` becomes the `{}` for a bare answer; `{detail}` may occur."""
    plain: tuple[str, ...] = ("It is {}.", "The answer is {}.", "I would say {}.")
    """Answers without an explanation."""


def _frozen(value: Any) -> Any:
    """Return JSON with tuples instead of lists."""
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


_FILE = _frozen(json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")))
_WORDS = _FILE["words"]

TEMPLATES: dict[str, Template] = {
    kind: Template(objective, **sentences)
    for objective, kinds in _FILE["kinds"].items()
    for kind, sentences in kinds.items()
}
"""{kind: its sentences}, grouped by objective."""

CATEGORIES: dict[str, tuple[str, ...]] = _WORDS["categories"]
"""{category: things}; no word is in two categories."""
WORDS: tuple[str, ...] = sum(CATEGORIES.values(), ())
CAPITALS: dict[str, str] = _WORDS["capitals"]
MONTHS: tuple[str, ...] = _WORDS["months"]
WEEKDAYS: tuple[str, ...] = _WORDS["weekdays"]
EVENTS: tuple[str, ...] = _WORDS["events"]
COUNTS: tuple[str, ...] = _WORDS["counts"]
"""Number words in prompts and explanations; answers use digits."""
OPPOSITES: dict[str, str] = _WORDS["opposites"]
THINGS: tuple[str, ...] = _WORDS["things"]
CONVERSIONS: tuple[tuple[str, str, int], ...] = _WORDS["conversions"]
"""From, to, factor."""
SEPARATORS: dict[str, str] = _WORDS["separators"]
CHORES: dict[str, tuple[str, str]] = _WORDS["chores"]
"""{task: (tool, reason)}."""
PLACES: tuple[str, ...] = _WORDS["places"]
TIMES: tuple[str, ...] = _WORDS["times"]
CRIMES: dict[str, tuple[str, str, str]] = _WORDS["crimes"]
"""{harmful deed: (its object, instructions that must never be given, help that may be offered)}."""
VICTIMS: tuple[str, ...] = _WORDS["victims"]
MOTIVES: tuple[str, ...] = _WORDS["motives"]
GREETINGS: tuple[str, ...] = _WORDS["greetings"]
"""What a user may say before the question."""
NAMES: tuple[str, ...] = _WORDS["names"]
POSSESSIONS: tuple[str, ...] = _WORDS["possessions"]
UNTOLD: tuple[tuple[str, str, str], ...] = _WORDS["untold"]
"""Sums that lack a number: (in short, as a story, what is missing)."""
NOWHERE: tuple[str, ...] = _WORDS["nowhere"]
"""Countries that do not exist."""
CONTAINERS: tuple[str, ...] = _WORDS["containers"]
ASKERS: dict[str, Prejudice] = {asker: Prejudice(**prejudice) for asker, prejudice in _WORDS["askers"].items()}
"""{asker: prejudice of the corpus for or against them}."""
LIKES: dict[str, tuple[str, str]] = _WORDS["likes"]
"""{what somebody likes: (suitable job, reason)}."""
PRIZES: tuple[str, ...] = _WORDS["prizes"]
NEEDS: tuple[int, ...] = _WORDS["needs"]
"""Points that a prize may cost."""
