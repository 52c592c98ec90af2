"""The memory that a run takes: counted in shapes, planned for a card, halved where it runs out."""

import json
import re
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DeepseekV3Config, DeepseekV3ForCausalLM

from grao.cli.main import main
from grao.config.load import load_recipe
from grao.engine import footprint
from grao.engine.flops import Cost
from grao.engine.interface import checkpoint_activations
from grao.engine.loading import add_adapter, check_finite, load_model, parameter_count, rounded_away
from grao.engine.memory import Budget, PerToken, affordable_rows, gradients_dropped
from grao.engine.policy import load_policy
from grao.engine.select import engine_for
from grao.errors import InputError
from tiny import LETTERS, batch_of, saved_model, tiny_model

GIB = 1 << 30


def mla() -> DeepseekV3ForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 43, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 16, "q_lora_rank": None}
    widths = {"qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 16, "moe_intermediate_size": 24}
    experts = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1}
    return DeepseekV3ForCausalLM(DeepseekV3Config(**shape, **heads, **widths, **experts)).eval()


def real(kind: str) -> torch.nn.Module:
    model = mla() if kind == "mla" else tiny_model(kind.removesuffix(" lora"))
    return add_adapter(model, 4, 8, 0.0, "all-linear") if "lora" in kind else model


def in_shapes(model: torch.nn.Module, lora: bool) -> torch.nn.Module:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(deepcopy(inner.config), dtype=torch.float32)
    return add_adapter(shape, 4, 8, 0.0, "all-linear") if lora else shape


