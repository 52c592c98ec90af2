"""The judge against a second, independent server: `transformers serve` with a small model that has learnt to judge."""

import json
import os
import random
import re
import socket
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forked import Forked
from grao.cli.main import main
from grao.config.rewards import JudgeConfig
from grao.engine.loading import load_model, load_tokenizer
from grao.records.run import read_items, read_metrics
from grao.rewards.judge.base import Pair
from grao.rewards.judge.client import Endpoint
from grao.rewards.judge.ledger import Ledger
from grao.rewards.judge.local import LocalJudge
from grao.rewards.judge.server import ServerJudge
from grao.rewards.judge.wording import PairVerdict, Template

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
RANKS = {"poor": 0, "fine": 1, "good": 2}
TEMPLATE = Template("short", "{context} {text_1} {text_2} Is it 1 > 2, 1 = 2 or 1 < 2?")
CHAT = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words and single signs; the marks around the texts are unknown words."""
    sign = r"<(end|user|assistant)>|\w+|[^\w\s]"
    told = re.findall(r"\w+|[^\w\s]", TEMPLATE.text)
    pieces = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>", "/", "-", "text", *told, *RANKS]
    backend = Tokenizer(models.WordLevel({p: i for i, p in enumerate(dict.fromkeys(pieces))}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(sign), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", chat_template=CHAT
    )


def some_pairs(count: int, seed: int) -> list[Pair]:
    draw = random.Random(seed)
    return [Pair(f"say {draw.randrange(10**6)}", draw.choice([*RANKS]), draw.choice([*RANKS])) for _ in range(count)]


def truth(pair: Pair) -> PairVerdict:
    gap = RANKS[pair.a] - RANKS[pair.b]
    return PairVerdict.FIRST if gap > 0 else PairVerdict.SECOND if gap < 0 else PairVerdict.TIE


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained for some seconds on questions in the judge's own words."""
    torch.manual_seed(0)
    words = tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=256, pad_token_id=0, eos_token_id=2, bos_token_id=None,
        )
    )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        pairs = some_pairs(24, step)
        questions = [TEMPLATE.render(pair.prompt, pair.a, pair.b) for pair in pairs]
        chats = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": truth(pair).value}]
            for question, pair in zip(questions, pairs, strict=True)
        ]
        texts = words.apply_chat_template(chats, tokenize=False)
        rows = words(texts, return_tensors="pt", padding=True).input_ids
        logits = model(input_ids=rows, logits_to_keep=5).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, -4:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("judge")
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """`transformers serve` in a process of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "error"]

    def serve() -> None:
        sys.argv[1:] = words
        from transformers.cli.transformers import main

        main()

    server = Forked(serve)
    try:
        deadline = time.monotonic() + 90
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, "transformers serve ended early"
            assert time.monotonic() < deadline, "transformers serve did not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.fixture(scope="module")
def url(judge_folder: Path) -> Iterator[str]:
    with serving(judge_folder) as address:
        yield address


def test_a_model_behind_transformers_serve_is_a_judge(judge_folder: Path, url: str, tmp_path: Path):
    pairs = some_pairs(40, seed=999)
    right = [truth(pair).reward for pair in pairs]
    endpoint = Endpoint(JudgeConfig(model=str(judge_folder), base_url=url, max_tokens=8, concurrency=4))
    judge = ServerJudge(endpoint, TEMPLATE, Ledger(tmp_path / "ledger.sqlite"))
    judge.check()
    found = judge.compare(pairs)
    assert judge.tally.requests > 60  # a pair of equal texts is one question
    assert judge.tally.failed == 0
    assert judge.tally.unreadable <= 0.1 * judge.tally.requests
    assert sum(one.value == value for one, value in zip(found, right, strict=True)) >= 36

    local = LocalJudge(load_model(str(judge_folder)), load_tokenizer(str(judge_folder)), TEMPLATE)
    agreed = [one.value == other.value for one, other in zip(local.compare(pairs), found, strict=True)]
    assert sum(agreed) >= 36


@pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
def test_a_training_with_it_is_killed_and_goes_on_with_what_is_missing(
    judge_folder: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    written = recipe(judge_folder, url)
    Path("recipe.yaml").write_text(written)
    running = Forked(lambda: main(["train", "--config", "recipe.yaml"]))
    deadline = time.monotonic() + 90
    while len(answered(tmp_path)) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.kill()
    running.wait()
    before = answered(tmp_path)
    assert len(before) >= 20
    assert main(["train", "--resume", "run"]) == 0
    after = answered(tmp_path)
    assert before < after
    with closing(sqlite3.connect("judge-ledger.sqlite")) as ledger:
        replies = ledger.execute("SELECT sum(answers) FROM spending").fetchone()[0]
        unreadable = ledger.execute("SELECT count(*) FROM answers WHERE verdict IS NULL").fetchone()[0]
    assert replies == len(after)  # nothing was answered twice
    assert unreadable <= 0.1 * len(after)
    steps = read_metrics(tmp_path / "run")
    assert len(steps) == 2
    assert all(step["judge_short/failed"] == 0 for step in steps)
    Path("replay.yaml").write_text(written.replace("replay: false", "replay: true").replace("output: run", "output: x"))
    assert main(["train", "--config", "replay.yaml"]) == 0  # every verdict is there
    assert read_items(tmp_path / "x") == read_items(tmp_path / "run")


def recipe(judge_folder: Path, url: str) -> str:
    """Two steps on a random model that writes the judge's words; its files are made in the working directory."""
    words = tokenizer()
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), pad_token_id=0, eos_token_id=2, bos_token_id=None, **shape)
    ).save_pretrained("model")
    words.save_pretrained("model")
    rows = [{"prompt": f"say {n}:", "reference": [*RANKS][n % 3]} for n in range(12)]
    Path("data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("short.txt").write_text(TEMPLATE.text)
    judge = {
        "model": str(judge_folder), "base_url": url, "api_key_env": None, "criterion": "short.txt", "max_tokens": 8,
        "concurrency": 2, "replay": False,
    }  # fmt: skip
    sections = {
        "model": {"path": "model"},
        "data": {"path": "data.jsonl", "held_out": 4},
        "rewards": [{"judge": judge}],
        "rollout": {"group_size": 4, "temperature": 1.0, "max_new_tokens": 2, "batch_size": 4},
        "training": {"steps": 2, "prompts_per_step": 3, "learning_rate": 1e-2, "trainer": {"use_cpu": True}},
        "audit": {"before_training": "skip"},
        "output": "run",
    }
    return yaml.safe_dump(sections)


def answered(folder: Path) -> set[str]:
    """Keys of the questions whose answer is in the ledger."""
    with closing(sqlite3.connect(folder / "judge-ledger.sqlite", timeout=10)) as ledger:
        there = ledger.execute("SELECT count(*) FROM sqlite_master WHERE name = 'answers'").fetchone()[0]
        return {key for (key,) in ledger.execute("SELECT key FROM answers")} if there else set()
