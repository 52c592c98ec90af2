"""Files and rows in the forms that spreadsheets, pandas, datasets and other programs give them."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig
from grao.config.load import load_recipe
from grao.config.recipe import DataConfig
from grao.data.load import examples_from_dataset, load_examples, load_split
from grao.errors import InputError
from grao.types import Example
from tiny import letter_tokenizer, tiny_model

ROWS = [{"prompt": "Red, or blue?", "reference": " red"}, {"prompt": "No;\nor yes?", "reference": " yes"}]


def _pairs(path: Path | str, **fields: Any) -> list[tuple[Any, str]]:
    return [(e.prompt, e.reference) for e in load_examples(DataConfig(path=str(path), **fields)).examples]


def _refused(path: Path | str, **fields: Any) -> str:
    with pytest.raises(InputError) as raised:
        load_examples(DataConfig(path=str(path), **fields))
    assert "\n" not in str(raised.value)
    return str(raised.value)


CSV = 'prompt{0}reference\r\n"Red, or blue?"{0}" red"\r\n"No;\nor yes?"{0}" yes"\r\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("semicolons.csv", CSV.format(";").encode()),
        ("tabs.csv", CSV.format("\t").encode()),
        ("bars.csv", CSV.format("|").encode()),
        ("a.tsv", CSV.format("\t").encode()),
        ("named.csv", b"sep=|\r\n" + CSV.format("|").encode()),
        ("marked.csv", CSV.format(";").encode("utf-8-sig")),
        ("wide.csv", CSV.format(";").encode("utf-16")),
        ("index.csv", b',prompt,reference\n0,"Red, or blue?", red\n1,"No;\nor yes?", yes\n'),
        ("levels.csv", b',,prompt,reference\na,0,"Red, or blue?", red\na,1,"No;\nor yes?", yes\n'),
        ("trailing.csv", b'prompt,reference,\n"Red, or blue?", red,\n"No;\nor yes?", yes,\n'),
        ("cells.csv", b'prompt,reference\n"Red, or blue?", red,,\n"No;\nor yes?", yes,\n'),
        ("rows.csv", b'\n,\nprompt,reference\n,\n"Red, or blue?", red\n,,\n"No;\nor yes?", yes\n  ,\n'),
        ("spaces.csv", b'prompt , reference\n"Red, or blue?", red\n"No;\nor yes?", yes'),
        ("old.csv", b'prompt,reference\r"Red, or blue?", red\r"No;\nor yes?", yes\r'),
        ("packed.csv.bz2", bz2.compress(CSV.format(",").encode())),
        ("packed.tsv.xz", lzma.compress(CSV.format("\t").encode())),
        ("packed.csv.zst", pa.compress(CSV.format(",").encode(), codec="zstd", asbytes=True)),
    ],
)
def test_csv_as_programs_write_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert _pairs(tmp_path / name) == [(row["prompt"], row["reference"]) for row in ROWS]


def test_csv_of_pandas(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": 'It\'s "red"?'}], [{"role": "user", "content": "x" * 300_000}]]
    frame = pd.DataFrame({"prompt": chats, "reference": ["a", "b"], "n": [1.5, None]})
    frame.to_csv(tmp_path / "a.csv")
    assert _pairs(tmp_path / "a.csv") == [(tuple(chats[0]), "a"), (tuple(chats[1]), "b")]
    assert load_examples(DataConfig(path=str(tmp_path / "a.csv"))).examples[1].columns == {"n": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt;reference\na;b\nc;d;e\n", "line 3: 3 cells, but the header has 2"),
        (
            "prompt,reference,\na,b,\nc,d,e\n",
            "line 1: the header must name each column once, got 'prompt,ref",
        ),
        (",prompt,reference,,prompt\n", "line 1: the header must name each column once"),
        ('sep=;\nprompt;reference\n"a;b\n', "line 3: malformed CSV: unexpected end of data"),
        ("sep=;\nprompt,reference\na,b\n", "(data.reference); its columns are 'prompt,reference'"),
    ],
)
def test_csv_that_is_unclear(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert message in _refused(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "document",
    [
        {"data": ROWS},
        {"version": "1.0", "rows": ROWS},
        {"train": ROWS, "test": ROWS[:1]},
        {name: [row[name] for row in ROWS] for name in ROWS[0]},
        {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_that_wraps_its_rows(tmp_path: Path, document: Any, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document, indent=indent))
    assert _pairs(tmp_path / "a.json") == [(row["prompt"], row["reference"]) for row in ROWS]


def test_one_row_is_no_wrapper(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for row in ({"prompt": "a", "reference": "b"}, {"chosen": talk, "rejected": talk}):
        for indent in (None, 2):
            (tmp_path / "a.json").write_text(json.dumps(row, indent=indent))
            (pair,) = _pairs(tmp_path / "a.json", reference="chosen" if "chosen" in row else "reference")
            assert pair[1] == "b"


def test_json_with_a_key_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "reference": "b"}\n{"prompt": "a", "prompt": "c"}\n')
    assert _refused(tmp_path / "a.jsonl").endswith("a.jsonl, line 2: unreadable JSON: the key 'prompt' occurs twice")


def test_array_in_a_file_of_lines_and_lines_in_utf16(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "b.ndjson").write_bytes("\n".join(map(json.dumps, ROWS)).encode("utf-16"))
    assert _pairs(tmp_path / "a.jsonl") == _pairs(tmp_path / "b.ndjson")


def _shards(folder: Path, *names: str) -> Path:
    """Files of one row each, whose reference is the file's name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"prompt": f"p {name}", "reference": name}
        if path.suffix == ".parquet":
            Dataset.from_list([row]).to_parquet(path)
        elif path.suffix in (".arrow", ".feather"):
            pa.feather.write_feather(pa.Table.from_pylist([row]), path)
        else:
            path.write_text(json.dumps(row))
    return folder


