"""`grao data check`: columns guessed, rows described, and counts that are those of the run."""

import json
import re
from pathlib import Path
from textwrap import dedent

import datasets
import pytest
import yaml

from grao.cli.main import main
from grao.config.load import load_recipe
from grao.config.recipe import DataConfig
from grao.data.load import load_split
from grao.errors import InputError
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


def asked(number: int) -> str:
    return f"Please say {number}."


def two(number: int) -> tuple[str, str]:
    """The better answer first in every second row."""
    better, worse = answered(number), f"no {number}."
    return (better, worse) if number % 2 else (worse, better)


def message(number: int, name: str, parent: str | None, text: str, rank: int | None) -> dict:
    role = "assistant" if parent else "prompter"
    return {"message_id": f"{name}{number}", "parent_id": parent, "text": text, "role": role, "rank": rank}


PUBLIC = {
    "PKU-SafeRLHF": lambda n: [
        {"prompt": asked(n), "response_0": two(n)[0], "response_1": two(n)[1], "better_response_id": 1 - n % 2}
    ],
    "LMSYS arena": lambda n: [
        {
            **{f"conversation_{side}": chat(n, answer) for side, answer in zip("ab", two(n), strict=True)},
            "winner": "tie" if n % 10 == 0 else "model_a" if n % 2 else "model_b",
        }
    ],
    "LMSYS arena 55k": lambda n: [
        {
            "prompt": json.dumps([asked(n)] * (1 + (n == 4))),
            **{f"response_{side}": json.dumps([answer]) for side, answer in zip("ab", two(n), strict=True)},
            **{"winner_model_a": n % 2, "winner_model_b": 1 - n % 2, "winner_tie": 0},
        }
    ],
    "SHP": lambda n: [{"history": asked(n), "human_ref_A": two(n)[0], "human_ref_B": two(n)[1], "labels": n % 2}],
    "Nectar": lambda n: [
        {
            "prompt": f"\n\nHuman: {asked(n)}\n\nAssistant: ",
            "answers": [
                {"answer": text, "rank": rank} for text, rank in zip(two(n), (2 - n % 2, 1 + n % 2), strict=True)
            ],
            "num_responses": 2,
        }
    ],
    "UltraFeedback": lambda n: [
        {
            "instruction": asked(n),
            "completions": [
                {"response": text, "overall_score": float(score)}
                for text, score in zip(two(n), (n % 2, 1 - n % 2), strict=True)
            ],
        }
    ],
    "HelpSteer2": lambda n: [
        {"prompt": asked(n), "response": text, "helpfulness": score}
        for text, score in zip(two(n), (n % 2, 1 - n % 2), strict=True)
    ],
    "OpenAssistant": lambda n: [
        message(n, "p", None, asked(n), None),
        *(message(n, f"a{rank}", f"p{n}", text, rank) for text, rank in zip(two(n), (1 - n % 2, n % 2), strict=True)),
    ],
    "OpenAssistant trees": lambda n: [
        {
            "prompt": {
                "text": asked(n),
                "replies": [
                    {"text": text, "rank": rank, "replies": []}
                    for text, rank in zip(two(n), (1 - n % 2, n % 2), strict=True)
                ],
            }
        }
    ],
    "KTO": lambda n: [{"prompt": asked(n), "completion": answered(n) if n % 2 else "no", "label": bool(n % 2)}],
    "MMLU": lambda n: [{"question": asked(n), "choices": ["x", answered(n)], "answer": 1}],
    "BBQ": lambda n: [{"context": "Here.", "question": asked(n), "ans0": "x", "ans1": answered(n), "label": 1}],
    "Alpaca": lambda n: [{"instruction": asked(n), "input": "Be kind." * (n % 2), "output": answered(n)}],
    "Dolly": lambda n: [{"instruction": asked(n), "context": "Be kind." * (n % 2), "response": answered(n)}],
    "Orca DPO": lambda n: [
        {"system": "Be kind." * (n % 2), "question": asked(n), "chosen": answered(n), "rejected": f"no {n}."}
    ],
    "OpenOrca": lambda n: [{"system_prompt": "Be kind.", "question": asked(n), "response": answered(n)}],
    "ShareGPT that goes on": lambda n: [
        {
            "conversations": [
                {"from": "human", "value": asked(n)},
                {"from": "gpt", "value": answered(n)},
                *([{"from": "human", "value": "Thanks."}] * (n % 2)),
            ]
        }
    ],
    "pictures": lambda n: [
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": asked(n)}, *([{"type": "image"}] * (n % 2))]},
                {"role": "assistant", "content": [{"type": "text", "text": answered(n)}]},
            ]
        }
    ],
}
"""Rows of public data sets that cannot be read as they are, or of which a part would be missed."""
PAIRED = ("PKU", "LMSYS", "SHP", "Nectar", "UltraF", "HelpS", "OpenAssistant", "Orca DPO")
KEPT = {"LMSYS arena": 36, "LMSYS arena 55k": 39, "KTO": 20, "pictures": 20}
"""Rows that can be used, where these are not all."""


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
    return yaml.safe_load(capsys.readouterr().out.partition("a first recipe:\n")[2])


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


