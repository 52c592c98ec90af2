"""Files into rows: every format gives the same examples, every mistake one line that says where it is."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_dataset

from grao.config.recipe import DataConfig
from grao.data import load
from grao.data.load import examples_from_dataset, load_examples
from grao.errors import InputError

ROWS = [
    {"prompt": "Two, or three?", "reference": ' "Both"\nof them', "topic": "numbers"},
    {"prompt": "Wie heißt du?\u2028", "reference": "Änne", "topic": "names"},
]


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def _save(folder: Path, name: str) -> Path:
    kind = name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        Dataset.from_list(ROWS).to_parquet(folder / name)
        return folder / name
    if kind == "csv":
        with (folder / "plain.csv").open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
        return _write(folder, name, (folder / "plain.csv").read_bytes())
    array = name.startswith("array")
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    return _write(folder, name, json.dumps(ROWS) if array else lines)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.jsonl", [1, 3]),
        ("a.jsonl.gz", [1, 3]),
        ("lines.json", [1, 3]),
        ("array.json", [1, 2]),
        ("array.json.gz", [1, 2]),
        ("a.csv", [2, 4]),
        ("A.CSV", [2, 4]),
        ("a.csv.gz", [2, 4]),
        ("a.parquet", [1, 2]),
    ],
)
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str, rows: list[int]) -> None:
    loaded = load_examples(DataConfig(path=str(_save(tmp_path, name))))
    assert [(e.prompt, e.reference) for e in loaded.examples] == [(r["prompt"], r["reference"]) for r in ROWS]
    assert [e.columns for e in loaded.examples] == [{"topic": "numbers"}, {"topic": "names"}]
    assert [e.row for e in loaded.examples] == rows
    assert loaded.skipped == {}


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", json.dumps(ROWS[0]) + "\nnot json")
    assert len(load_examples(DataConfig(path=str(path), limit=1)).examples) == 1
    with pytest.raises(InputError, match="line 2"):
        load_examples(DataConfig(path=str(path)))


GOOD = json.dumps(ROWS[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", f'{GOOD}\n\n{{"prompt": ]', "a.jsonl, line 3, character 12: malformed JSON: Expecting value"),
        ("a.jsonl", f"{GOOD}\n[1]", "a.jsonl, line 2: must be an object with named columns, got a list"),
        ("a.jsonl", "[" * 100_000, "a.jsonl, line 1: unreadable JSON: maximum recursion"),
        ("a.json", f"[{GOOD},\n7]", "a.json, row 2: must be an object with named columns, got 7"),
        ("a.json", f"[{GOOD},\n", "a.json, line 2, character 1: malformed JSON"),
        ("a.jsonl", f"{GOOD}\n".encode() + b'{"prompt": "\xff"}', "a.jsonl, line 2: is not UTF-8"),
        ("a.jsonl", "\n \n", "a.jsonl: has no rows"),
        ("a.json", "[]", "a.json: has no rows"),
        ("a.csv", "", "a.csv: has no rows"),
        ("a.csv", "prompt,reference\n", "a.csv: has no rows"),
        ("a.csv", 'prompt,reference\n"a\nb",c\n\nd,e,f\n', "a.csv, line 5: 3 cells, but the header has 2"),
        ("a.csv", "prompt,reference\na\n", "a.csv, line 2: 1 cells, but the header has 2"),
        ("a.csv", 'prompt,reference\na,b\n"c,d\n', "a.csv, line 3: malformed CSV: unexpected end of data"),
        ("a.csv", "prompt,\na,b\n", "a.csv, line 1: the header must name each column once, got 'prompt,'"),
        ("a.csv", "yes,yes\nyes,no\n", "a.csv, line 1: the header must name each column once"),
        ("a.csv", "What is 2+2?,4\nWhat is 3+3?,6\n", "(data.reference); its columns are 'What is 2+2?', '4'"),
        ("a.csv", b"prompt,reference\na,b\nc,\xe4\n", "a.csv, line 3: is not UTF-8"),
        ("a.parquet", "prompt", "a.parquet: is not a readable parquet file"),
        ("a.txt", "prompt", "a.txt: cannot read this type of file; write a .jsonl file with one row per line"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = _write(tmp_path, name, content)
    with pytest.raises(InputError) as raised:
        load_examples(DataConfig(path=str(path)))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_gz_that_is_none_or_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    for content in (GOOD.encode(), gzip.compress(GOOD.encode())[:-12]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.jsonl\.gz: is not a complete gzip file"):
            load_examples(DataConfig(path=str(path)))


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path, "train.jsonl", GOOD)
    with pytest.raises(InputError, match=r"trian\.jsonl: no such file; did you mean '.*/train\.jsonl'\?"):
        load_examples(DataConfig(path=str(tmp_path / "trian.jsonl")))
    with pytest.raises(InputError, match=r"zzz\.csv: no such file$"):
        load_examples(DataConfig(path=str(tmp_path / "zzz.csv")))
    with pytest.raises(InputError, match=r"its folder '.*/nowhere' does not exist either"):
        load_examples(DataConfig(path=str(tmp_path / "nowhere" / "train.jsonl")))
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder: is a folder without data files \(\.jsonl, \.json"):
        load_examples(DataConfig(path=str(tmp_path / "folder")))


def test_data_sets_in_memory() -> None:
    config = DataConfig(path="unused", limit=1)
    assert examples_from_dataset(Dataset.from_list(ROWS), config) == examples_from_dataset(ROWS, config)
    assert [e.row for e in examples_from_dataset(ROWS, DataConfig(path="unused"))] == [1, 2]
    with pytest.raises(InputError, match="has the splits train, test; pass one of them"):
        examples_from_dataset(DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS)), config)
    with pytest.raises(InputError, match="the data set: has no rows"):
        examples_from_dataset([], config)


def test_chat_messages_survive_arrow() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": "Ann"}]
    rows = [{"prompt": chat, "reference": "Hello"}]
    config = DataConfig(path="unused")
    assert examples_from_dataset(Dataset.from_list(rows), config)[0].prompt == tuple(chat)


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in the hub's layout stands for the hub."""
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, ROWS)))

    def from_folder(path: str, subset: str | None, data_dir: str | None, split: str) -> Dataset:
        assert path == "someone/pairs"
        assert data_dir is None
        return load_dataset(str(tmp_path), subset, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(load, "load_dataset", from_folder)
    loaded = load_examples(DataConfig(path="someone/pairs", split="test"))
    assert [e.reference for e in loaded.examples] == [row["reference"] for row in ROWS]
    with pytest.raises(InputError, match=r"someone/pairs: no such file, and it cannot be loaded from the hub: .*train"):
        load_examples(DataConfig(path="someone/pairs"))
    with pytest.raises(InputError, match=r"someone/pairs: no such file, and .* the hub.*'small'"):
        load_examples(DataConfig(path="someone/pairs", subset="small", split="test"))


def test_unreachable_hub_is_one_line() -> None:
    with pytest.raises(InputError, match="someone/nothing: no such file, and it cannot be loaded from") as raised:
        load_examples(DataConfig(path="someone/nothing"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "rows", "prompt", "reference", "rejected"),
    [
        ("alpaca-eval-helpful/train.jsonl.gz", 1634, "prompt", "chosen", "rejected"),
        ("tinystories-openings/test.jsonl.gz", 353, "prompt", "chosen", "rejected"),
        ("gsm8k/test.jsonl.gz", 1319, "question", "answer", None),
        ("truthfulqa/TruthfulQA.csv.gz", 790, "Question", "Best Answer", "Best Incorrect Answer"),
    ],
)
def test_public_files(shared: Path, name: str, rows: int, prompt: str, reference: str, rejected: str | None) -> None:
    path = str(shared / "data" / name)
    config = DataConfig(path=path, prompt=prompt, reference=reference, rejected=rejected)
    examples = load_examples(config).examples
    assert len(examples) == rows
    assert all(isinstance(e.rejected, str) == (rejected is not None) for e in examples)
    assert not {prompt, reference, rejected} & {name for e in examples for name in e.columns}