TRAIN, MORE, TEST = (f"{s}-of-00002.parquet" for s in ("train-00000", "train-00001", "test-00000"))


@pytest.mark.parametrize(
    ("names", "fields", "read"),
    [
        ([TRAIN, MORE], {}, [TRAIN, MORE]),
        ([TRAIN, MORE, TEST, "README.md", "dataset_infos.json"], {}, [TRAIN, MORE]),
        ([f"data/{TRAIN}", f"data/{TEST}"], {"split": "test"}, [f"data/{TEST}"]),
        (["train/0.jsonl", "train/1.jsonl", "dev/0.jsonl"], {"split": "validation"}, ["dev/0.jsonl"]),
        (["b.jsonl", "a.jsonl", ".hidden.jsonl", ".git/c.jsonl"], {}, ["a.jsonl", "b.jsonl"]),
        (["train_sft-00000-of-00001.parquet", "train_gen-00000-of-00001.parquet"], {"split": "train_sft"},
         ["train_sft-00000-of-00001.parquet"]),
        (["my_eval.arrow"], {}, ["my_eval.arrow"]),
    ],
)  # fmt: skip
def test_folders(tmp_path: Path, names: list[str], fields: dict[str, str], read: list[str]) -> None:
    assert [answer for _, answer in _pairs(_shards(tmp_path, *names), **fields)] == read


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md", "state.json"], "is a folder without data files"),
        (["a.jsonl", "b.parquet"], "contains .jsonl and .parquet files; give a pattern"),
        (["train_a.jsonl", "train_b.jsonl", "test.jsonl"], "the splits test, train_a, train_b; choose one with"),
        (["test/0.jsonl", "dev/0.jsonl"], "contains the splits dev, test; choose one with data.split"),
    ],
)  # fmt: skip
def test_folders_that_are_unclear(tmp_path: Path, names: list[str], message: str) -> None:
    assert message in _refused(_shards(tmp_path, *names))


