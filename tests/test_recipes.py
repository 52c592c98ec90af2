"""Every recipe is read, and those whose data are there run for one step."""

import sys
from pathlib import Path

import pytest

from grao.config import dump_recipe, load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))
LOCAL = [path for path in RECIPES if "../shared" in path.read_text()]
sys.path.insert(0, str(RECIPES[0].parent))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_written_again(path: Path, tmp_path: Path):
    recipe = load_recipe(path)
    again = tmp_path / "recipe.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe


def test_the_papers_recipe_is_the_default():
    recipe = load_recipe(RECIPES[0].parent / "paper.yaml")
    minimal = [("model.path", "m"), ("data.path", "d"), ("rewards.0.function", "a:b"), ("output", "o")]
    default = load_recipe(None, minimal)
    assert recipe.rollout == default.rollout
    assert recipe.method == default.method
    assert {**vars(recipe.training), "trainer": {}} == vars(default.training)


@pytest.mark.parametrize("path", LOCAL, ids=lambda path: path.stem)
def test_local_recipes_run(path: Path, tmp_path: Path, shared: Path, screen, monkeypatch: pytest.MonkeyPatch):
    from grao.studies.run import start_run

    monkeypatch.chdir(path.parents[1])
    small = {
        "output": str(tmp_path / "run"),
        "data.limit": "60",
        "rollout.max_new_tokens": "16",
        "training.steps": "1",
        "training.prompts_per_step": "4",
    }
    finished = start_run(load_recipe(path, list(small.items())), screen)
    assert finished.report.exists()
    assert finished.evaluation.prompts > 10


def test_the_reward_of_the_recipes():
    from rewards import readable

    prompt = "Once upon a time there was a brave rabbit who found a golden carrot in the forest."
    good = "The rabbit took the carrot home. His friends in the forest were happy and they all had a big dinner."
    copied = prompt
    repeated = "rabbit carrot forest " * 8
    cut = good[:-20]
    off_topic = "A train left the station late at night and nobody was there to see how fast it went away."
    scores = dict(
        zip(
            ("good", "copied", "repeated", "cut", "off", "short"),
            readable([prompt] * 6, [good, copied, repeated, cut, off_topic, "The rabbit."]),
            strict=True,
        )
    )
    assert scores["good"] > 0.9
    assert scores["short"] == 0
    assert scores["copied"] < 0.2
    assert all(scores[name] < scores["good"] - 0.1 for name in ("copied", "repeated", "cut", "off"))
    chat = [{"role": "user", "content": prompt}]
    assert readable([chat], [[{"role": "assistant", "content": good}]]) == [scores["good"]]
