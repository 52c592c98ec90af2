"""`grao chat`: one model or two side by side, prompted and stopped as in training."""

import io
import json
from pathlib import Path

import pytest

from grao.cli.main import main
from grao.rollouts.base import Sampling
from grao.studies.talk import Speaker, talk
from tiny import saved_model


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, *words: str) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["chat", *words, "--max_tokens", "12"]) == 0
    return capsys.readouterr().out.splitlines()


def test_two_models_answer_each_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    saved_model(tmp_path / "start")
    saved_model(tmp_path / "run" / "model", seed=1)
    needed = {"data": {"path": "d"}, "rewards": [{"function": "r:r"}], "output": "o"}
    recipe = {"model": {"path": str(tmp_path / "start")}, **needed}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"config": recipe}))
    (tmp_path / "run" / "recipe.yaml").write_text(json.dumps(recipe))
    lines = said(capsys, monkeypatch, "say a\n\nsay b\n", str(tmp_path / "run"), "--against", "before")
    lines = [line for line in lines if not line.startswith("grao chat")]
    assert [line.partition(":")[0] for line in lines] == ["run", "before", "run", "before"]
    again = said(capsys, monkeypatch, "say a\nsay b\n/quit\nsay c\n", str(tmp_path / "run"), "--against", "before")
    assert lines == [line for line in again if not line.startswith("grao chat")]
    alone = said(capsys, monkeypatch, "say a\n", str(tmp_path / "start"), "--temperature", "0")
    assert alone[-1].startswith("start: ")


def test_a_chat_goes_on_until_it_begins_anew(tmp_path: Path, chat_tokenizer):
    saved_model(tmp_path)
    config = tmp_path / "config.json"
    speaker = Speaker(str(tmp_path), "tiny", Sampling(1, 0.0, 1.0, 4))
    assert speaker.answer("say a") == speaker.answer("say a")  # without a template every line stands alone
    assert speaker.conversation == []
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.resize_token_embeddings(len(chat_tokenizer))
    model.generation_config.eos_token_id = 2
    model.save_pretrained(tmp_path)
    chat_tokenizer.save_pretrained(tmp_path)
    assert json.loads(config.read_text())["vocab_size"] == len(chat_tokenizer)
    speaker = Speaker(str(tmp_path), "tiny", Sampling(1, 0.0, 1.0, 4))
    shown: list[str] = []
    talk([speaker], iter(["one", "two"]), shown.append)
    assert [message["role"] for message in speaker.conversation] == ["user", "assistant"] * 2
    assert [message["content"] for message in speaker.conversation][::2] == ["one", "two"]
    talk([speaker], iter(["/new", "one"]), shown.append)
    assert len(speaker.conversation) == 2
    assert shown[2] == shown[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere"),
        (["nowhere", "--against", "before"], "is not a run that recorded its starting model"),
        (["m", "--temperature", "hot"], "must be a number from 0 to 10"),
        (["m", "--max_tokens", "0"], "at least 1"),
        (["m", "--rollout.top_p", "1"], "is unknown"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["chat", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
