"""`grao export`: what comes out loads elsewhere, answers as the run's model does, and says what it is."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import metadata_load
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from conftest import SilentScreen
from grao.cli.main import main
from grao.config.load import load_recipe
from grao.engine.policy import load_policy
from grao.errors import InputError
from grao.records.run import read_evaluation, read_manifest, update_manifest
from grao.reports.model_card import markdown
from grao.studies import hub
from grao.studies.export import export_run
from grao.studies.train import start_run
from test_judge_real_server import serving
from tiny import letter_tokenizer, tiny_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*learning_rate.*hardly move", "ignore:.*it is trained further", "ignore:prompts are plain text"
)

CHAT = "{% for m in messages %}{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}so? {% endif %}"
REWARD = """
def vow_els(completions):
    return [sum(letter in "ae" for letter in text) / (1 + len(text)) for text in completions]
"""
PROMPTS = ("say red cat", "say blue hen", "so it is")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs of 4 steps: `whole` (PPO, so with a critic), `lora` and `quantised` with an adapter."""
    folder = tmp_path_factory.mktemp("world")
    tiny_model().save_pretrained(folder / "base")
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder / "base")
    words = [f"{one} {two}" for one in ("red", "blue", "green", "grey") for two in ("cat", "dog", "hen", "cow")]
    rows = [json.dumps({"prompt": f"say {word}", "reference": f"a {word} it is."}) for word in words]
    (folder / "data.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "rewards.py").write_text(REWARD)
    settings = {
        "model.path": folder / "base", "data.path": folder / "data.jsonl", "data.held_out": "8",
        "rewards.0.function": f"{folder}/rewards.py:vow_els", "rewards.0.name": "a|b `c`", "rollout.group_size": "4",
        "rollout.temperature": "0.9", "rollout.max_new_tokens": "8", "training.steps": "4", "training.save_every": "2",
        "training.prompts_per_step": "4", "training.learning_rate": "3e-2", "training.trainer.use_cpu": "true",
    }  # fmt: skip
    for name, more in (("whole", {"method.name": "ppo"}), ("lora", {"model.lora.rank": "4"})):
        given = [(key, str(value)) for key, value in {**settings, **more, "output": folder / name}.items()]
        start_run(load_recipe(None, given), SilentScreen())
    shutil.copytree(folder / "lora", folder / "quantised")
    recipe = folder / "quantised" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("quantization: null", "quantization: 4bit"))
    return folder


def answers(model, tokenizer) -> list[list[int]]:
    """Greedy ones."""
    said = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.eval().generate(**ids, do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=1)
        said.append(out[0, ids["input_ids"].shape[1] :].tolist())
    return said


def of_run(folder: Path) -> list[list[int]]:
    """What the model in a folder of a run says."""
    model, _ = load_policy(str(folder), "continue", None)
    return answers(model, AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("checkpoint", [None, 2])
@pytest.mark.parametrize(("run", "merge"), [("whole", False), ("lora", False), ("lora", True), ("quantised", True)])
def test_what_comes_out_answers_as_the_runs_model(world: Path, tmp_path: Path, screen, run, merge, checkpoint):
    to, address = export_run(world / run, screen, merge=merge, checkpoint=checkpoint, to=tmp_path / "out")
    assert (to, address) == (tmp_path / "out", None)
    auto = AutoPeftModelForCausalLM if run == "lora" and not merge else AutoModelForCausalLM
    model, tokenizer = auto.from_pretrained(to), AutoTokenizer.from_pretrained(to)
    source = world / run / (f"checkpoints/checkpoint-{checkpoint}" if checkpoint else "model")
    assert answers(model, tokenizer) == of_run(source)
    assert answers(model, tokenizer) != answers(tiny_model(), tokenizer)
    assert tokenizer.chat_template == CHAT

    generation = GenerationConfig.from_pretrained(to)
    assert (generation.eos_token_id, generation.pad_token_id, generation.temperature) == (1, 0, 0.9)
    assert (generation.do_sample, generation.top_p, generation.top_k) == (True, 1.0, 0)

    weights = {"adapter_model.safetensors", "adapter_config.json"} if auto is AutoPeftModelForCausalLM else {
        "model.safetensors", "config.json"
    }  # fmt: skip
    tokens = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in to.iterdir()} == {
        *weights, *tokens, "generation_config.json", "README.md", "grao_export.json"
    }  # fmt: skip
    for path in to.iterdir():
        if path.suffix in (".json", ".md", ".jinja") and path.name != "adapter_config.json":
            assert str(world) not in path.read_text()
    if merge:
        assert not [name for name, _ in model.named_parameters() if "lora" in name]


