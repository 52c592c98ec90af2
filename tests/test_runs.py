"""`grao runs`: one line for each run and study below a folder."""

import json
from pathlib import Path

import pytest

from grao.cli.main import main


def run_in(folder: Path, **manifest: object) -> None:
    folder.mkdir(parents=True)
    config = {"method": {"name": "grao"}, "model": {"path": "/models/tiny"}}
    (folder / "manifest.json").write_text(json.dumps({"config": config, "steps": 40, **manifest}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": n, "loss": 1.0}) + "\n" for n in range(1, 13)))


def listed(capsys: pytest.CaptureFixture[str], folder: Path, code: int = 0) -> list[list[str]]:
    assert main(["runs", str(folder)]) == code
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_every_run_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "160")
    times = {"started": "2026-03-01T10:00:00+00:00", "finished": "2026-03-01T10:02:05+00:00"}
    run_in(tmp_path / "b", status="finished", **times)
    run_in(tmp_path / "deep" / "a", status="interrupted")
    (tmp_path / "b" / "checkpoints" / "checkpoint-9").mkdir(parents=True)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text('{"config": ')
    lines = [line for line in listed(capsys, tmp_path) if line and line[0] in ("b", "deep/a", "torn")]
    assert lines[0] == ["b", "finished", "grao", "12/40", "2026-03-01", "2", "min", "5", "s", "tiny"]
    assert lines[1] == ["deep/a", "interrupted", "grao", "12/40", "tiny"]
    assert lines[2] == ["torn", "unreadable"]
    monkeypatch.setenv("COLUMNS", "80")
    (narrow,) = [line for line in listed(capsys, tmp_path) if line and line[0] == "b"]
    assert narrow == ["b", "finished", "grao", "12/40", "2026-03-01"]


def test_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", str(tmp_path)]) == 2
    assert "contains no run or study" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert main(["runs", str(tmp_path), "--steps", "3"]) == 2
    assert "--steps is unknown; see grao runs --help" in capsys.readouterr().err