@pytest.mark.parametrize("form", PUBLIC)
def test_the_code_for_a_public_form_makes_rows_that_can_be_read(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    rows = [row for n in range(N) for row in PUBLIC[form](n)]
    file = written(tmp_path, rows)
    monkeypatch.chdir(tmp_path)
    main(["data", "check", str(file)])
    code = re.search(r"^    import datasets\n(?:    .*\n)*", capsys.readouterr().out, re.MULTILINE)
    assert code
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.Dataset.from_list(rows))
    exec(dedent(code[0]), {})
    tree = recipe_of(capsys, "rows-rows.jsonl")  # and no code is shown
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    split = load_split(load_recipe(tmp_path / "recipe.yaml").data, seed=0)
    examples = {int(re.search(r"\d+", each.reference)[0]): each for each in [*split.train, *split.test]}
    assert len(examples) == KEPT.get(form, N)
    for number, example in examples.items():
        assert example.reference == answered(number)
        assert (asked(number) if "arena" not in form or "55k" in form else f"say {number}") in str(example.prompt)
        assert example.rejected == (f"no {number}." if form.startswith(PAIRED) else None)
        kind = number % 2 or form == "OpenOrca"
        assert ("Be kind." in str(example.prompt)) == bool(kind and form in ("Alpaca", "Dolly", "Orca DPO", "OpenOrca"))


def test_the_code_reads_the_file_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "few.csv"
    file.write_text("instruction,input,output\n" + "".join(f"say {n},aloud,it is {n}\n" for n in range(8)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    main(["data", "check", str(file)])
    exec(dedent(re.search(r"^    import datasets\n(?:    .*\n)*", capsys.readouterr().out, re.MULTILINE)[0]), {})
    rows = [json.loads(line) for line in (tmp_path / "few-rows.jsonl").read_text().splitlines()]
    assert rows[3]["prompt"] == "say 3\n\naloud"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "say", "kind": 1}, "it has prompts but no answers; name the columns with --data.prompt and"),
        ({"judge": "say", "kind": 1}, "no column looks like prompts or answers; name the columns"),
    ],
)
def test_what_lacks_answers_is_told_so(row: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = written(tmp_path, [row] * 3)
    assert message in checked(capsys, str(file), code=2)
    with pytest.raises(InputError, match=r"grao data check .* shows more"):
        load_split(DataConfig(path=str(file)), seed=0)


def test_what_stands_out_is_said_with_its_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"prompt": f"say {n % 10}", "reference": "the same"} for n in range(20)]
    rows += [{"prompt": f"repeat {n}", "reference": f"repeat {n}"} for n in range(3)]
    rows += [{"prompt": f"ask {n}", "reference": f"a {n}", "input": "more"} for n in range(7)]
    rows += [{"prompt": "ask 0", "reference": "another"}]
    said = checked(capsys, str(written(tmp_path, rows)))
    assert "repeated: 11 prompts occur in 22 rows, 1 of them with different references" in said
    assert "the same reference occurs in 20 rows: 'the same'" in said
    assert "3 references only repeat their prompt" in said
    assert "input text 7 for rewards more" in said
    assert "'input' is not part of the prompt, which is 'prompt' alone; to join them: import datasets" in said
    assert "at most half of all prompts; data.held_out is 300" in said
    assert "words, median / longest: prompts 2 / 2, references 2 / 2" in said


def test_every_row_that_cannot_be_read_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"prompt": f"say {n}", "reference": "" if n % 7 == 0 else None if n % 11 == 0 else "x"} for n in range(N)]
    file = written(tmp_path, rows)
    said = checked(capsys, str(file), code=2)
    assert "9 of 40 rows cannot be read (6: is empty; 3: is missing (null))" in said
    assert f"error: {file}, line 1, column 'reference': is empty; fill it in or leave the row out" in said


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
    long = {side: sum(len(each.prompt) > 50 for each in getattr(split, side)) for side in ("train", "test")}
    assert f"{len(split.train) - long['train']} rows to train on, {len(split.test) - long['test']} held out" in said
    assert "left out: 8 rows, prompt too long (data.max_prompt_tokens is 50)" in said  # a letter is a token here
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
