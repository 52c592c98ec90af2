"""`grao data check`: columns guessed, rows described, and counts that are those of the run."""

import json
from pathlib import Path

import pytest
import yaml

from grao.cli.main import main
from grao.config.load import load_recipe
from grao.config.recipe import DataConfig
from grao.data.load import load_split
from tiny import saved_model

N = 40


def chat(number: int, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"say {number}"}, {"role": "assistant", "content": answer}]


def answered(number: int) -> str:
    return f"this is the number {number}, as asked."


FORMS = {
    "plain": (lambda n: {"prompt": f"say {n}", "reference": answered(n)}, {}),
    "alpaca": (
        lambda n: {"instruction": f"say {n}", "input": "", "output": answered(n)},
        {"prompt": "instruction", "reference": "output"},
    ),
    "sharegpt": (
        lambda n: {
            "id": n,
            "conversations": [{"from": "human", "value": f"say {n}"}, {"from": "gpt", "value": answered(n)}],
        },
        {"reference": "conversations"},
    ),
    "messages": (lambda n: {"messages": chat(n, answered(n)), "source": "x"}, {"reference": "messages"}),
    "preferences": (
        lambda n: {"prompt": f"say {n}", "chosen": answered(n), "rejected": "no."},
        {"reference": "chosen", "rejected": "rejected"},
    ),
    "ultrafeedback": (
        lambda n: {
            "prompt": f"say {n}",
            "chosen": chat(n, answered(n)),
            "rejected": chat(n, "no."),
            "score_chosen": 8.0,
        },
        {"reference": "chosen", "rejected": "rejected"},
    ),
    "implicit prompt": (
        lambda n: {"chosen": chat(n, answered(n)), "rejected": chat(n, "no.")},
        {"reference": "chosen", "rejected": "rejected"},
    ),
    "hh": (
        lambda n: {
            "chosen": f"\n\nHuman: say {n}\n\nAssistant: {answered(n)}",
            "rejected": f"\n\nHuman: say {n}\n\nAssistant: no.",
        },
        {"format": "hh"},
    ),
    "nested": (
        lambda n: {"data": {"question": f"say {n}", "answer": answered(n)}},
        {"prompt": "data.question", "reference": "data.answer"},
    ),
    "capitals and spaces": (
        lambda n: {"Question": f"say {n}", "Best Answer": answered(n), "Best Incorrect Answer": "no."},
        {"prompt": "Question", "reference": "Best Answer", "rejected": "Best Incorrect Answer"},
    ),
    "query and response": (
        lambda n: {"query": f"say {n}", "response": answered(n)},
        {"prompt": "query", "reference": "response"},
    ),
}


def written(folder: Path, rows: list[dict]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def checked(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["data", "check", *words]) == code
    out, err = capsys.readouterr()
    return " ".join((out if code == 0 else out + err).split())


def recipe_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["data", "check", *words]) == 0
    return yaml.safe_load(capsys.readouterr().out.partition("a recipe to begin with:\n")[2])


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_guessed_and_the_recipe_reads_the_file(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    row, expected = FORMS[form]
    file = written(tmp_path, [row(n) for n in range(N)])
    tree = recipe_of(capsys, str(file))
    assert tree["data"] == {"path": str(file), **expected, "held_out": N // 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    split = load_split(load_recipe(tmp_path / "recipe.yaml").data, seed=0)
    examples = [*split.train, *split.test]
    assert len(examples) == N
    assert {example.reference.strip() for example in examples} == {answered(n) for n in range(N)}
    assert all("say" in str(example.prompt) for example in examples)


def test_what_stands_out_is_said_with_its_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"prompt": f"say {n % 10}", "reference": "the same"} for n in range(20)]
    rows += [{"prompt": f"repeat {n}", "reference": f"repeat {n}"} for n in range(3)]
    rows += [{"prompt": f"ask {n}", "reference": f"a {n}", "input": "more"} for n in range(7)]
    rows += [{"prompt": "ask 0", "reference": "another"}]
    said = checked(capsys, str(written(tmp_path, rows)))
    assert "repeated: 11 prompts stand in 22 rows, 1 of them with different references" in said
    assert "the same reference stands in 20 rows: 'the same'" in said
    assert "3 references only repeat their prompt" in said
    assert "column 'input' holds text in 7 of 31 rows" in said
    assert "at most half of all prompts; data.held_out is 300" in said
    assert "words, median / longest: prompts 2 / 2, references 2 / 2" in said


def test_every_row_that_cannot_be_read_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"prompt": f"say {n}", "reference": "" if n % 7 == 0 else None if n % 11 == 0 else "x"} for n in range(N)]
    file = written(tmp_path, rows)
    said = checked(capsys, str(file), code=2)
    assert "9 of 40 rows cannot be read (6: is empty; 3: is missing (null))" in said
    assert f"error: {file}, line 1, column 'reference': is empty; mend the row or leave it out" in said


def test_held_out_prompts_that_are_trained_on_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    row, _ = FORMS["plain"]
    file = written(tmp_path, [row(n) for n in range(N)])
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row(n)) + "\n" for n in range(30, 50)))
    said = checked(capsys, str(file), "--data.test_path", str(test))
    assert "30 rows to train on, 20 held out" in said
    assert "left out: 10 rows, prompt is in the test data too" in said


def test_a_model_shows_what_it_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str], chat_tokenizer):
    model = saved_model(tmp_path / "model")
    row, _ = FORMS["plain"]
    file = written(
        tmp_path, [row(n) for n in range(N)] + [{"prompt": f"say {'x' * (60 + n)}", "reference": "x"} for n in range(8)]
    )
    options = ("--model.path", str(model), "--data.max_prompt_tokens", "50")
    said = checked(capsys, str(file), *options)
    assert "tokens, median / longest: prompts" in said
    split = load_split(DataConfig(path=str(file)), seed=0)
    long = sum(len(example.prompt) > 50 for example in split.train)  # a letter is a token here
    assert f"left out: {long} rows, too long (data.max_prompt_tokens is 50)" in said
    assert "as the model reads them" in said
    assert "max_new_tokens: 64" in said
    assert "data.chat" not in said
    chat_tokenizer.save_pretrained(model)
    config = model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 512}))
    tree = recipe_of(capsys, str(file), "--model.path", str(model))
    assert tree["data"]["chat"] is True
    plain = ("--model.path", str(model), "--data.chat", "false")
    with pytest.warns(UserWarning, match="set data.chat: true"):
        assert "<|im_start|>user" not in checked(capsys, str(file), *plain)


@pytest.mark.parametrize(
    ("references", "reward"),
    [
        (["1", "2.5", "the sum is #### 7"], {"rule": {"numeric": {}}}),
        (["red", "dark blue"], {"rule": {"exact": {}}}),
        (["a whole sentence, which a rule cannot judge"], {"judge": {"model": "JUDGE", "base_url": "x"}}),
    ],
)
def test_a_reward_that_fits_the_references(
    references: list[str], reward: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"prompt": f"say {n}", "reference": references[n % len(references)]} for n in range(N)]
    (suggested,) = recipe_of(capsys, str(written(tmp_path, rows)))["rewards"]
    assert suggested.keys() == reward.keys()
    assert "judge" in suggested or suggested == reward


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give FILE or --config FILE"),
        (["nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["x.jsonl", "--config", "r.yaml"], "not both"),
        (["x.jsonl", "--data.prompts", "q"], "--data.prompts"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert message in checked(capsys, *words, code=2)
