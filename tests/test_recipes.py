"""Every recipe is read, and those whose data are there run for one step."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grao.config.load import dump_recipe, load_recipe
from grao.config.recipe import Recipe
from grao.types import Example

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))
LOCAL = [path for path in RECIPES if "../shared" in path.read_text()]
EVALUATED = [path for path in LOCAL if "grao evaluate" in path.read_text()]
TRAINED = [path for path in LOCAL if path not in EVALUATED]
sys.path.insert(0, str(RECIPES[0].parent))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_written_again(path: Path, tmp_path: Path):
    recipe = load_recipe(path)
    again = tmp_path / "recipe.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe


def test_the_papers_recipe_is_the_default_but_for_the_sign_policy():
    recipe = load_recipe(RECIPES[0].parent / "paper.yaml")
    minimal = [("model.path", "m"), ("data.path", "d"), ("rewards.0.function", "a:b"), ("output", "o")]
    default = load_recipe(None, minimal)
    assert recipe.rollout == default.rollout
    assert recipe.method == replace(default.method, sign="signed")
    assert {**vars(recipe.training), "trainer": {}} == vars(default.training)


@pytest.fixture(scope="module")
def questions(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `recipes/prepare_questions.py` makes."""
    from prepare_questions import prepare

    folder = tmp_path_factory.mktemp("questions")
    prepare(shared / "data", folder)
    return folder


def small(path: Path, output: Path, questions: Path) -> Recipe:
    """The recipe, cut short."""
    settings = {
        "output": str(output),
        "data.limit": "60",
        "rollout.max_new_tokens": "16",
        "training.steps": "1",
        "training.prompts_per_step": "4",
    }
    if "runs/questions" in path.read_text():
        settings["data.path"] = str(questions / f"{path.stem}.jsonl")
    return load_recipe(path, list(settings.items()))


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_local_recipes_run(path: Path, tmp_path: Path, questions: Path, screen, monkeypatch: pytest.MonkeyPatch):
    from grao.studies.train import start_run

    monkeypatch.chdir(path.parents[1])
    finished = start_run(small(path, tmp_path / "run", questions), screen)
    assert finished.report.exists()
    assert finished.evaluation.prompts > 10


@pytest.mark.parametrize("path", EVALUATED, ids=lambda path: path.stem)
def test_recipes_for_evaluation_only(
    path: Path, tmp_path: Path, questions: Path, screen, monkeypatch: pytest.MonkeyPatch
):
    from grao.studies.evaluate import evaluate_recipe

    monkeypatch.chdir(path.parents[1])
    evaluation = evaluate_recipe(small(path, tmp_path / "run", questions), screen)
    assert evaluation.prompts > 10
    assert evaluation.models["model"].missing == 0


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


def test_truthful_is_nearness_in_words():
    from rewards import truthful

    correct, incorrect = ["Nothing happens", "You digest them"], ["You grow melons in your stomach"]
    said = ["Nothing happens.", "You grow melons in your stomach", "You sleep", "..."]
    # words shared: 2 of 2 against 0; 1 of 3 + 6 against 6 of 6; "you" of 2 + 3 against "you" of 2 + 6
    assert truthful(said, [correct] * 4, [incorrect] * 4) == pytest.approx([1, 2 / 9 - 1, 2 / 5 - 2 / 8, 0])


def test_fair_is_right_and_names_no_wrong_stereotype():
    from rewards import right, unbiased

    options = ["The other pregnant employee", "The employee", "Not enough info"]
    said = [
        "It was the employee.",
        "the other pregnant employee",
        "Not enough info!",
        "The dog.",
        "the employee, not enough info",
    ]
    three = [options] * 5
    assert right(said, three, [2] * 5) == [0, 0, 1, 0, 0]
    assert unbiased(said, three, [2] * 5, [0] * 5) == [0, -1, 0, 0, 0]
    assert unbiased(said, three, [0] * 5, [0] * 5) == [0] * 5


def test_every_prepared_reference_is_right(questions: Path):
    from rewards import right, truthful, unbiased

    fair = [json.loads(line) for line in (questions / "fair.jsonl").read_text().splitlines()]
    options, wanted, biased = ([row[name] for row in fair] for name in ("options", "right", "stereotype"))
    references = [row["reference"] for row in fair]
    assert set(right(references, options, wanted)) == {1.0}
    assert set(unbiased(references, options, wanted, biased)) == {0.0}
    stereotypes = [three[place] for three, place in zip(options, biased, strict=True)]
    assert unbiased(stereotypes, options, wanted, biased).count(-1.0) == sum(
        one != other for one, other in zip(wanted, biased, strict=True)
    )
    rows = [json.loads(line) for line in (questions / "truthful.jsonl").read_text().splitlines()]
    correct, incorrect = ([row[name] for row in rows] for name in ("correct", "incorrect"))
    assert min(truthful([row["reference"] for row in rows], correct, incorrect)) > -0.5
    assert "<<" not in (questions / "gsm8k.jsonl").read_text()


def test_samples_are_cut_where_nothing_but_the_words_tells():
    from prepare_stories import whole_sentences

    text = ' He ran.\nShe said, "Oh!" Then it was 3.5 miles. The e'
    assert whole_sentences(text, 1) == " He ran."
    assert whole_sentences(text, 26) == ' He ran. She said, "Oh!"'
    assert whole_sentences(text, 99) == ' He ran. She said, "Oh!" Then it was 3.5 miles.'
    assert whole_sentences(" no end", 3) == " no end"


def test_pairs_of_stories_differ_in_the_continuation_alone(shared: Path):
    from prepare_stories import Writer

    prompts = [f"Once upon a time, there was a {animal}." for animal in ("cat", "dog", "bear")]
    truth = " It was big. " + "It liked to play in the park. " * 3
    examples = [Example(prompt, truth.rstrip(), None, {}, row) for row, prompt in enumerate(prompts, 1)]
    writer = Writer(shared / "models" / "stories260k")
    fitted, cut = writer.fitted(examples, 2), writer.cut(examples)
    assert fitted == writer.fitted(examples, 2)
    assert [row["prompt"] for row in fitted[::2]] == [row["prompt"] for row in cut] == prompts
    assert len({row["rejected"] for row in fitted + cut}) == 9
    assert all(row["chosen"] == truth.rstrip() for row in fitted + cut)
    assert all(row["rejected"][-1] in ".!?\"'" and "\n" not in row["rejected"] for row in fitted)
    assert all(abs(len(row["rejected"]) - len(row["chosen"])) < 60 for row in fitted)
