"""The README's code runs as it stands there."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from grao.cli.main import main
from grao.records.run import read_evaluation, read_manifest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as it is after `make quickstart`, with a model that was hardly trained."""
    from grao.sandbox.world import prepare

    world = prepare(cache=tmp_path / "cache", steps=20, prompts=10, held_out=10)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "model").symlink_to(world.model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_library_script(newcomer: Path, capsys: pytest.CaptureFixture[str]):
    (script,) = (block for block in blocks("python") if "GRAOTrainer(" in block)
    exec(compile(script.replace("steps=120", "steps=2"), "README.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said[:4]] == ["step 0", "step 1/2", "step 2/2", "step 2/2"]
    assert said[1].endswith("tokens")
    assert "held-out prompts" in said[3]
    run = newcomer / "runs" / "library"
    evaluation = read_evaluation(run)
    assert float(said[4]) == evaluation.gains[0].nag.value
    assert list(evaluation.models) == ["before", "after"]
    assert evaluation.judges == ["reward right"]
    assert evaluation.prompts == 150
    assert read_manifest(run).complete
    page = (run / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "answers beat the reference" in page
    assert "Settings of the script" in page
    assert "grao train" not in page  # there is no recipe.yaml to go on from
    assert (run / "model" / "model.safetensors").exists()
    assert main(["runs", str(run.parent)]) == 0


def test_own_data_and_own_reward(newcomer: Path, capsys: pytest.CaptureFixture[str]):
    (reward,) = (block for block in blocks("python") if "def reward(" in block)
    assert reward.split("def reward")[1] == (EXAMPLES / "larger.py").read_text().split("def reward")[1]
    (newcomer / "examples").symlink_to(EXAMPLES)
    (command,) = re.findall(r"\.venv/bin/grao (train --model\.path(?:.*\\\n)+.*)\n", README)
    words = command.replace("\\\n", " ").split()
    words[words.index("--training.steps") + 1] = "2"
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "RAS" in said
    assert "may not look at what a text says" not in said
    assert (newcomer / "runs" / "larger" / "report.html").exists()


def test_the_notebook(newcomer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    made = SimpleNamespace(model=newcomer / "runs" / "quickstart" / "model")
    monkeypatch.setattr("grao.sandbox.world.prepare", lambda: made)
    cells = json.loads((EXAMPLES / "first_run.ipynb").read_text())["cells"]
    script = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    exec(compile(script.replace("STEPS = 120", "STEPS = 1"), "first_run.ipynb", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("RAS ") and "NAG" in line for line in said)
    assert sum("reference: It is" in line for line in said) == 10
    assert said[-1] == "runs/notebook/report.html"


def test_every_link_leads_somewhere():
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\(([^)]+)\)", README):
        path, _, section = target.partition("#")
        assert target.startswith("https://arxiv.org") or (root / path).exists(), target
        if section:
            headings = re.findall(r"^#+ (.+)$", (root / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert section in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], (
                target
            )
