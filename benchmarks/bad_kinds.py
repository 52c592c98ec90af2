"""The kinds of bad input of `bad_input.py`: each function corrupts a valid input and returns a command line."""

import gzip
import io
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml
from common import END, PAD, tokenizer
from mutations import KEYS, TEXTS, any_value, as_json, as_yaml, corrupted, displace, key_paths, mutated

SHORT = ["--training.steps", "1", "--rollout.max_new_tokens", "3", "--rollout.group_size", "2"]
SHORT += ["--training.prompts_per_step", "2", "--data.limit", "8", "--data.held_out", "2"]
"""Options that keep an input that happens to be valid from training for long."""

REWARDS = """\
def score(prompts, completions, **columns):
    return [float(len(completion)) for completion in completions]
"""
BAD_REWARDS = [
    "", "x = 1", "def score(", "import nothing_of_this_name", "raise ValueError('no')", "raise SystemExit(0)",
    "score = 3",
    "def score(): return []", "def score(**k): return None", "def score(**k): return 'abc'",
    "def score(**k): return [None]",
    "def score(prompts, completions, **k): return [object()] * len(completions)", "score = lambda **k: 1 / 0",
    "def score(prompts, completions, **k): return [10**400] * len(completions)", "class score: pass",
    "def score(prompts, completions, **k): return ['x'] * len(completions)",
    "def score(**k): raise KeyError('\x1b[31m')",
    "def score(prompts, completions, **k): return [float('nan')] * len(completions)", "\0", "import sys; sys.exit(3)",
    "async def score(**k): return [1.0]", "def score(prompts, completions, wrong): return [1.0] * len(completions)",
]  # fmt: skip
TEMPLATE = "Context {context}\n1: {text_1}\n2: {text_2}\nSay `1 > 2`, `1 = 2` or `1 < 2`.\n"


@dataclass
class Material:
    """One valid input of every kind, which is copied before it is corrupted."""

    root: Path
    recipe: dict[str, Any]
    study: dict[str, Any]
    pairs: dict[str, Any]
    """Recipe of a reward model."""
    rows: list[dict[str, Any]]


