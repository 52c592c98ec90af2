"""The examples of CONTRIBUTING.md work: the method, the reward and the engine train together, the chart is drawn."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig
from grao.records.run import read_metrics
from grao.reports import figures
from tiny import letter_tokenizer, tiny_model

PAGE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = [{"prompt": f"say {word}", "reference": f"{word} it is"} for word in ("one", "two", "three", "four")]


def example(name: str, language: str = "python") -> str:
    (block,) = (block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if name in block)
    return block


@pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
def test_method_reward_and_engine_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grao.methods.base.METHODS", {})  # the example's method is not left behind
    names: dict = {}
    for name in ("class Winners", "class Vowels", "class PlainEngine"):
        exec(compile(example(name), "CONTRIBUTING.md", "exec"), names)
    (tmp_path / "engine_of_the_page.py").write_text(example("class PlainEngine"))
    monkeypatch.syspath_prepend(tmp_path)
    config = GRAOConfig(
        output_dir=tmp_path / "run",
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=6, engine="engine_of_the_page:PlainEngine"),
        training=TrainingConfig(steps=2, prompts_per_step=4, learning_rate=1e-2, trainer={"use_cpu": True}),
    )
    trainer = GRAOTrainer(
        tiny_model(), names["Vowels"](), config, ROWS, processing_class=letter_tokenizer(), method=names["Winners"]()
    )
    trainer.train()
    for group in trainer.source.update(0).batch.groups:
        assert sum(answer.weight for answer in group.answers) == pytest.approx(1)  # its winners, or its reference
    assert all(0 <= line["groups/won"] <= 1 for line in read_metrics(tmp_path / "run"))
    assert type(trainer.generator).__name__ == "PlainEngine"


def test_the_chart_is_drawn(monkeypatch: pytest.MonkeyPatch):
    sections = TypeAdapter(dict[str, tuple[figures.Chart, ...]]).validate_python(
        yaml.safe_load(example("key:", "yaml"))
    )
    monkeypatch.setattr(figures, "SECTIONS", sections)
    drawn, missing = figures.run_figures([{"step": step, "groups/won": 1 / step} for step in range(1, 9)])
    ((figure,),) = drawn.values()
    assert figure.title == "Groups won"
    assert len(figure.drawing["series"][0]["y"]) == 8
    assert not missing
