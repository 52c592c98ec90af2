"""What README, CONTRIBUTING and docs/ show is true: code runs, commands parse, links resolve, drawings are current.

Blocks that train (`GRAOTrainer(`) are only compiled here; tests/test_readme.py and tests/test_contributing.py run them.
docs/LOG.md is the notebook: its commands are those of their day, and only its links are checked.
"""

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import drawings
import pytest
import torch
import yaml

from grao.cli.parser import parse_arguments
from grao.config.load import load_recipe
from grao.config.recipe import Recipe
from grao.core import group_advantages, sequence_weights
from grao.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CURRENT = [page for page in PAGES if page.name != "LOG.md"]
RECIPE = """
model: {path: model}
data: {path: prompts.jsonl}
rewards: [{function: "my_reward.py:reward"}]
output: runs/mine
"""
STUDY = "sandbox: {ability: weak}\narms: {grao: {}, grpo: {}}\nbudget: {steps: 2}\noutput: runs/study\n"


COMPILED_ONLY = {
    "docs/from-trl.md": "its report_to is checked against transformers' TrainingArguments, whose import takes long",
    "docs/real-models.md": "loads a model from an installed package",
    "CONTRIBUTING.md": "run by tests/test_contributing.py, with its fixtures",
}
"""Pages whose Python is not run here, and why."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[str]:
    """The command lines in indented and fenced blocks."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    yield from re.findall(r"^ {4}((?:\S*/grao|grao|accelerate launch .*-m grao) .+)$", text, re.MULTILINE)


def mentioned_commands(page: Path) -> Iterator[str]:
    """Commands in sentences, which may be incomplete."""
    yield from re.findall(
        r"`(grao [^`]+)`", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    )


def fault(line: str) -> str:
    """What the real parser has against a command line; empty if nothing."""
    words = shlex.split(line.removesuffix(" ..."), comments=True)
    words = words[words.index("grao") + 1 :] if "grao" in words else words[1:]
    try:
        parse_arguments(words)
    except SystemExit:  # after --help
        pass
    except InputError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with everything that the pages' commands name."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("recipes", "examples", "studies", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "my-study.yaml").write_text(STUDY)
    for name in ("FILE", "prompts.jsonl", "people.jsonl", "answers.jsonl"):
        (folder / name).write_text("")
    for run in ("RUN", "runs/quickstart", "runs/mine", "runs/larger"):
        (folder / run / "model").mkdir(parents=True)
        (folder / run / "manifest.json").write_text("{}")
        (folder / run / "recipe.yaml").write_text(RECIPE)
    return folder


def test_every_python_block_is_python():
    blocks = [(page, block) for page in CURRENT for block in fenced(page, "python")]
    assert len(blocks) >= 8
    for page, block in blocks:
        compile(block, name_of(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", [page for page in CURRENT if fenced(page, "python")], ids=name_of)
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch):
    """Each by itself, in an empty namespace: nothing that it uses may be missing."""
    monkeypatch.setattr("grao.methods.base.METHODS", {})  # the example methods are not left behind
    for block in fenced(page, "python"):
        if "GRAOTrainer(" not in block and name_of(page) not in COMPILED_ONLY:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block, name_of(page), "exec"), {"__name__": "block"})


def test_commands_parse(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Options exist, values are allowed, and recipes are there and can be read."""
    monkeypatch.chdir(workplace)
    lines = {line: name_of(page) for page in CURRENT for line in commands(page)}
    faults = [f"{page}: {line}: {problem}" for line, page in lines.items() if (problem := fault(line))]
    assert not faults, "\n".join(faults)
    assert len(lines) > 50


def test_mentioned_commands_exist(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A command in a sentence may leave out what a reader fills in, but names nothing that does not exist."""
    monkeypatch.chdir(workplace)
    incomplete = re.compile(
        r"missing|^give |required|expected one argument|is empty|not a folder|NAME\.yaml does not exist"
    )
    lines = {line: name_of(page) for page in CURRENT for line in mentioned_commands(page)}
    lines = {line: page for line, page in lines.items() if page != "docs/from-trl.md"}  # it has other trainers' names
    faults = [
        f"{page}: {line}: {problem}"
        for line, page in lines.items()
        if (problem := fault(line)) and not incomplete.search(problem)
    ]
    assert not faults, "\n".join(faults)
    assert len(lines) > 15


def test_recipe_fragments_are_read(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    """YAML blocks with sections of a recipe: all fields exist and all values are allowed."""
    monkeypatch.chdir(workplace)
    fields, count = set(Recipe.__dataclass_fields__), 0
    for page in CURRENT:
        for block in fenced(page, "yaml"):
            values = yaml.safe_load(block.replace("...", "name"))
            if not set(values) <= fields or "chosen" in block:
                continue
            for name, section in yaml.safe_load(RECIPE).items():
                values[name] = (
                    section | values.get(name, {}) if isinstance(section, dict) else values.get(name, section)
                )
            (workplace / "fragment.yaml").write_text(yaml.safe_dump(values))
            load_recipe(workplace / "fragment.yaml")
            count += 1
    assert count >= 8


def headings(page: Path) -> set[str]:
    """Anchors of a page, made as the forge and the site make them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    faults = []
    for target in re.findall(r"(?<!`)\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, section = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or not there.is_relative_to(ROOT):
            faults.append(f"{target}: no such file")
        elif section and section not in headings(there):
            faults.append(f"{target}: no such heading")
    assert not faults, "\n".join(faults)


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": (\S+\.md)$", config, re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def test_the_drawings_are_current():
    for name, draw in drawings.DRAWINGS.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == draw(), f"{name}: python scripts/drawings.py"


def test_the_drawn_step_is_what_the_package_computes():
    namespace: dict = {}
    exec((ROOT / "examples" / "larger.py").read_text(), namespace)
    texts = [*drawings.SAMPLES, drawings.REFERENCE]
    scores = namespace["reward"]([[{"content": text}] for text in texts], [63] * len(texts))
    assert tuple(score - scores[-1] for score in scores[:-1]) == drawings.REWARDS
    advantages = group_advantages(torch.tensor([drawings.REWARDS], dtype=torch.float64), torch.zeros(1))
    weights = sequence_weights(advantages)
    drawn = [*advantages.completions[0].tolist(), advantages.reference.item()]
    assert [round(value, 2) for value in drawn] == list(drawings.ADVANTAGES)
    drawn = [*weights.completions[0].tolist(), weights.reference.item()]
    assert [round(value, 2) for value in drawn] == list(drawings.WEIGHTS)
