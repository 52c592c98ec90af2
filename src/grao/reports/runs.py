"""What lies in a folder of runs, one line each: `grao runs`."""

import os
from collections.abc import Iterator
from pathlib import Path

from grao.errors import InputError
from grao.records.run import Manifest, read_evaluation, read_manifest, read_metrics
from grao.records.study import read_study
from grao.reports.tables import Table, duration, plain_table, share

_DEEPEST = 3
"""Levels of folders that are looked at."""
_COLUMNS = ["Run", "Status", "Method", "Model", "Steps", "RAS", "Took", "Started"]


def runs_table(folder: Path) -> Table:
    """Every run and study below a folder, by name.

    Raises:
        InputError: if there is none.
    """
    rows = [_row(path, str(path.relative_to(folder)) if path != folder else path.name) for path in _found(folder)]
    if not rows:
        raise InputError(f"{folder}: holds no run and no study; give the folder that your runs are in")
    return plain_table(f"{len(rows):,} in {folder}", _COLUMNS, rows)


def _found(folder: Path) -> Iterator[Path]:
    """Folders with the records of a run or a study; what lies inside of one belongs to it."""
    for inside, folders, names in os.walk(folder):
        path = Path(inside)
        if {"manifest.json", "study.json"} & set(names):
            folders.clear()
            yield path
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(path.relative_to(folder).parts) >= _DEEPEST:
            folders.clear()


def _row(path: Path, name: str) -> list[str]:
    """A folder that cannot be read says so in its line, and the others are shown."""
    try:
        if study := read_study(path):
            best = max(study.arms, key=lambda arm: arm.ras.over_prompts.value) if study.arms else None
            ras = f"{share(best.ras.over_prompts)} ({best.arm})" if best else ""
            return [name, "study", f"{len(study.arms)} arms", "", "", ras, "", ""]
        return _run_row(path, name, read_manifest(path) or Manifest())
    except InputError as error:
        return [name, f"cannot be read: {str(error)[:60]}", *[""] * (len(_COLUMNS) - 2)]


def _run_row(path: Path, name: str, manifest: Manifest) -> list[str]:
    steps, evaluation = read_metrics(path), read_evaluation(path)
    taken = f"{int(steps[-1].get('step', 0)):,}" if steps else "0"
    ras = " to ".join(share(scores.ras) for scores in evaluation.models.values()) if evaluation else ""
    seconds = manifest.seconds
    return [
        name,
        manifest.status or ("evaluated" if evaluation else ""),
        str(manifest.setting("method", "name") or ""),
        Path(str(manifest.setting("model", "path") or "")).name,
        f"{taken}/{manifest.steps:,}" if manifest.steps else taken,
        ras,
        duration(seconds) if seconds is not None else "",
        (manifest.started or "").replace("T", " ")[:16],
    ]
