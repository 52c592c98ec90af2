"""What people type and bring first leads on in one step: it works, or one line says what to type next."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from transformers import TrainingArguments

from grao import GRAOConfig, GRAOTrainer
from grao.cli.main import main
from grao.cli.parser import parse_arguments
from grao.config.recipe import DataConfig
from grao.data.load import load_examples
from grao.errors import InputError

RECIPE = {"model": {"path": "m"}, "data": {"path": "d"}, "rewards": [{"function": "r:r"}], "output": "o"}
STUDY = {"arms": {"grao": {}, "soft": {}}, "sandbox": {}, "budget": {"steps": 10}, "output": "s"}
REWARD = {"model": {"path": "m"}, "data": {"path": "d"}, "output": "o", "training": {"pairs_per_step": 4}}
AXOLOTL = """\
base_model: NousResearch/Llama-3.2-1B
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
sequence_len: 2048
sample_packing: true
lora_r: 16
micro_batch_size: 2
num_epochs: 1
learning_rate: 0.0002
"""
LLAMA_FACTORY = "model_name_or_path: m\nstage: sft\ndataset: alpaca_en\ncutoff_len: 2048\nnum_train_epochs: 3.0\n"
NEEDED = "--model m --data d --rewards.0.function r:r --output o"


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what people have: recipes of several tools, a run, and a model."""
    folder = tmp_path_factory.mktemp("brought")
    for name, tree in (("recipe", RECIPE), ("study", STUDY), ("reward", REWARD)):
        (folder / f"{name}.yaml").write_text(json.dumps(tree))
    (folder / "recipe.json").write_text(json.dumps(RECIPE, indent="\t"))
    (folder / "axolotl.yaml").write_text(AXOLOTL)
    (folder / "short.yaml").write_text("model: some-model\ndata: rows.jsonl\n")
    (folder / "llama_factory.yaml").write_text(LLAMA_FACTORY)
    for name in ("run", "model", "recipes", "run/model"):
        (folder / name).mkdir()
    (folder / "run" / "manifest.json").write_text("{}")
    (folder / "run" / "recipe.yaml").write_text(json.dumps(RECIPE))
    (folder / "recipes" / "first.yaml").write_text(json.dumps(RECIPE))
    for model in ("model", "run/model"):
        (folder / model / "config.json").write_text('{"model_type": "llama"}')
    (folder / "train.py").touch()
    return folder


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("tarin --config recipe.yaml", "grao tarin is unknown; did you mean grao train?"),
        ("eval run", "grao eval is unknown; use grao evaluate RUN"),
        ("sft --config recipe.yaml", "use grao train --config FILE --method.name sft"),
        ("dpo", "use grao train --config FILE --method.name dpo"),
        ("finetune", "use grao train --config FILE"),
        ("fine_tune", "did you mean grao train --config FILE?"),
        ("infer model", "use grao chat MODEL"),
        ("generate", "use grao chat MODEL"),
        ("serve run", "use grao chat MODEL (for a server, grao export RUN makes a folder that vllm serve"),
        ("recipe.yaml", "grao recipe.yaml is unknown; a recipe is given as grao train --config recipe.yaml"),
        ("rows.jsonl", "and grao data check rows.jsonl writes a recipe for it"),
        ("frobnicate", "commands are quickstart, data check, train, evaluate"),
        ("data rows.jsonl", "grao data rows.jsonl is unknown; data is given as --data.path rows.jsonl"),
        ("reward adit --config recipe.yaml", "did you mean grao reward audit?"),
        ("train", "give --config FILE or --resume RUN"),
        ("train rows.jsonl", "data is given as --data.path rows.jsonl, and grao data check rows.jsonl writes a recipe"),
        ("train recipe.yaml", "a recipe is given as grao train --config recipe.yaml"),
        ("train run", "to resume a run: grao train --resume run"),
        ("train model", "a model is given as --model.path model"),
        ("train org/name", "a model is given as --model.path org/name"),
        ("train train.py", "a reward is given as --rewards.0.function train.py:NAME, a script is run with python"),
        ("train --model m --data d", "--rewards.0.function and --output are missing, for example --rewards.0.function"),
        ("train --model.path m", "--data.path, --rewards.0.function and --output are missing, for example --data.path"),
        ("train --lr 1e-5 --epochs 3", "--lr is unknown; use --training.learning_rate; --epochs is unknown; use "),
        ("train --epochs 3", "use --training.steps (optimiser steps; by default one pass over the prompts)"),
        ("train --training.lr 1e-5", "--training.lr is unknown; use --training.learning_rate"),
        ("train --batch-size 8", "use --training.prompts_per_step"),
        ("train --model_name_or_path m", "use --model.path"),
        ("train --dataset d", "use --data.path"),
        ("train --output_dir o", "use --output"),
        ("train --reward r.py:score", "use --rewards.0.function"),
        ("train --model.lora.r 8", "use --model.lora.rank"),
        ("train --rollout.n 4", "use --rollout.group_size"),
        (
            "train --training.learning_rat 1",
            "--training.learning_rat is unknown; did you mean --training.learning_rate?",
        ),
        ("train --report_to wandb", "did you mean --report-to?"),
        ("quickstart --lr 1e-3", "use --training.learning_rate"),
        ("chat model --max-tokens 9", "--max-tokens is unknown; did you mean --max_tokens?"),
        ("train --config none.yaml", "none.yaml does not exist"),
        ("train --config run", "it contains a run: resume it with grao train --resume run, or give run/recipe.yaml"),
        ("train --config recipes", "recipes is a folder; give a file in it, such as recipes/first.yaml"),
        ("train --config study.yaml", "study.yaml is a study: grao compare --config study.yaml"),
        ("train --config reward.yaml", "is the recipe of a reward model: grao reward train --config reward.yaml"),
        ("compare --config recipe.yaml", "recipe.yaml is the recipe of a run: grao train --config recipe.yaml"),
        ("reward train --config recipe.yaml", "is the recipe of a run: grao train --config recipe.yaml"),
        ("train --config axolotl.yaml", "line 1: base_model is unknown; use model.path; line 2: datasets is"),
        ("train --config axolotl.yaml", "line 9: num_epochs is unknown; use training.steps"),
        ("train --config llama_factory.yaml", "line 3: dataset is unknown; use data.path; line 4: cutoff_len"),
        ("train --config short.yaml", "got some-model; write the path below it, indented: path: ...; line 2: data m"),
        ("train --resume model", "--resume: model holds a model, not a run; to chat with it: grao chat model"),
        ("report run/model", "RUN: run/model holds a model, not a run; give run"),
        ("runs nothing", "FOLDER: nothing is not a folder; give the folder that holds the runs"),
        ("report nothing", "RUN: nothing is not a folder; give the folder of a run"),
        ("evaluate", "give grao evaluate RUN, models with --run RUN, or --config FILE"),
        ("evaluate model", "--data.path and --rewards.0.function are missing, for example --data.path"),
        ("version", "use grao --version"),
    ],
)
def test_what_is_typed(
    typed: str, said: str, brought: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(brought)
    assert main(typed.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    "typed",
    [f"train {NEEDED}", "train --config recipe.json", "report run", "chat run", "evaluate run", "runs .", "help", "-h"],
)
def test_what_simply_works(typed: str, brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(brought)
    if typed in ("help", "-h"):
        assert main(typed.split()) == 0
        return
    name, argument = parse_arguments(typed.split())
    assert name == typed.split()[0]
    if name == "train":
        assert (argument.recipe.model.path, argument.recipe.data.path) == ("m", "d")


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def shards(path: Path) -> None:
    path.mkdir()
    for number in range(2):
        (path / f"train-0000{number}-of-00002.jsonl").write_bytes(lines_of(ROWS[number::2]))


def saved_to_disk(path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(path)


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


ROWS = [{"prompt": f"say {word}", "reference": f"{word} it is"} for word in ("one", "two", "three", "four")]
ALPACA = [{"instruction": row["prompt"], "input": "", "output": row["reference"]} for row in ROWS]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": row["prompt"]}, {"from": "gpt", "value": row["reference"]}]}
    for row in ROWS
]
OPENAI = [
    {"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["reference"]}]}
    for r in ROWS
]
SHEET = "\ufeffNr;Frage;Antwort\n" + "".join(
    f'{number};{row["prompt"]};"{row["reference"]}; ja"\n' for number, row in enumerate(ROWS)
)


@pytest.mark.parametrize(
    ("name", "content", "said", "settings"),
    [
        ("alpaca.json", json.dumps(ALPACA).encode(), "set data.prompt: instruction and data.reference: output", None),
        ("sharegpt.json", json.dumps(SHAREGPT).encode(), "set data.reference: conversations", None),
        ("openai.jsonl", lines_of(OPENAI), "set data.reference: messages", None),
        ("completions.jsonl", lines_of([{"prompt": "a", "completion": "b"}]), "set data.reference: completion", None),
        ("sheet.csv", SHEET.encode(), "set data.prompt: Frage and data.reference: Antwort", None),
        ("latin.csv", "Frage;Antwort\nWas?;schön\n".encode("latin-1"), "is not UTF-8; save the file as UTF-8", None),
        ("sheet.xlsx", b"PK\x03\x04", "save the sheet as CSV (UTF-8) with column names in the first row", None),
        ("notes.txt", b"hello\n", 'write a .jsonl file with one row per line: {"prompt": ..., "reference": ...}', None),
        ("data.zip", b"PK\x03\x04", "unpack it and give the file or folder inside", None),
        ("recipe.yaml", b"a: 1\n", "pass a recipe as --config FILE", None),
        ("empty.jsonl", b"", "has no rows", None),
        ("missing.jsonl", None, "no such file", None),
        ("shards", shards, "", {}),
        ("rows.parquet", parquet, "", {}),
        ("saved", saved_to_disk, "", {}),
        ("rows.jsonl.gz", gzip.compress(lines_of(ROWS), mtime=0), "", {}),
        ("alpaca.json", json.dumps(ALPACA).encode(), "", {"prompt": "instruction", "reference": "output"}),
        ("sharegpt.json", json.dumps(SHAREGPT).encode(), "", {"reference": "conversations"}),
        ("openai.jsonl", lines_of(OPENAI), "", {"reference": "messages"}),
        ("sheet.csv", SHEET.encode(), "", {"prompt": "Frage", "reference": "Antwort"}),
    ],
)
def test_data_that_is_brought(
    name: str,
    content: bytes | Callable[[Path], None] | None,
    said: str,
    settings: dict[str, str] | None,
    tmp_path: Path,
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        content(path)
    config = DataConfig(path=str(path), **(settings or {}))
    if settings is None:
        with pytest.raises(InputError) as refused:
            load_examples(config)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    else:
        examples = load_examples(config).examples
        assert len(examples) == len(ROWS)
        assert sorted(row["reference"] for row in ROWS) == sorted(
            each.reference.removesuffix("; ja") for each in examples
        )


def test_what_is_left_out_of_an_alpaca_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.jsonl"
    path.write_bytes(lines_of([{**row, "input": "a table"} for row in ALPACA]))
    with pytest.raises(InputError, match=r"set data\.prompt: instruction and .*; `grao data check .*` shows more"):
        load_examples(DataConfig(path=str(path)))


@dataclass
class GRPOConfig(TrainingArguments):
    """As TRL's, which takes long to import."""

    num_generations: int = 8
    max_completion_length: int = 256


def zeros(completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from grao import GRPOConfig", "grao has no GRPOConfig; use GRAOConfig(output_dir=..., method=GRPO())"),
        ("from grao import DPOTrainer", "grao has no DPOTrainer; use GRAOTrainer"),
        ("from grao import TrainingArguments", "use GRAOConfig(output_dir=...)"),
    ],
)
def test_imports_of_another_library(line: str, said: str) -> None:
    with pytest.raises(ImportError) as refused:
        exec(line)
    assert str(refused.value).startswith(said) or said in str(refused.value)


GRPO_SCRIPT = {"output_dir": "o", "num_generations": 4, "max_completion_length": 9, "learning_rate": 1e-5, "bf16": True}
DPO_SCRIPT = {"output_dir": "o", "beta": 0.1, "max_length": 512, "per_device_train_batch_size": 2, "colour": 1}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: GRAOConfig(**GRPO_SCRIPT),
            "learning_rate is training.learning_rate, bf16 is training.trainer.bf16 here: rollout=RolloutConfig("
            "group_size=4, max_new_tokens=9), training=TrainingConfig(learning_rate=1e-05, trainer={'bf16': True})",
        ),
        (lambda: GRAOConfig(**DPO_SCRIPT), "GRAOConfig: colour is unknown; beta is method.kl"),
        (
            lambda: GRAOConfig(outputdir="o", sede=1),
            "has no outputdir; did you mean output_dir? GRAOConfig has no sede; ",
        ),
        (
            lambda: GRAOTrainer("m", zeros, GRPOConfig("o", num_generations=4, use_cpu=True), ROWS),
            "args must be a GRAOConfig, got GRPOConfig; such as GRAOConfig(output_dir='o', training=TrainingConfig("
            "trainer={'use_cpu': True}), rollout=RolloutConfig(group_size=4))",
        ),
        (
            lambda: GRAOTrainer("m", zeros, train_dataset=ROWS),
            "args must be a GRAOConfig, got nothing; such as GRAOConf",
        ),
        (
            lambda: GRAOTrainer("m", zeros, GRAOConfig("o"), ROWS, tokenizer=None, ref_model=None, n=1),
            "tokenizer is processing_class here; ref_model is not supported: the KL divergence is to the initial policy"
            "; leave it out; n is unknown",
        ),
        (
            lambda: GRAOTrainer("m", args=GRAOConfig("o"), train_dataset=ROWS),
            "reward_funcs is missing: f(prompts, comp",
        ),
        (
            lambda: GRAOTrainer("m", zeros, GRAOConfig("o")),
            "train_dataset is missing: rows with columns prompt and ref",
        ),
    ],
)
def test_lines_of_a_script_from_another_library(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError) as refused:
        call()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
