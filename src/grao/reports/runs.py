"""`grao runs`: a table of the runs and studies in a folder, one per line."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from grao.errors import InputError
from grao.records.run import Evaluation, Manifest, read_evaluation, read_manifest, read_metrics
from grao.records.study import read_study
from grao.reports.tables import Table, duration, plain_table, share

_DEEPEST = 3
"""Levels of nested folders that are searched."""
_COLUMNS = ["Run", "Status", "Method", "Steps", "RAS", "Started", "Took", "Model"]
_NARROW, _WIDE = 6, 110
"""Number of columns that fit 80 characters, and the width that fits all columns."""


def runs_table(folder: Path, width: int) -> Table:
    """List the runs and studies below a folder by name.

    Args:
        folder: parent folder of the runs.
        width: of the terminal in characters; a narrow one omits the last columns.

    Raises:
        InputError: if there are none.
    """
    rows = [_row(path, str(path.relative_to(folder)) if path != folder else path.name) for path in _folders(folder)]
    if not rows:
        raise InputError(f"{folder}: contains no run or study; give the folder that contains your runs")
    shown = len(_COLUMNS) if width >= _WIDE else _NARROW
    table = plain_table(f"Runs and studies in {folder}: {len(rows):,}", _COLUMNS[:shown], [row[:shown] for row in rows])
    return replace(table, names=2)


def _folders(folder: Path) -> Iterator[Path]:
    """Folders with the records of a run or a study; folders inside of these are not searched."""
    for inside, folders, names in os.walk(folder):
        path = Path(inside)
        if {"manifest.json", "study.json"} & set(names):
            folders.clear()
            yield path
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(path.relative_to(folder).parts) >= _DEEPEST:
            folders.clear()


def _row(path: Path, name: str) -> list[str]:
    """The row of a folder; unreadable records are reported in the row, so that the others can still be listed."""
    try:
        if study := read_study(path):
            best = max(study.arms, key=lambda arm: arm.ras.over_prompts.value) if study.arms else None
            ras = f"{share(best.ras.over_prompts)} ({best.arm})" if best else ""
            return [name, "study", f"{len(study.arms)} arms", "", ras, "", "", ""]
        return _run_row(path, name, read_manifest(path) or Manifest())
    except InputError:
        return [name, "unreadable", *[""] * (len(_COLUMNS) - 2)]


def _run_row(path: Path, name: str, manifest: Manifest) -> list[str]:
    steps, evaluation = read_metrics(path), read_evaluation(path)
    done = f"{int(steps[-1].get('step', 0)):,}" if steps else "0"
    seconds = manifest.seconds
    return [
        name,
        manifest.status or ("evaluated" if evaluation else ""),
        ", ".join(manifest.stages) or str(manifest.setting("method", "name") or ""),
        f"{done}/{manifest.steps:,}" if manifest.steps else done,
        _ras(evaluation) if evaluation else "",
        (manifest.started or "")[:10],
        duration(seconds) if seconds is not None else "",
        Path(str(manifest.setting("model", "path") or "")).name,
    ]


def _ras(evaluation: Evaluation) -> str:
    """`37.1 % to 59.5 %` for a training run, `59.5 % (best of 3)` for several models."""
    known = [scores.ras for scores in evaluation.models.values()]
    if "after" in evaluation.models or len(known) < 2:
        return " to ".join(map(share, known))
    return f"{share(max(known, key=lambda ras: ras.value))} (best of {len(known)})"
