"""What `--help` prints about settings: the common ones, all of a section, or those that mention a word.

`config/common.yaml` lists the common ones. Lines fit the terminal; without one they have 100 columns.
"""

import shutil
from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import Any

from grao.config.arms import SANDBOX
from grao.config.other_trainers import meaning
from grao.config.recipe import Recipe
from grao.config.schema import FieldFacts, SectionFacts, field_facts, sections, variants
from grao.config.strict_yaml import Location, write_inline
from grao.errors import InputError
from grao.files import read_packaged

_USUAL, _WIDEST, _NARROWEST = 100, 120, 60
"""Columns without a terminal; most and fewest columns used."""
COMMON: list[dict[str, Any]] = read_packaged("grao.config", "common.yaml")
"""Groups of common settings, with the commands whose help shows them."""
_JOINED = "\u00a0"
"""A non-breaking space."""
COLUMN = 33
"""Where descriptions begin."""
_NOTHING = ("null", "''", "{}", "[]")
_PLAIN = ("text", "mapping", "true | false")
"""Defaults and kinds of values that need no mention."""
_OWN = {"quickstart": {**SANDBOX, "training.steps": 100}}
"""Defaults of a command that differ from the recipe's."""
Entry = tuple[str, str]
"""A name and its description."""


def width() -> int:
    """Return the width of the terminal in columns (the variable COLUMNS overrides it), within the limits above."""
    return min(max(shutil.get_terminal_size((_USUAL, 0)).columns, _NARROWEST), _WIDEST)


def table(entries: Iterable[Entry], column: int = COLUMN) -> str:
    """Return names with their descriptions beside them, or below a name that is too long; lines fit the terminal.

    Args:
        entries: the rows.
        column: where descriptions begin.
    """
    lines = []
    for name, text in entries:
        below = [""] * (len(name) + 4 > column)
        first, *others = [*below, *wrap(text, width() - column, break_on_hyphens=False, break_long_words=False), ""]
        lines += [f"  {name:{column - 2}}{first}", *(" " * column + line for line in others[:-1])]
    return "\n".join(line.rstrip() for line in lines).replace(_JOINED, " ")


def wrapped(text: str) -> str:
    """Return the text with its lines wrapped to the width of the terminal."""
    return "\n".join("\n".join(wrap(line, width())) for line in text.split("\n"))


def settings_of(command: str, root: type) -> str:
    """Return a command's help on settings: the common ones of a run's recipe, all of a study or a reward model."""
    if root is not Recipe:
        return _sections_text(sections(root), root)
    groups = (group for group in COMMON if command in group["commands"])
    tables = ((g["group"], table(_common_entry(k, v, command) for k, v in g["settings"].items())) for g in groups)
    more = f"grao {command} --help SECTION shows all settings of a section: {_known(root)}, judge, lora, ..."
    searched = f"grao {command} --help -s WORD shows the settings that mention a word."
    return "\n\n".join((*map("\n".join, tables), f"{wrapped(more)}\n{wrapped(searched)}"))


def section_text(word: str, root: type) -> str:
    """Return the settings of the sections that a word names, with subsections; else the settings that mention the word.

    Args:
        word: `training`, `judge`, `rewards.0.judge`.
        root: class of the recipe.

    Raises:
        InputError: if the word neither names a section nor is mentioned by a setting.
    """
    sought = "." + ".".join(part for part in word.lower().lstrip("-").split(".") if part != "0")
    named = [each.path for each in sections(root) if f".{'.'.join(p for p in each.path if p != '0')}".endswith(sought)]
    inside = [section for section in sections(root) if any(section.path[: len(path)] == path for path in named)]
    return _sections_text(inside, root) if named else search_text(word, root)


def search_text(word: str, root: type) -> str:
    """Return the settings whose name or description mentions a word, and the equivalent if other trainers use the word.

    Raises:
        InputError: if there is none.
    """
    distinct = (section for section, earlier in _once(sections(root)) if not earlier)
    entries = (_entry(item, root) for section in distinct for item in _fields(section, root))
    sought, equivalent = word.lower().lstrip("-"), f"--{meaning(word)}".partition(" ")[0]
    matches = [row for row in entries if sought in " ".join(row).lower() or row[0].startswith(equivalent)]
    if not matches:
        raise InputError(f"--help: no setting mentions {word!r}; sections are {_known(root)}")
    return table(dict.fromkeys(matches))


def _known(root: type) -> str:
    return ", ".join(dict.fromkeys(section.path[0] for section in sections(root)[1:]))


def _once(facts: Iterable[SectionFacts]) -> Iterator[tuple[SectionFacts, Location | None]]:
    """Yield each section and the path of an earlier one with the same fields, if any; skip subsections of repeats."""
    first: dict[Location, Location] = {}
    repeated: list[Location] = []
    for section in facts:
        if any(section.path[: len(path)] == path for path in repeated):
            continue
        earlier = first.setdefault((section.doc, *(item.path[-1] for item in section.fields)), section.path)
        repeated += [section.path] if earlier != section.path else []
        yield section, earlier if earlier != section.path else None


def _fields(section: SectionFacts, root: type) -> list[FieldFacts]:
    """Return the fields of a section; of several variants, only the default one lists `name`, which selects one."""
    first = section.variant in (None, next(iter(variants(section.path, root)), None))
    return [item for item in section.fields if first or item.path[-1] != "name"]


def _sections_text(facts: Iterable[SectionFacts], root: type) -> str:
    parts = []
    for section, earlier in _once(facts):
        kind = f" ({section.variant})" if section.variant else ""
        optional = " Absent by default." if section.optional else ""
        see_earlier = f" Its settings are those of {'.'.join(earlier)}." if earlier else ""
        title = f"{'.'.join(section.path) or 'top level'}{kind}: {section.doc}{optional}{see_earlier}"
        rows = "" if earlier else f"\n{table(_entry(item, root) for item in _fields(section, root))}"
        parts.append(wrapped(title) + rows)
    return "\n\n".join(parts)


def _common_entry(name: str, text: str | None, command: str) -> Entry:
    """Return the entry of a common field, with choices and default if they are not obvious, or of a section."""
    path = tuple(name.split("."))
    item = field_facts().get(path)
    if item is None:
        return f"--{name}...", f"{text} [--help {path[-1]}]"
    item = item._replace(default=_OWN.get(command, {}).get(name, item.default))
    inside = any(section.optional and section.path == path[:-1] for section in sections())
    takes = value_description(item, Recipe)
    clear = takes in _PLAIN or takes.startswith(("integer", "number"))
    return _row(item, text or item.doc, "" if clear else takes, "" if inside else _default(item))


def _entry(item: FieldFacts, root: type) -> Entry:
    """Return a field as an option, with its description, accepted values and default."""
    takes = value_description(item, root)
    return _row(item, item.doc, "" if takes in _PLAIN else takes, _default(item))


def _row(item: FieldFacts, text: str, *notes: str) -> Entry:
    details = "; ".join(filter(None, notes))
    return f"--{'.'.join(item.path)}", f"{text} [{details}]" if details else text


def value_description(item: FieldFacts, root: type) -> str:
    """Return in words what a field accepts; alternatives are separated by bars."""
    kinds = variants(item.path[:-1], root) if item.path[-1] == "name" else {}
    return " | ".join(kinds) or item.kind.removesuffix(" | null")


def _default(item: FieldFacts) -> str:
    shown = write_inline(item.default)
    return "required" if item.required else "" if shown in _NOTHING else f"default{_JOINED}{shown}"
