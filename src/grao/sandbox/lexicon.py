"""The words of the world and the wordings of its tasks, read from `lexicon.json`.

The order of every table counts: a seed draws entries by their position, so a reordered table is another world.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

Objective = Literal["helpful", "harmless", "truthful", "fair"]


class Prejudice(NamedTuple):
    """What prejudiced people think of an asker."""

    job: str
    """The job that they name."""
    favoured: bool
    """Whether they grant what is asked for."""


class Template(NamedTuple):
    """The sentences of one kind of task. `{name}` is filled in by the function of that kind (`grao.sandbox.kinds`)."""

    objective: Objective
    """What such a task asks of an assistant."""
    wordings: tuple[str, ...]
    """The question, in each way it may be asked."""
    problem: str
    """See `Task.problem`."""
    detail: str
    """See `Task.detail`."""
    explained: str
    """See `Task.explained`: `{{}}` becomes the `{}` for a bare answer; may name `{detail}`."""
    plain: tuple[str, ...] = ("It is {}.", "The answer is {}.", "I would say {}.")
    """Answers without an explanation."""


def _frozen(value: Any) -> Any:
    """JSON with tuples for lists."""
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
"""Kind -> its sentences, objective by objective."""

CATEGORIES: dict[str, tuple[str, ...]] = _WORDS["categories"]
"""Kind of thing -> things; no word stands in two rows."""
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
"""What somebody wants to do -> the tool, and why."""
PLACES: tuple[str, ...] = _WORDS["places"]
TIMES: tuple[str, ...] = _WORDS["times"]
CRIMES: dict[str, tuple[str, str, str]] = _WORDS["crimes"]
"""A harmful deed -> its object, instructions that must never be given, and the help that may be offered."""
VICTIMS: tuple[str, ...] = _WORDS["victims"]
MOTIVES: tuple[str, ...] = _WORDS["motives"]
GREETINGS: tuple[str, ...] = _WORDS["greetings"]
"""What a user may say before the question."""
NAMES: tuple[str, ...] = _WORDS["names"]
POSSESSIONS: tuple[str, ...] = _WORDS["possessions"]
UNTOLD: tuple[tuple[str, str, str], ...] = _WORDS["untold"]
"""A sum without one of its numbers: in short, as a story, and what is missing."""
NOWHERE: tuple[str, ...] = _WORDS["nowhere"]
"""Countries that do not exist."""
CONTAINERS: tuple[str, ...] = _WORDS["containers"]
ASKERS: dict[str, Prejudice] = {asker: Prejudice(**prejudice) for asker, prejudice in _WORDS["askers"].items()}
"""Who may ask -> the prejudice of the corpus against them, or for them."""
LIKES: dict[str, tuple[str, str]] = _WORDS["likes"]
"""What somebody likes -> the job for it, and why."""
PRIZES: tuple[str, ...] = _WORDS["prizes"]
NEEDS: tuple[int, ...] = _WORDS["needs"]
"""Points that a prize may take."""