def test_merged_weights_in_another_format(world: Path, tmp_path: Path, screen):
    to, _ = export_run(world / "lora", screen, merge=True, dtype="bfloat16", to=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(to, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert "bfloat16" in (to / "README.md").read_text()


def test_the_card(world: Path, tmp_path: Path, screen, monkeypatch: pytest.MonkeyPatch):
    to, _ = export_run(world / "lora", screen, merge=True, to=tmp_path / "out")
    text = (to / "README.md").read_text()
    front = metadata_load(to / "README.md")
    assert front == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["grao", "alignment", "lora"]
    }  # fmt: skip
    scores = read_evaluation(world / "lora").models["after"]
    assert "RAS, strict wins | before | " in text
    assert f"| after | {100 * scores.ras.value:.0f} % |" in text
    assert r"| a\|b \`c\` | function rewards.py:vow\_els | 1 |" in text
    assert r"| method | " not in text
    assert r"| rollout.temperature | 0.9 |" in text
    assert r"| training.learning\_rate | 0.03 |" in text
    assert r"| model.lora.rank | 4 |" in text
    assert "trainer" not in text.replace("trainer.use", "")
    assert "8 prompts with reference answers for training, 8 held out" in text
    assert "4 steps in " in text
    assert " on CPU, 4 prompts per step" in text
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert "arxiv.org/abs/2508.07750" in text
    for line in text.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        assert len(cells) == 1 or len(cells) >= 4 or not line.startswith("|")

    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.strip().splitlines()) <= 7
    monkeypatch.chdir(tmp_path)
    to.rename(tmp_path / "lora")
    said: list[str] = []
    torch.manual_seed(0)
    exec(code, {"print": said.append})  # the lines that a reader would paste
    assert said[0].startswith("...<end>so? ")


def test_the_card_of_an_adapter_and_of_a_checkpoint_claims_nothing_that_was_not_measured(world, tmp_path, screen):
    to, _ = export_run(world / "quantised", screen, to=tmp_path / "out", checkpoint=2)
    text = (to / "README.md").read_text()
    assert "This model was not evaluated." in text
    assert "RAS" not in text
    assert "4-bit base model (QLoRA)" in text
    assert metadata_load(to / "README.md")["library_name"] == "peft"
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    said: list[str] = []
    exec(code.replace("path = 'quantised'", f"path = {str(to)!r}"), {"print": said.append})
    assert said[0].startswith("...<end>so? ")
    merged = (export_run(world / "quantised", screen, to=tmp_path / "out", merge=True)[0] / "README.md").read_text()
    assert "merged into the unquantized base model" in merged  # and the export before it was replaced
    assert not (to / "adapter_config.json").exists()