def test_patterns(tmp_path: Path) -> None:
    _shards(tmp_path, "a1.jsonl", "a2.feather", "b.jsonl", "deep/er/a3.jsonl", "[x].jsonl")
    assert [answer for _, answer in _pairs(tmp_path / "a?.*")] == ["a1.jsonl", "a2.feather"]
    assert [answer for _, answer in _pairs(tmp_path / "**" / "a*.jsonl")] == ["a1.jsonl", "deep/er/a3.jsonl"]
    assert [answer for _, answer in _pairs(tmp_path / "[x].jsonl")] == ["[x].jsonl"]
    assert _refused(tmp_path / "*.csv").endswith("*.csv: no file matches this pattern")
    (tmp_path / "b.txt").write_text("x")
    assert "b.txt: cannot read this type of file" in _refused(tmp_path / "b*")


def test_pattern_beside_the_recipe(tmp_path: Path) -> None:
    _shards(tmp_path, "data/a.jsonl")
    (tmp_path / "recipe.yaml").write_text(
        "model: {path: m}\ndata: {path: 'data/*.jsonl'}\nrewards: [{rule: {exact: {}}}]\noutput: out\n"
    )
    assert load_recipe(tmp_path / "recipe.yaml").data.path == str(tmp_path / "data/*.jsonl")


