"""Public forms of data that are not rows of a prompt and an answer, and the Python that makes such rows of them.

The forms stand in `public_forms.yaml`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grao.config.recipe import ColumnsConfig, RowsConfig
from grao.data.files import FILE_TYPES, file_type
from grao.data.messages import is_missing
from grao.data.rows import Table
from grao.files import read_packaged

_PLAIN = re.compile(r"[\w \-]+")
"""Names of columns that stand in code as they are."""
_BUILDERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
"""End of a file's name -> what `datasets` reads it with; all others are JSON."""


@dataclass(frozen=True)
class Form:
    """One form, as in the file."""

    words: str
    lines: str
    columns: Sequence[str] = ()
    fault: str = ""
    beside: bool = False
    """The table can be read, but a part of the prompt is not."""

    def code(self, data: RowsConfig) -> str:
        """The whole of the Python; it reads a data set and writes a file."""
        source = data.path
        where = f"{source!r}"
        if source.lower().endswith(FILE_TYPES):
            where = f"{_BUILDERS.get(file_type(Path(source)), 'json')!r}, data_files={where}"
        elif data.subset:
            where = f"{where}, {data.subset!r}"
        split = data.split or "train"
        load, save = f"rows = datasets.load_dataset({where}, split={split!r})", f"rows.to_json({written_by(source)!r})"
        return "\n".join(["import datasets", load, *self.lines.splitlines(), save])


def written_by(source: str) -> str:
    """Name of the file that the code of a form writes."""
    stem = re.sub(r"\W+", "-", Path(source).name.split(".")[0]).strip("-")
    return f"{stem or 'data'}-rows.jsonl"


def known_form(table: Table, config: ColumnsConfig, faults: Sequence[str]) -> Form | None:
    """The form that a table has, if it is known.

    Args:
        table: the rows.
        config: how they are read without it.
        faults: what is then wrong with some of them.
    """
    prompt, reference = config.prompt, config.reference
    if not (_PLAIN.fullmatch(prompt) and _PLAIN.fullmatch(reference)):
        return None  # such a name does not go into Python that somebody pastes
    paired = table.has("rejected") or config.rejected is not None
    for each in read_packaged("grao.data", "public_forms.yaml"):
        form = Form(**each)
        fits = bool(form.columns) and all(_holds_something(table, name) for name in form.columns)
        if form.beside:
            fits &= not faults and prompt not in form.columns and isinstance(table.rows[0].cell(prompt), str)
        if (fits and (form.beside or not paired)) or (form.fault and any(form.fault in fault for fault in faults)):
            texts = form.words, form.lines
            words, lines = (text.replace("PROMPT", prompt).replace("REFERENCE", reference) for text in texts)
            return Form(words, lines)
    return None


def _holds_something(table: Table, name: str) -> bool:
    cells: list[Any] = [row.cell(name) for row in table.rows]
    return any(not is_missing(cell) and cell not in ("", []) for cell in cells)