def test_markdown_shows_text_as_it_is():
    assert markdown("a|b `c` *d* [e](f) <g> & \\h\nnew\x1b[31m") == (
        r"a\|b \`c\` \*d\* \[e\](f) &lt;g&gt; &amp; \\h new␛\[31m"
    )
    assert markdown(3) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run": "data.jsonl/.."}, r"RUN: .* is not a run: there is no manifest\.json"),
        ({"run": "whole", "merge": True}, r"--merge: .*whole/model is a full model with no adapter to merge"),
        ({"run": "whole", "checkpoint": 3}, r"--checkpoint: there is no checkpoint of step 3; there are 2, 4"),
        ({"run": "lora", "to": "base"}, r"--to: .*base is not empty and is not an export; choose another folder"),
        ({"run": "lora", "to": "data.jsonl"}, r"--to: .*data\.jsonl is a file"),
        ({"run": "lora", "push": "me/it"}, r"--push: the base .*base is a local folder, which nobody else has"),
        ({"run": "lora", "push": "it"}, r"--push: 'it' is not the name of a repository"),
        ({"run": "lora", "push": "me/../it"}, r"--push: 'me/\.\./it' is not the name of a repository"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(world: Path, screen, monkeypatch, given: dict, message: str):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    before = {path.name for path in world.iterdir()}
    paths = {name: world / given[name] for name in ("run", "to") if name in given}
    with pytest.raises(InputError, match=f"^{message}"):
        export_run(screen=screen, **{**given, **paths})
    assert {path.name for path in world.iterdir()} == before
    assert not list(world.glob("*/export"))


def test_a_run_without_a_result_names_its_checkpoint(world: Path, tmp_path: Path, screen):
    shutil.copytree(world / "lora", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    update_manifest(tmp_path / "run", status="interrupted")
    with pytest.raises(InputError, match=r"^RUN: .* no model yet \(status: interrupted\).*--resume .*--checkpoint 4$"):
        export_run(tmp_path / "run", screen)
    broken = tmp_path / "run/checkpoints/checkpoint-4/adapter_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"^--checkpoint: .*checkpoint-4 is incomplete: adapter_model\.safetensors"):
        export_run(tmp_path / "run", screen, checkpoint=4)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match=r"^RUN: .* no model yet \(status: interrupted\); continue it with[^,]*$"):
        export_run(tmp_path / "run", screen)
    (tmp_path / "run" / "reward.json").write_text("{}")
    with pytest.raises(InputError, match=r"^RUN: .* is a trained reward model"):
        export_run(tmp_path / "run", screen)


def change_config(folder: Path, **values) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_base_that_is_gone_an_adapter_or_quantised(world: Path, tmp_path: Path, screen):
    run = tmp_path / "run"
    shutil.copytree(world / "lora", run)
    shutil.copytree(world / "base", tmp_path / "few")
    change_config(run / "model", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"^RUN: .* adapter of '.*gone', which does not exist"):
        export_run(run, screen, merge=True)
    change_config(run / "model", base_model_name_or_path=str(world / "lora" / "model"))
    with pytest.raises(InputError, match=r"^RUN: the base .* is an adapter; other tools cannot stack .*; give --merge"):
        export_run(run, screen)
    assert (export_run(run, screen, merge=True)[0] / "model.safetensors").exists()
    config = json.loads((tmp_path / "few" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "few" / "config.json").write_text(json.dumps(config))
    change_config(run / "model", base_model_name_or_path=str(tmp_path / "few"))
    with pytest.raises(InputError, match=r"^--merge: .*: its base is stored quantized, so merged weights would"):
        export_run(run, screen, merge=True)


def test_an_export_that_fails_leaves_what_was_there(world: Path, tmp_path: Path, screen, monkeypatch, capsys):
    to, _ = export_run(world / "lora", screen, to=tmp_path / "out")
    before = {path.name: path.read_bytes() for path in to.iterdir()}

    def full(source, place):
        raise OSError(28, "No space left on device", str(place))

    monkeypatch.setattr("grao.studies.export.shutil.copyfile", full)
    assert main(["export", str(world / "lora"), "--to", str(to)]) == 2
    assert capsys.readouterr().err.startswith("error: No space left on device: ")
    assert {path.name: path.read_bytes() for path in to.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    if os.getuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        assert main(["export", str(world / "lora"), "--to", str(tmp_path / "closed" / "out")]) == 2
        assert re.match("error: --to: .*closed is not writable", capsys.readouterr().err)


def test_stops_of_a_run_that_recorded_none(world: Path, tmp_path: Path, screen):
    shutil.copytree(world / "whole", tmp_path / "run")
    assert read_manifest(tmp_path / "run").stops == [1]
    update_manifest(tmp_path / "run", stops=[])
    path = tmp_path / "run/model/generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [1, 7]}))
    to, _ = export_run(tmp_path / "run", screen)
    assert GenerationConfig.from_pretrained(to).eos_token_id == [1, 7]


class Hub(BaseHTTPRequestHandler):
    """Plays the hub: `server.repos` holds name -> (private, files), `server.refuses` the status of a commit."""

    def log_message(self, *args) -> None:
        pass

    def _say(self, status: int, content, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        repo = "/".join(self.path.split("?")[0].split("/")[3:5])
        if repo not in self.server.repos:
            return self._say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        private, files = self.server.repos[repo]
        if "/tree/" in self.path:
            return self._say(200, [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in files])
        siblings = [{"rfilename": name} for name in files]
        self._say(200, {"id": repo, "private": private, "siblings": siblings, "sha": "0" * 40, "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.keys.add(self.headers["Authorization"])
        parts = self.path.split("/")
        if self.path == "/api/repos/create":
            given = json.loads(body)
            repo = f"{given['organization']}/{given['name']}"
            self.server.repos[repo] = (given.get("private", given.get("visibility") == "private"), {".gitattributes"})
            return self._say(200, {"url": f"{self.server.url}/{repo}", "name": repo})
        if self.path == "/api/validate-yaml":
            return self._say(200, {"errors": [], "warnings": []})
        if "preupload" in parts:
            files = json.loads(body)["files"]
            said = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self._say(200, {"files": said})
        if self.server.refuses:
            return self._say(self.server.refuses, {"error": "no room\nleft"})
        _, files = self.server.repos["/".join(parts[3:5])]
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                files.add(line["value"]["path"])
            elif line["key"] == "deletedFile":
                files.remove(line["value"]["path"])
        commit = {"commitUrl": f"{self.server.url}/x/y/commit/0", "commitOid": "0", "success": True}
        self._say(200, commit)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.refuses, server.keys = {}, 0, set()
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_push_makes_a_private_repository_and_replaces_only_exports(world: Path, tmp_path: Path, screen, site):
    def push(**given) -> str:
        return export_run(world / "lora", screen, merge=True, to=tmp_path / "out", push="me/it", **given)[1]

    assert push() == f"{site.url}/me/it"
    private, files = site.repos["me/it"]
    assert private
    assert files - {".gitattributes"} == {path.name for path in (tmp_path / "out").iterdir()}
    assert metadata_load(tmp_path / "out" / "README.md")["tags"] == ["grao", "alignment", "lora"]
    assert "# me/it" in (tmp_path / "out" / "README.md").read_text()
    assert "path = 'me/it'" in (tmp_path / "out" / "README.md").read_text()
    assert site.keys == {"Bearer hf_secret"}

    files.add("adapter_config.json")  # of an export before
    push()
    assert "adapter_config.json" not in files
    with pytest.raises(InputError, match=r"^--push: me/it is private; leave --public out, .*; the export is complete"):
        push(public=True)
    site.repos["me/it"] = (True, {"other.bin"})
    with pytest.raises(InputError, match=r"^--push: me/it exists and is not an export; choose another name"):
        push()
    del site.repos["me/it"]
    push(public=True)
    assert site.repos["me/it"][0] is False
    for path in (tmp_path / "out").iterdir():
        assert b"hf_secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the hub does not accept HF_TOKEN"),
        (403, "HF_TOKEN may not write there, or the account's storage is used up"),
        (413, "the export is larger than the hub accepts"),
        (507, "the account's storage is used up"),
    ],
)
def test_a_push_that_is_refused_costs_nothing(world: Path, tmp_path: Path, site, capsys, status: int, words: str):
    site.refuses = status
    words_given = ["export", str(world / "whole"), "--to", str(tmp_path / "out"), "--push", "me/it"]
    assert main(words_given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --push: {words} (")
    assert line.endswith(f"; the export is complete in {tmp_path}/out")
    assert "hf_secret" not in line
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_without_a_network_or_a_key(world: Path, tmp_path: Path, screen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(InputError, match=r"^--push: .*offline mode.*; the export is complete in"):
        export_run(world / "whole", screen, to=tmp_path / "out", push="me/it")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=r"^--push: HF_TOKEN is not set"):
        export_run(world / "whole", screen, to=tmp_path / "second", push="me/it")
    assert not (tmp_path / "second").exists()

    def breaks(*args, **given):
        raise ConnectionError("[Errno 111] Connection refused")

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(hub, "HfApi", lambda token: SimpleNamespace(model_info=breaks))
    with pytest.raises(InputError, match=r"^--push: \[Errno 111\] Connection refused; the export is complete in"):
        export_run(world / "whole", screen, to=tmp_path / "out", push="me/it")


def test_the_command(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    shutil.copytree(world / "lora", tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--merge"]) == 0
    out = capsys.readouterr().out
    assert f"model   {tmp_path}/run/export" in out
    assert f"card    {tmp_path}/run/export/README.md" in out
    for words, message in (
        (["--dtype", "bfloat16"], "--dtype only applies to --merge"),
        (["--public"], "--public only applies to --push; remove it"),
        (["--training.steps", "3"], "--training.steps is unknown; see grao export --help"),
    ):
        assert main(["export", str(tmp_path / "run"), *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none")]) == 2
    assert "RUN: " in capsys.readouterr().err


def test_transformers_serve_takes_an_export(world: Path, tmp_path: Path, screen):
    import urllib.request

    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    to, _ = export_run(world / "lora", screen, merge=True, to=tmp_path / "out")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(to), AutoTokenizer.from_pretrained(to)
    chat = [{"role": "user", "content": "say red cat"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = model.generate(**ids, do_sample=False, max_new_tokens=8)[0, ids["input_ids"].shape[1] :]
    asked = {"model": str(to), "messages": chat, "max_tokens": 8, "temperature": 0.0, "stream": False}
    with serving(to) as url:
        request = urllib.request.Request(
            f"{url}/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            said = json.load(reply)["choices"][0]["message"]["content"]
    assert said == tokenizer.decode(expected, skip_special_tokens=True)
