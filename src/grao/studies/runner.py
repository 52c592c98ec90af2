"""Runs of a study done one after the other: what is recorded already is not done again, what fails is recorded."""

import errno
import gc
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grao.errors import InputError, RewardUnavailableError
from grao.records.cell import CellRecord, read_cell, write_cell
from grao.records.files import replace_text
from grao.records.manifest import git_revision, installed_versions, now
from grao.reports.words import duration, percent
from grao.studies.cell import Cell, run_cell
from grao.studies.cells import counts
from grao.studies.screen import StudyScreen

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}


@dataclass
class Runner:
    """Does runs and says how far it is."""

    output: Path
    """Folder of the study."""
    screen: StudyScreen
    retry: bool
    """Do runs again that failed."""
    total: int
    """Runs of the whole study."""
    ahead: int = 0
    """Runs that are recorded already but have not come up yet; they will take no time."""
    done: int = 0
    spent: list[float] = field(default_factory=list)
    """Seconds of each finished run."""

    def run(self, cells: Sequence[Cell]) -> list[CellRecord]:
        """The records of all these runs, made now or before.

        Raises:
            RewardUnavailableError: if the reward cannot be had; the runs that are finished stay.
        """
        known = [self._known(cell) for cell in cells]
        for record in known:
            self._count(record)
        gc.freeze()  # what is loaded by now stays, so that clearing up after each run is quick
        try:
            return [record or self._fresh(cell) for cell, record in zip(cells, known, strict=True)]
        finally:
            gc.unfreeze()

    def _known(self, cell: Cell) -> CellRecord | None:
        record = read_cell(self.output, cell.key)
        if record is None or not counts(record, cell.settings) or (record.error and self.retry):
            return None
        return record

    def _fresh(self, cell: Cell) -> CellRecord:
        title = f"{self.done + 1}/{self.total} {cell.key.words}"
        with self.screen.cell(title, self._left()) as progress:
            try:
                record = run_cell(cell, self.output / "work" / "before", progress)
            except RewardUnavailableError as error:
                raise RewardUnavailableError(f"{error}; finished runs are kept, the same command goes on") from error
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _DISK:
                    raise
                record = self._failed(cell, error)
        write_cell(self.output, record)
        gc.collect()  # a trainer refers to itself; its weights must be gone before the next one comes
        self._count(record)
        left = self._left()
        self.screen.say(f"{title}: {_summary(record)}{f'; about {duration(left)} left' if left else ''}")
        return record

    def _left(self) -> float | None:
        """Seconds to the end, if any run was ever timed."""
        waiting = max(self.total - self.done - self.ahead, 0)
        return sum(self.spent) / len(self.spent) * waiting if self.spent else None

    def _failed(self, cell: Cell, error: Exception) -> CellRecord:
        """The record of a run that failed; the traceback of what is no user's mistake stays in the scratch folder."""
        line = " ".join(str(error).split())
        if not isinstance(error, InputError):
            line = f"{type(error).__name__}: {line}"
            cell.recipe.output.mkdir(parents=True, exist_ok=True)
            replace_text(cell.recipe.output / "traceback.txt", traceback.format_exc())
        when = now()
        return CellRecord(cell.key, cell.settings, when, when, installed_versions(), git_revision(), error=line)

    def _count(self, record: CellRecord | None) -> None:
        if record:
            self.done += 1
        if record and record.cost:
            self.spent.append(record.cost.seconds["total"])


def _summary(record: CellRecord) -> str:
    if record.outcomes is None or record.cost is None:
        return f"FAILED: {record.error}"
    ras = percent(record.curve[-1].ras, len(record.outcomes.after))
    return f"RAS {ras}, {duration(record.cost.seconds['total'])}"
