"""The code of README and of docs/library.md trains as it stands there; what does not train is in test_docs.py."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from grao.cli.main import main
from grao.records.run import read_evaluation, read_manifest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text()


def block(page: str, with_words: str) -> str:
    """The Python block of a page that holds these words."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    (script,) = (script for script in found if with_words in script)
    return script


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
    script = block("docs/library.md", "GRAOTrainer(")
    exec(compile(script.replace("steps=120", "steps=2"), "library.md", "exec"), {"__name__": "__main__"})
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


@pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")  # it is the rate for the hub's model
def test_the_readme_script(newcomer: Path, capsys: pytest.CaptureFixture[str]):
    """With the quickstart's model in place of the hub's, for which the tests have no network."""
    script = block("README.md", "GRAOTrainer(")
    for there, here in (("Qwen/Qwen2.5-0.5B-Instruct", "runs/quickstart/model"), ("steps=100", "steps=1")):
        assert there in script
        script = script.replace(there, here)
    exec(compile(script, "README.md", "exec"), {"__name__": "__main__"})
    *_, ras, page = capsys.readouterr().out.splitlines()
    run = newcomer / "runs" / "first"
    assert float(ras) == read_evaluation(run).models["after"].ras.value
    assert page == "runs/first/report.html"
    assert (newcomer / page).exists()


def test_own_data_and_own_reward(newcomer: Path, capsys: pytest.CaptureFixture[str]):
    reward = block("README.md", "def reward(")
    assert reward.split("def reward")[1] == (EXAMPLES / "larger.py").read_text().split("def reward")[1]
    (newcomer / "examples").symlink_to(EXAMPLES)
    (command,) = re.findall(r"\.venv/bin/grao (train --model\.path(?:.*\\\n)+.*)\n", README)
    words = command.replace("\\\n", " ").split()
    words[words.index("--training.steps") + 1] = "2"
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "RAS" in said
    assert "may ignore content" not in said
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
