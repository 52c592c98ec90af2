"""The studies kept in `studies/`: their tables come out of their records again, to the byte."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from grao.cli.main import main
from grao.records.study import read_cells
from grao.reports.study import study_csv
from grao.studies.study import recorded_result

STUDIES = sorted(path.parent for path in (Path(__file__).resolve().parents[1] / "studies").glob("*/study.yaml"))
EXACT = {"beta-able", "experts", "group-size-kappa", "kappa", "light-able", "light-weak", "sign-weak"}
"""Studies whose tests over prompts are repeated too. Each test draws 20,000 times; all studies take a minute."""
DRAWN = ("p_prompts", "p_prompts_corrected")


def without(text: str, names: tuple[str, ...]) -> list[list[str]]:
    header, *rows = csv.reader(io.StringIO(text))
    kept = [column for column, name in enumerate(header) if name not in names]
    return [[row[column] for column in kept] for row in (header, *rows)]


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_table_comes_out_of_the_records(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = (folder / "study.csv").read_text()
    if folder.name not in EXACT:
        monkeypatch.setattr("grao.evaluation.inference.DRAWS", 2)
    result = recorded_result(folder)
    assert result is not None
    table = study_csv(result)
    if folder.name in EXACT:
        assert table == stored
    elif folder.name == "auto":  # its table is older than the columns of the axes: the point is in the arm's name
        points = without(table, ("arm", *result.sweep.axes))
        assert points == without(stored, ("arm",))
        assert [arm.arm for arm in result.arms] == [row["arm"] for row in csv.DictReader(io.StringIO(stored))]
    else:
        assert without(table, DRAWN) == without(stored, DRAWN)


def test_the_page_is_made_from_a_copy_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grao.evaluation.inference.DRAWS", 2)
    kept = Path(shutil.copytree(STUDIES[0].parent / "methods-weak", tmp_path / "methods-weak"))
    assert main(["report", str(kept)]) == 0
    page = (kept / "study.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "After 100 steps, grpo beats the reference most often, on 19.3 % of 300 held-out prompts" in page
    assert (
        "Its lead over the runner-up, grao with 17.0 %, is not significant: p = 0.083 for new prompts and new training"
        in page
    )
    assert without((kept / "study.csv").read_text(), DRAWN) == without(
        (STUDIES[0].parent / "methods-weak" / "study.csv").read_text(), DRAWN
    )
    (kept / "cells.jsonl").write_text("")
    assert main(["report", str(kept)]) == 2


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_records_are_sorted_and_readable(folder: Path) -> None:
    lines = (folder / "cells.jsonl").read_text().splitlines()
    records = list(read_cells(folder).values())
    names = [record.key.name for record in records]
    assert names == sorted(names)
    assert len(names) == len(set(names)) == len(lines)
    assert [json.loads(line)["outcomes"]["after"] for line in lines] == [record.outcomes.after for record in records]