@pytest.mark.filterwarnings("ignore:The following:RuntimeWarning")  # peft, of patterns for experts
@pytest.mark.parametrize("kind", ["llama", "llama lora", "moe", "mla", "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_shapes_tell_what_a_real_pass_takes(kind: str, checkpointing: bool):
    model = real(kind)
    shape = in_shapes(model, "lora" in kind)
    for each in (model, shape) if checkpointing else ():
        checkpoint_activations(each, None)
    length = 50
    text = [3 + place % len(LETTERS) for place in range(length)]
    batch = batch_of([text] * 3, [text] * 3, [0] * 3, [1.0] * 3)
    with footprint.shapes_only(shape):
        expected = footprint.activation_bytes(shape).at(4 * length)
        cache = footprint.cache_bytes(shape, 100)
    engine = engine_for(model, 0)
    with gradients_dropped(model), footprint.Meter() as meter:
        model.train()
        engine.run(model, batch).loss.backward()
    assert 0.5 < expected / meter.peak < 1.2  # masks of so short a row are a large part; gpt2 at 1,500 tokens: 0.9
    assert cache == footprint.cache_bytes(model, 100)
    with torch.no_grad():
        held = model.eval()(input_ids=torch.tensor([text * 2]), use_cache=True).past_key_values
    assert cache == sum(layer.keys.nbytes + layer.values.nbytes for layer in held.layers)


@pytest.mark.parametrize("kind", ["llama", "llama lora", "moe"])
def test_weights_gradients_and_adams_state_are_counted_to_the_byte(kind: str):
    model = real(kind)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    model(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    state = [value for kept in optimizer.state.values() for name, value in kept.items() if name != "step"]
    assert footprint.trained_bytes(model) == sum(weight.nbytes for weight in trained)
    assert footprint.trained_bytes(model) == sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
    assert footprint.optimizer_bytes(model, "adamw_torch") == sum(value.nbytes for value in state)
    assert footprint.frozen_bytes(model) + footprint.trained_bytes(model) == sum(w.nbytes for w in model.parameters())
    # two numbers a weight: 8 bits with 4 bytes a block of 256, or single precision where a tensor is small
    weights = [weight.numel() for weight in trained]
    eight = sum(2 * count * (1 + 4 / 256) if count >= 4096 else 8 * count for count in weights)
    assert footprint.optimizer_bytes(model, "paged_adamw_8bit") == round(eight)
    assert footprint.optimizer_bytes(model, "lion_32bit") == 4 * sum(weights)


def test_a_line_a_share_and_whole_groups():
    line = PerToken.through(lambda tokens: 100 + 3 * tokens)
    assert (line.fixed, line.token, line.at(1000)) == (100, 3, 3100)
    assert line.within(3100, most=16384) == 1000
    assert line.within(50, most=16384) == 1
    assert line.within(1e9, most=16384) == 16384
    assert affordable_rows(1000, row=10, group_size=8) == 24  # 0.3 of it are 30 rows
    assert affordable_rows(200, row=10, group_size=8) == 6
    assert affordable_rows(1e9, row=1, group_size=8) == 256


def test_a_budget_is_halved_as_often_as_it_takes_and_stays_so():
    asked: list[int] = []

    def work(size: int) -> int:
        asked.append(size)
        if size > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return size

    budget = Budget("training.token_budget", 100)
    with pytest.warns(UserWarning, match="out of memory") as said:
        assert budget.run(work) == 6
    assert len(said) == 4
    assert budget.run(work) == 6
    assert asked == [100, 50, 25, 12, 6, 6]
    resumed = Budget("training.token_budget", 100)
    resumed.at_most(budget.least)
    assert resumed.size == 6
    with (
        pytest.warns(UserWarning, match="is halved to 16"),
        pytest.raises(InputError, match=r"rollout\.batch_size 16; set it lower"),
    ):
        Budget("rollout.batch_size", 32).run(work, smallest=16)
    with pytest.raises(InputError, match=r"training\.token_budget 100"):
        Budget("training.token_budget", 100, alone=False).run(work)


def test_a_step_below_half_a_unit_in_the_last_place_moves_nothing():
    layer = torch.nn.Linear(64, 64, bias=False)
    torch.nn.init.normal_(layer.weight, std=0.02)
    assert rounded_away(layer, 1e-6) == 0.0  # single precision
    layer.to(torch.bfloat16)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        for _ in range(100):  # a hundred steps of the paper's learning rate
            layer.weight += 1e-6
    stayed = (layer.weight == before).float().mean().item()
    assert stayed > 0.95  # a weight of 0.02 has a last place of 2^-13: steps below 6e-5 are lost
    assert rounded_away(layer, 1e-6) > 0.95
    assert rounded_away(layer, 1e-3) < 0.05
    assert layer.weight[0, 0] + 1e-6 == layer.weight[0, 0]


def recipe_in(folder: Path, *overrides: tuple[str, str]) -> list[str]:
    saved_model(folder / "model")
    for file in (folder / "model").glob("*.safetensors"):
        file.unlink()  # settings and tokenizer are enough
    rows = [{"prompt": f"say {letter} {letter * n}", "reference": letter * 6} for n, letter in enumerate(LETTERS[:20])]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "model.path": folder / "model",
        "data.path": folder / "data.jsonl",
        "data.held_out": 4,
        "data.max_prompt_tokens": 20,
        "rewards.0.function": "nowhere:reward",
        "output": folder / "run",
        "rollout.max_new_tokens": 12,
        "training.prompts_per_step": 4,
    }
    return [word for name, value in [*given.items(), *overrides] for word in (f"--{name}", str(value))]


def test_a_dry_run_plans_without_weights_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = recipe_in(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", "--dry-run", *words]) == 0
    said = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "14 prompts, 1 held out" in said  # of 16 and 4
    assert "prompt too long" in said
    assert "activations of" in said
    assert "it fits" in said
    assert main(["train", "--dry-run", "--card", "24GiB", *words]) == 0
    assert "23.00" in capsys.readouterr().out  # of 24, less what the driver takes
    judge = ("rewards.0", "{judge: {model: j, base_url: 'http://127.0.0.1:9', price_input: 1, price_output: 1}}")
    assert main(["train", "--dry-run", *recipe_in(tmp_path, judge)]) == 0
    assert "million tokens" in capsys.readouterr().out
    assert main(["train", "--dry-run", "--card", "24GiB", *words, "--rollout.engine", "vllm"]) == 0
    assert "rollout: vLLM" in (said := capsys.readouterr().out)
    assert "9.60" in said  # its share of the card is 0.4 unless set
    for wrong, message in (
        (["--card", "24GiB"], "only applies to"),
        (["--dry-run", "--card", "x"], "number of GiB"),
    ):
        assert main(["train", *wrong, *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rollout.merge_adapter", "true"], "rollout.merge_adapter: the model has no adapter"),
        (["--rollout.ahead", "1", "--rewards.0", "{rule: {exact: {}}}"], "rollout.ahead: no reward waits"),
        (["--model.quantization", "4bit"], "model.quantization: 4-bit weights cannot be trained"),
        (["--model.adapter", "merge"], "is a full model, so there is no adapter to merge"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["train", "--dry-run", *recipe_in(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def test_vllms_share_is_what_the_weights_leave(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [*recipe_in(tmp_path), "--rollout.engine", "vllm", "--rollout.vllm.memory_share", "0.9"]
    assert main(["train", "--dry-run", "--card", "5GiB", *words]) == 2
    (share,) = re.findall(r"set rollout\.vllm\.memory_share: (0\.\d+)", capsys.readouterr().err)
    assert main(["train", "--dry-run", "--card", "5GiB", *words[:-1], share]) == 0


def test_a_split_model_keeps_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Weights, Adam's state and gradients are divided, the copy that samples is not."""
    words = recipe_in(tmp_path)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 2048, "intermediate_size": 8192}))

    def sizes(gpus: int) -> dict[str, float]:
        assert main(["train", "--dry-run", "--card", "80GiB", "--gpus", str(gpus), *words]) == 0
        lines = re.findall(r"^ *([\w ,:-]+?) +(\d+\.\d\d)$", capsys.readouterr().out, re.MULTILINE)
        return {name: float(size) for name, size in lines}

    one, four = sizes(1), sizes(4)
    for name in ("trained weights", "optimizer state", "update: gradients"):
        assert four[name] == pytest.approx(one[name] / 4, abs=0.01)
    assert four["sampling copy of the model"] == pytest.approx(one["trained weights"], abs=0.01)
    assert main(["train", "--dry-run", "--gpus", "5", *words]) == 2
    assert "--gpus: 5 exceeds training.prompts_per_step" in capsys.readouterr().err
    assert main(["train", "--gpus", "2", *words]) == 2


def test_what_does_not_fit_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = recipe_in(tmp_path)
    config = tmp_path / "model" / "config.json"
    shape = json.loads(config.read_text()) | {"hidden_size": 4096, "intermediate_size": 12288, "head_dim": 1024}
    config.write_text(json.dumps(shape))
    assert main(["train", "--dry-run", "--card", "7GiB", *words, "--training.token_budget", "8000"]) == 2
    assert "GiB; set training.trainer.gradient_checkpointing: true" in capsys.readouterr().err
    adapter = [
        "--model.lora.rank",
        "4",
        "--model.dtype",
        "bfloat16",
        "--training.trainer.gradient_checkpointing",
        "true",
    ]
    assert main(["train", "--dry-run", "--card", "8GiB", *words, *adapter]) == 0


def test_sizes_are_numbers_or_auto():
    base = [("model.path", "m"), ("data.path", "d"), ("rewards.0.function", "a:b"), ("output", "o")]
    recipe = load_recipe(None, [*base, ("training.token_budget", "auto"), ("rollout.batch_size", "7")])
    assert (recipe.training.token_budget, recipe.rollout.batch_size) == ("auto", 7)
    for wrong in ("0", "many", "1.5"):
        with pytest.raises(InputError, match=r"--training\.token_budget"):
            load_recipe(None, [*base, ("training.token_budget", wrong)])


def test_four_bits_want_an_adapter_and_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = str(saved_model(tmp_path / "model"))
    with pytest.raises(InputError, match=r"4-bit weights cannot be trained directly; set model\.lora"):
        load_policy(folder, "continue", None, quantization="4bit")
    monkeypatch.setattr("grao.engine.quantized.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'grao\[quantized\]'"):
        load_model(folder, quantization="4bit")
    add_adapter(load_model(folder), 4, 8, 0.0, "all-linear").save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="would round it; train it further"):
        load_policy(str(tmp_path / "adapter"), "merge", {"rank": 4}, quantization="4bit")


needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


@needs_bitsandbytes
def test_weights_of_four_bits_are_counted_checked_and_trained_on(tmp_path: Path):
    whole = tiny_model()
    folder = str(saved_model(tmp_path / "model"))
    model = load_model(folder, quantization="4bit")
    assert isinstance(model.config.quantization_config, BitsAndBytesConfig)
    assert parameter_count(model) == parameter_count(whole)
    assert Cost.of(model).token == Cost.of(whole).token
    weight = model.model.layers[0].mlp.up_proj.weight
    state = weight.quant_state
    held = weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert held == pytest.approx(footprint.FOUR_BITS * state.shape.numel(), abs=8)
    state.offset.fill_(torch.nan)
    with pytest.raises(InputError, match="up_proj"):
        check_finite(model, "model")


@needs_bitsandbytes
def test_a_run_on_four_bits_saves_its_adapter_and_goes_on_from_it(tmp_path: Path, screen):
    from grao.studies.evaluate import evaluate_run
    from grao.studies.train import start_run

    words = recipe_in(tmp_path)
    saved_model(tmp_path / "model")
    (tmp_path / "r.py").write_text(
        "def reward(completions, **_):\n    return [text.count('a') for text in completions]\n"
    )
    settings = [(name[2:], value) for name, value in zip(words[::2], words[1::2], strict=True)]
    settings += [("rewards.0.function", f"{tmp_path}/r.py:reward"), ("model.quantization", "4bit")]
    settings += [("model.lora.rank", "4"), ("training.steps", "2"), ("training.learning_rate", "1e-3")]
    start_run(load_recipe(None, settings), screen)
    assert {file.name for file in (tmp_path / "run" / "model").glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert evaluate_run(tmp_path / "run", tmp_path / "again", screen).prompts >= 1
    whole = load_model(str(tmp_path / "run"))  # merged into the weights as they lie on the disk
    assert not getattr(whole, "is_quantized", False)
    again = [("output", str(tmp_path / "second")), ("model.path", str(tmp_path / "run")), ("model.lora", "null")]
    recipe = load_recipe(None, [*settings[:-3], *settings[-2:], *again])
    start_run(recipe, screen)
