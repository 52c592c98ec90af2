"""Forms of public data sets that are not rows of a prompt and an answer, each with Python code that converts it.

The forms are listed in `public_forms.yaml`.
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
"""Column names that can be inserted into code verbatim."""
_BUILDERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
"""{file type: builder of `datasets` that reads it}; all others are read as JSON."""


@dataclass(frozen=True)
class Form:
    """One entry of `public_forms.yaml`, which explains the fields."""

    words: str
    lines: str
    columns: Sequence[str] = ()
    fault: str = ""
    beside: bool = False
    """The table is readable as it is, but part of the prompt is in another column."""

    def code(self, data: RowsConfig) -> str:
        """Return a complete Python script that reads the data set and writes the converted rows to a file."""
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
    """Return the name of the file that the code of a form writes."""
    stem = re.sub(r"\W+", "-", Path(source).name.split(".")[0]).strip("-")
    return f"{stem or 'data'}-rows.jsonl"


def known_form(table: Table, config: ColumnsConfig, faults: Sequence[str]) -> Form | None:
    """Return the form of a table, or None if it is not a known one.

    Args:
        table: the rows.
        config: the section that the rows are read with.
        faults: error messages about rows that cannot be read with it.
    """
    prompt, reference = config.prompt, config.reference
    if not (_PLAIN.fullmatch(prompt) and _PLAIN.fullmatch(reference)):
        return None  # unsafe to insert into code that the user will run
    paired = table.has("rejected") or config.rejected is not None
    for entry in read_packaged("grao.data", "public_forms.yaml"):
        form = Form(**entry)
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