def test_saved_data_sets(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": f"p{i}", "reference": f"r{i}"} for i in range(5)])
    rows.save_to_disk(tmp_path / "rows", num_shards=2)
    DatasetDict(train=rows.select([0, 1, 2]), test=rows.select([3])).save_to_disk(tmp_path / "splits")
    assert [answer for _, answer in _pairs(tmp_path / "rows")] == [f"r{i}" for i in range(5)]
    assert [answer for _, answer in _pairs(tmp_path / "splits")] == ["r0", "r1", "r2"]
    split = load_split(DataConfig(path=str(tmp_path / "splits"), test_path=str(tmp_path / "splits")), seed=0)
    assert [e.reference for e in split.test] == ["r3"]


def test_a_mistake_in_a_shard_names_it(tmp_path: Path) -> None:
    _shards(tmp_path, "train/0.jsonl", "train/1.jsonl")
    (tmp_path / "train" / "1.jsonl").write_text('\n{"prompt": "", "reference": "x"}')
    assert _refused(tmp_path).endswith(
        "train/1.jsonl, line 2, column 'prompt': is empty; fill it in or leave the row out"
    )


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([2**64 - 1, 0], pa.uint64()),
        pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array([b"\xff", None]),
        pa.array([1, 2], pa.decimal128(38, 5)),
        pa.array([{"a": None}, {"a": [1]}]),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_of_every_type(tmp_path: Path, column: Any, kind: str) -> None:
    table = pa.table({"prompt": pa.array(["p", "q"]).dictionary_encode(), "reference": ["x", "y"], "other": column})
    (pq.write_table if kind == "parquet" else pa.feather.write_feather)(table, tmp_path / f"a.{kind}")
    loaded = load_examples(DataConfig(path=str(tmp_path / f"a.{kind}"))).examples
    assert [e.columns["other"] for e in loaded] == column.to_pylist()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"prompt": ["p", "q"], "reference": ["x", "y"], "at": pa.array([0, 2**60], pa.timestamp("ms"))}),
         "row 2, column 'at': cannot be read:"),
        (pa.table({"prompt": ["p"], "reference": ["x"], "day": pa.array([10**8], pa.date32())}),
         "row 1, column 'day': cannot be read: date value out of range"),
        (pa.table([["p"], ["x"], ["q"]], ["prompt", "reference", "prompt"]), "has two columns with the same name"),
        (pa.table({"prompt": pa.array([], pa.string()), "reference": pa.array([], pa.string())}), "has no rows"),
        (pa.table({"prompt": pa.array([b"p"]), "reference": ["x"]}), "row 1, column 'prompt': must be text or a list"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    assert message in _refused(tmp_path / "a.parquet")


FORMS: dict[str, Callable[[], Any]] = {
    "frame": lambda: pd.DataFrame(ROWS),
    "frame of messages": lambda: pd.DataFrame([{**row, "prompt": row["prompt"]} for row in ROWS], index=[7, 3]),
    "streamed": lambda: IterableDataset.from_generator(lambda: iter(ROWS)),
    "generator": lambda: (row for row in ROWS),
    "columns": lambda: {name: [row[name] for row in ROWS] for name in ROWS[0]},
    "arrays": lambda: {name: pd.Series([row[name] for row in ROWS]) for name in ROWS[0]},
    "table": lambda: pa.Table.from_pylist(ROWS),
    "numpy": lambda: Dataset.from_list(ROWS).with_format("numpy"),
    "tuple": lambda: tuple(ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_memory(form: str) -> None:
    examples = examples_from_dataset(FORMS[form](), DataConfig(path="unused"))
    assert [(e.prompt, e.reference) for e in examples] == [(row["prompt"], row["reference"]) for row in ROWS]


@pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
def test_trainer_takes_every_form(tmp_path: Path) -> None:
    training = TrainingConfig(steps=1, prompts_per_step=1, trainer={"use_cpu": True})
    config = GRAOConfig(output_dir=tmp_path, rollout=RolloutConfig(group_size=2, max_new_tokens=4), training=training)
    model, tokenizer = tiny_model(), letter_tokenizer()
    for form in ("generator", "streamed", "frame"):
        data = {"train_dataset": FORMS[form](), "eval_dataset": FORMS["columns"]()}
        trainer = GRAOTrainer(model, args=config, reward_funcs=len, processing_class=tokenizer, **data)
        assert [item.example.row for item in trainer.train_items.items] == [1, 2]
        assert [item.example.row for item in trainer.eval_items.items] == [1, 2]


def test_messages_in_memory() -> None:
    """Lists of a data frame that comes from parquet are arrays."""
    chat = [{"role": "user", "content": "a"}]
    table = pa.Table.from_pylist([{"prompt": chat, "reference": "b", "worse": None}])
    for rows in (table.to_pandas(), Dataset(table).with_format("numpy"), Dataset(table).with_format("pandas")[:]):
        (example,) = examples_from_dataset(rows, DataConfig(path="unused", rejected="worse"))
        assert (example.prompt, example.rejected) == (tuple(chat), None)


def test_examples_stay_as_they_are() -> None:
    examples = [Example("a", "b", None, {}, 3), Example("c", "d", None, {}, 9)]
    assert examples_from_dataset(iter(examples), DataConfig(path="unused")) == examples
    assert examples_from_dataset(examples, DataConfig(path="unused", limit=1)) == examples[:1]
    with pytest.raises(InputError, match="row 1: must be an object with named columns, got Example"):
        examples_from_dataset([examples[0], ROWS[0]], DataConfig(path="unused"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "such as {'prompt': ..., 'reference': ...}, got NoneType"),
        ("train.jsonl", "the data set: must be a data set, or a list of rows"),
        (lambda: iter(ROWS), "'reference': ...}, got function"),
        ({"prompt": ["a"], "reference": []}, "the data set: its columns differ in length: 'prompt' 1, 'reference' 0"),
        (DatasetDict(train=Dataset.from_list(ROWS)), "the data set has the splits train; pass one of them"),
        (iter([]), "the data set: has no rows"),
        (["a"], "the data set, row 1: must be an object with named columns, got 'a'"),
    ],
)
def test_rows_that_are_none(rows: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        examples_from_dataset(rows, DataConfig(path="unused"))
    assert message in str(raised.value)


def test_a_name_that_is_all_ending(tmp_path: Path) -> None:
    for name in (".jsonl", "..JSONL", ".jsonl.gz"):
        content = json.dumps(ROWS[0]).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert _pairs(tmp_path / name) == [(ROWS[0]["prompt"], ROWS[0]["reference"])]


def test_addresses_and_links(tmp_path: Path) -> None:
    assert "URLs are not supported: download the file" in _refused("https://example.org/data/train.jsonl")
    (tmp_path / "link.jsonl").symlink_to("gone.jsonl")
    assert "it is a link to 'gone.jsonl', which does not exist" in _refused(tmp_path / "link.jsonl")


def test_gz_of_a_cell_of_any_size(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([["prompt", "reference"], ["word " * 100_000, "b"]])
    assert _pairs(tmp_path / "a.csv.gz") == [("word " * 100_000, "b")]