def make_material(root: Path, call: Callable[[Sequence[str], Path], tuple[int, str, str]]) -> Material:
    """Make model, data, recipes, and the folders of a finished run, an interrupted one, and a study.

    Args:
        root: an empty folder.
        call: runs a command in a folder; returns exit code and outputs.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 1000, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    ends = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": None}
    LlamaForCausalLM(LlamaConfig(**shape, **heads, **ends)).save_pretrained(root / "model")
    tokenizer().save_pretrained(root / "model")
    words = [f"w{3 + first} w{50 + second}" for first in range(4) for second in range(4)]
    rows = [{"prompt": f"say {word}", "reference": f"{word} it is", "worse": "no", "n": 1} for word in words]
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "w3 w4"}]
    rows.append({"prompt": chat, "reference": [{"role": "assistant", "content": "w5"}], "worse": "w6", "n": None})
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "rewards.py").write_text(REWARDS)
    recipe = {
        "model": {"path": str(root / "model")},
        "data": {"path": str(root / "data.jsonl"), "rejected": "worse", "held_out": 2, "limit": 8},
        "rewards": [{"function": f"{root / 'rewards.py'}:score", "weight": 1.0}],
        "output": "out",
        "seed": 0,
        "rollout": {"group_size": 2, "temperature": 1.0, "max_new_tokens": 3},
        "method": {"name": "grao", "beta": 0.5, "lambda": 0.6},
        "training": {"steps": 1, "prompts_per_step": 2, "learning_rate": 0.001, "save_every": 1, "trainer": {}},
        "evaluation": {"enabled": True, "confidence": 0.95},
    }
    study = {
        "recipe": str(root / "recipe.yaml"),
        "arms": {"grao": {"method.beta": 0.3}, "soft": {"method.sign": "signed"}},
        "budget": {"steps": 1},
        "output": "study",
        "seeds": [0],
        "learning_rates": [],
        "over": {},
        "base": {"training.trainer": {}},
    }
    pairs = {
        "model": {"path": str(root / "model")},
        "data": {"path": str(root / "data.jsonl"), "reference": "reference", "rejected": "worse", "held_out": 2},
        "output": "rm",
        "training": {"steps": 1, "pairs_per_step": 2, "trainer": {}},
    }
    for name, tree in (("recipe", recipe), ("study", study), ("pairs", pairs)):
        (root / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    for argv in (
        ["train", "--config", "recipe.yaml", "--output", "run"],
        ["compare", "--config", "study.yaml"],
    ):
        code, _, err = call(argv, root)
        if code:
            raise SystemExit(f"grao {' '.join(argv)} ends with {code}: {err}")
    shutil.copytree(root / "run", root / "stopped")
    manifest = json.loads((root / "stopped/manifest.json").read_text())
    (root / "stopped/manifest.json").write_text(json.dumps(manifest | {"status": "interrupted", "finished": None}))
    shutil.rmtree(root / "stopped/model")
    return Material(root, recipe, study, pairs, rows)


def bad_recipe(material: Material, draw: Random) -> list[str]:
    """A bad recipe of a run, a study or a reward model; one in a hundred is not only printed but run."""
    kind = draw.choice(["recipe", "recipe", "study", "pairs"])
    tree = getattr(material, kind)
    full = draw.random() < 0.01
    if not full and kind != "recipe":
        tree = {**tree, ("recipe" if kind == "study" else "model"): "missing" if kind == "study" else {"path": "./no"}}
    content = as_yaml(mutated(tree, draw)) if draw.random() < 0.6 else corrupted(as_yaml(tree), draw)
    file = Path("bad.yaml")
    file.write_bytes(content)
    if draw.random() < 0.05:
        displace(file, draw)
    if kind == "study":
        return [draw.choice(["compare", "ablate", "sweep"]), "--config", "bad.yaml"]
    command = ["train"] if kind == "recipe" else ["reward", "train"]
    return [*command, "--config", "bad.yaml", *([] if full else ["--print_config"])]


def bad_options(material: Material, draw: Random) -> list[str]:
    """A command line with unknown or repeated options, missing or nonsensical values."""
    command = draw.choice(
        [["train"], ["train"], ["evaluate"], ["compare"], ["reward", "train"], ["reward", "audit"], ["report"]]
    )
    command = draw.choice(
        [command] * 20 + [["quickstart", "--rollout.group_size", "1"], ["sweep"], ["ablate"], [draw.choice(TEXTS)]]
    )
    tree = {"compare": material.study, "sweep": material.study, "ablate": material.study}.get(
        command[0], material.recipe
    )
    tree = material.pairs if command == ["reward", "train"] else tree
    file = {id(material.study): "study", id(material.pairs): "pairs"}.get(id(tree), "recipe")
    words = [*command]
    if draw.random() < 0.9:
        words += ["--config", draw.choice([f"{material.root}/{file}.yaml"] * 8 + [str(draw.choice(TEXTS))])]
    fields = [".".join(map(str, path)) for path in key_paths(tree)]
    fields += ["model.lora.rank", "model.lora", "watch.reward.function", "audit.output", "rewards.1.rule.regex.pattern"]
    fields += [
        "rewards.0.judge.base_url",
        "rewards.0.rule.length.target",
        "config",
        "resume",
        "run",
        "output",
        "print_config",
    ]
    for _ in range(draw.choice([1, 1, 2, 3])):
        name = draw.choice(
            [draw.choice(fields)] * 6 + [draw.choice(KEYS), draw.choice(TEXTS), draw.choice(fields) + ".x"]
        )
        value = any_value(draw)
        text = as_yaml(value).decode("utf-8", "replace").strip() if draw.random() < 0.7 else str(draw.choice(TEXTS))
        words += [[f"--{name}", text], [f"--{name}={text}"], [f"--{name}"], [name, text], [text]][
            min(draw.randrange(12), 4) - 4
        ]
    return (
        [*words, "--model.path", "./missing"]
        if tree is not material.study
        else [*words, "--base.model.path", "./missing"]
    )


def bad_data(material: Material, draw: Random) -> list[str]:
    """A bad data file in one of the formats; one in thirty with an existing model."""
    rows = mutated(material.rows, draw) if draw.random() < 0.6 else material.rows
    kind = draw.choice(["jsonl", "json", "csv", "jsonl.gz", "parquet"])
    lines = rows if isinstance(rows, list) else [rows]
    if kind == "csv":
        cells = [[str(cell) for cell in (row.values() if isinstance(row, dict) else [row])] for row in lines]
        content = "\n".join(
            [draw.choice(["prompt,reference,worse,n", "prompt;reference;worse;n"]), *map(",".join, cells)]
        )
        content = content.encode("utf-8", "replace")
    elif kind == "parquet":
        content = _parquet(lines, draw)
    else:
        content = as_json(rows) if kind == "json" else b"\n".join(map(as_json, lines))
    content = gzip.compress(content, 1) if kind.endswith("gz") else content
    file = Path(f"data.{kind}")
    file.write_bytes(corrupted(content, draw) if draw.random() < 0.5 else content)
    if draw.random() < 0.05:
        displace(file, draw)
    model = str(material.root / "model") if draw.random() < 0.03 else "./missing"
    words = ["train", "--config", f"{material.root}/recipe.yaml", "--data.path", str(file), "--model.path", model]
    if draw.random() < 0.2:
        field = draw.choice(
            ["path", "test_path", "prompt", "reference", "rejected", "format", "limit", "subset", "split"]
        )
        words += [f"--data.{field}", str(draw.choice([*TEXTS, "hh"]))]
    return [*words, *SHORT[:-4]]


def bad_model(material: Material, draw: Random) -> list[str]:
    """A model folder with one bad file, as policy or in a reward."""
    model = Path("model")
    shutil.copytree(material.root / "model", model)
    names = [path.name for path in sorted(model.iterdir())]
    extra = ["model.safetensors.index.json", "adapter_config.json", "special_tokens_map.json", "chat_template.jinja"]
    file = model / draw.choice([*names, "config.json", "config.json", *extra])
    if draw.random() < 0.1:
        displace(file, draw)
    elif file.suffix == ".json" and draw.random() < 0.7:
        tree = (
            json.loads(file.read_text())
            if file.exists()
            else {"weight_map": {"a": "model.safetensors"}, "metadata": {}}
        )
        if file.name == "config.json" and draw.random() < 0.3:
            tree |= draw.choice(
                [{"hidden_size": 10**12}, {"num_hidden_layers": 10**9}, {"model_type": "nothing"}, {"vocab_size": 5}]
            )
            tree |= draw.choice([{}, {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}])
        file.write_bytes(as_json(mutated(tree, draw)))
    else:
        file.write_bytes(corrupted(file.read_bytes() if file.exists() else b"{}", draw))
    words = ["train", "--config", f"{material.root}/recipe.yaml", "--evaluation.enabled", "false", *SHORT]
    field = draw.choice(
        [None] * 6 + ["rewards.0.model.path", "rewards.0.judge.local.path", "rewards.0.rule.embedding.model"]
    )
    if field:
        return [*words, "--rewards.0.function", "null", f"--{field}", "./model"]
    return [*words, "--model.path", "./model"]


def bad_reward(material: Material, draw: Random) -> list[str]:
    """A bad reward function, judge template or ledger."""
    words = ["train", "--config", f"{material.root}/recipe.yaml", *SHORT]
    kind = draw.choice(["function", "criterion", "ledger"])
    file = Path({"function": "bad_rewards.py", "criterion": "template.txt", "ledger": "ledger.sqlite"}[kind])
    if kind == "function":
        file.write_text(draw.choice(BAD_REWARDS))
        if draw.random() < 0.2:
            file.write_bytes(corrupted(REWARDS.encode(), draw))
        options = [
            "--rewards.0.function",
            f"{draw.choice(['', './'])}{file}:{draw.choice(['score'] * 9 + ['', 'x', '__name__'])}",
        ]
    else:
        content = TEMPLATE.encode() if kind == "criterion" else _ledger()
        file.write_bytes(corrupted(content, draw))
        options = [
            "--rewards",
            "[{judge: {model: m, base_url: 'http://127.0.0.1:9/v1', api_key_env: null, replay: true}}]",
        ]
        options += [f"--rewards.0.judge.{kind}", f"./{file}"]
    if draw.random() < 0.15:
        displace(file, draw)
    return [*words, *options]


def bad_run(material: Material, draw: Random) -> list[str]:
    """A run folder with one bad file, to be reported, resumed or evaluated again."""
    resume = draw.random() < 0.2
    shutil.copytree(material.root / ("stopped" if resume else "run"), "run")
    names = ["manifest.json", "recipe.yaml", "metrics.jsonl", "items.jsonl", "evaluation.json", "report.html"]
    if resume:
        names += [str(path.relative_to("run")) for path in sorted(Path("run/checkpoints").rglob("*"))]
    file = Path("run", draw.choice(names))
    _spoil_record(file, draw)
    if resume:
        return ["train", "--resume", "run"]
    return draw.choice(
        [["report", "run"]] * 5 + [["evaluate", "--run", "run", *draw.choice([[], ["--output", "again"]])]]
    )


def bad_study(material: Material, draw: Random) -> list[str]:
    """A study folder with one bad file, to be reported or resumed."""
    shutil.copytree(material.root / "study", "study")
    names = [*["study.json"] * 6, "study.yaml", "study.csv", "study.html", "cells.jsonl"]
    names += [str(path.relative_to("study")) for path in sorted(Path("study/cells").iterdir())]
    _spoil_record(Path("study", draw.choice(names)), draw)
    return draw.choice([["report", "study"]] * 5 + [["compare", "--config", f"{material.root}/study.yaml"]])


def bad_output(material: Material, draw: Random) -> list[str]:
    """An output path that is impossible or already in use."""
    output = draw.choice([*TEXTS, "file", "file/x", "pipe", "taken", "link", "x" * 250 + "/y", "full/x"])
    Path("file").write_text("x")
    os.mkfifo("pipe")
    Path("link").symlink_to("link")
    Path("taken").mkdir()
    displace(
        Path("taken", draw.choice(["manifest.json", "metrics.jsonl", "checkpoints", "model", "recipe.yaml"])), draw
    )
    root = material.root
    return draw.choice([
        ["train", "--config", f"{root}/recipe.yaml", "--model.path", "./missing", f"--output={output}"],
        ["evaluate", "--config", f"{root}/recipe.yaml", "--model.path", "./missing", f"--output={output}"],
        ["evaluate", "--run", f"{root}/run", "--output", "file", f"--output={output}" if output in ("file",
        "pipe") else "--output=pipe"],
        ["reward", "audit", "--config", f"{root}/recipe.yaml", "--model.path", "./missing", f"--audit.output={output}"],
        ["reward", "train", "--config", f"{root}/pairs.yaml", "--model.path", "./missing", f"--output={output}"],
        ["compare", "--config", f"{root}/study.yaml", "--base.data.path", "./missing.jsonl", f"--output={output}"],
        ["report", output],
        ["train", "--resume", output],
        ["evaluate", "--run", output],
    ])  # fmt: skip


def _spoil_record(file: Path, draw: Random) -> None:
    """Corrupt a file of records: its values, its bytes, or the file itself."""
    if file.is_dir() or draw.random() < 0.2:
        return displace(file, draw)
    content = file.read_bytes() if file.exists() else b"{}\n"
    if file.suffix in (".json", ".jsonl") and draw.random() < 0.7:
        lines = content.split(b"\n") if file.suffix == ".jsonl" else [content]
        trees = [json.loads(line) for line in lines if line.strip()] or [{}]
        index = draw.randrange(len(trees))
        trees[index] = mutated(trees[index], draw)
        file.write_bytes(b"\n".join(map(as_json, trees)) + b"\n")
    elif file.suffix == ".yaml" and draw.random() < 0.5:
        file.write_bytes(as_yaml(mutated(yaml.safe_load(content), draw)))
    else:
        file.write_bytes(corrupted(content, draw))


def _parquet(rows: Sequence[Any], draw: Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    objects = [row for row in rows if isinstance(row, dict)]
    columns = {name: [str(row.get(name)) for row in objects] for name in ("prompt", "reference", "worse")}
    numbers = pa.array([draw.choice([0, 2**40, -(2**40), 2**62])] * len(objects), type=pa.int64())
    kind = draw.choice([pa.timestamp("s"), pa.timestamp("ns"), pa.time64("us"), pa.duration("s"), pa.date64()])
    target = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pa.table({**columns, "n": numbers.cast(kind, safe=False)}), target)
    except pa.ArrowException:
        target = io.BytesIO()
        pyarrow.parquet.write_table(pa.table({**columns, "n": numbers}), target)
    return target.getvalue()


def _ledger() -> bytes:
    from grao.rewards.judge.ledger import Ledger

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder, "ledger.sqlite"))
        ledger.reserve("m", 1.0, 10.0)
        ledger.close()
        with sqlite3.connect(Path(folder, "ledger.sqlite")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return Path(folder, "ledger.sqlite").read_bytes()


KINDS: dict[str, tuple[Callable[[Material, Random], list[str]], int]] = {
    "recipe": (bad_recipe, 4000),
    "options": (bad_options, 3600),
    "data": (bad_data, 1500),
    "output": (bad_output, 600),
    "model": (bad_model, 240),
    "reward": (bad_reward, 240),
    "run": (bad_run, 200),
    "study": (bad_study, 240),
}
"""Kind -> function that makes an input, and number of inputs."""
