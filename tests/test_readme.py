"""The README's code runs as it stands there."""

import re
from pathlib import Path

import pytest

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
    exec(compile(script, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.count("eval_win") >= 2
    assert (newcomer / "runs" / "library" / "model" / "model.safetensors").exists()


def test_own_data_and_own_reward(newcomer: Path, capsys: pytest.CaptureFixture[str]):
    from grao.cli.main import main

    (reward,) = (block for block in blocks("python") if block.startswith("def reward("))
    (newcomer / "my_reward.py").write_text(reward)
    rows = [f'"What is {a} plus {b}?","{a + b}. I hope this helps!"' for a in range(10) for b in range(20)]
    (newcomer / "mine.csv").write_text("prompt,reference\n" + "\n".join(rows) + "\n")
    (command,) = re.findall(r"\.venv/bin/grao (train --model\.path(?:.*\\\n)+.*)\n", README)
    words = command.replace("\\\n", " ").split()
    words[words.index("--training.steps") + 1] = "2"
    assert main(words) == 0
    assert "RAS" in capsys.readouterr().out
    assert (newcomer / "runs" / "mine" / "report.html").exists()


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
