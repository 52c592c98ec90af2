"""vLLM as a sampling engine, in this process and as a server, against a fake that takes the calls of the real one."""

import importlib.util
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from fake_vllm import RECORDED, Fake, FakeServer
from grao import GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.config.load import load_recipe
from grao.config.vllm import VLLMConfig
from grao.engine.padded import plain_logps
from grao.records.run import read_metrics
from grao.rollouts.base import Sampling, draw_key, make_generator
from grao.rollouts.vllm_server import VLLMServerGenerator, write_weights
from grao.rollouts.weights import policy_weights
from tiny import END, in_order, letter_tokenizer, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
KEYS = [draw_key(0, "step", row) for row in range(3)]
SAMPLING = Sampling(samples=3, temperature=0.9, top_p=0.9, max_new_tokens=9)

Build = Callable[..., object]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    package = Fake()
    for name, module in package.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("grao.rollouts.vllm.version", lambda name: package.version)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return package


@pytest.fixture
def server(fake: Fake) -> Iterator[FakeServer]:
    serving = FakeServer(tiny_model().config)
    with serving.running() as serving.url:
        yield serving


@pytest.fixture(params=["vllm", "vllm-server"])
def build(request: pytest.FixtureRequest, fake: Fake, tmp_path: Path) -> Iterator[Build]:
    """Builds the engine for a policy."""
    running = []

    def engine(policy, batch_size: int = 4, **settings):
        if request.param == "vllm-server":
            inner = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
            running.append(FakeServer(inner.config, settings.pop("context", 64)).running())
            settings |= {"server": running[-1].__enter__(), "folder": tmp_path}
        config = VLLMConfig(**{"dtype": "float32", "context": 64} | settings)
        return make_generator(request.param, policy, [END, 4], 0, batch_size, True, settings=config)

    yield engine
    for serving in running:
        serving.__exit__(None, None, None)


def adapted(kind: str = "llama", **config) -> torch.nn.Module:
    torch.manual_seed(1)
    experts = {"target_modules": ["q_proj", "o_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    layers = experts if kind == "moe" else {"target_modules": "all-linear"}
    lora = LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **layers, **config)
    return get_peft_model(tiny_model(kind), lora).eval()


def ids_of(groups) -> list[list[tuple[int, ...]]]:
    return [[answer.ids for answer in group] for group in groups]


def test_samples_follow_from_their_keys_alone(build: Build):
    engine = build(tiny_model())
    engine.sync(tiny_model())
    together = in_order(engine.generate(PROMPTS, KEYS, SAMPLING))
    assert ids_of(in_order(engine.generate(PROMPTS, KEYS, SAMPLING))) == ids_of(together)
    backwards = in_order(engine.generate(PROMPTS[::-1], KEYS[::-1], SAMPLING))
    assert ids_of(backwards)[::-1] == ids_of(together)
    fewer = in_order(engine.generate(PROMPTS, KEYS, Sampling(2, 0.9, 0.9, 9)))
    assert ids_of(fewer) == [group[:2] for group in ids_of(together)]
    assert ids_of(in_order(engine.generate(PROMPTS, KEYS[::-1], SAMPLING))) != ids_of(together)
    assert len({ids for group in ids_of(together) for ids in group}) > 6


def test_completions_end_as_promised(build: Build):
    model = tiny_model()
    engine = build(model)
    engine.sync(model)
    answers = [answer for group in in_order(engine.generate(PROMPTS, KEYS, SAMPLING)) for answer in group]
    assert {answer.truncated for answer in answers} == {True, False}
    for answer in answers:
        assert answer.truncated == (answer.ids[-1] not in (END, 4))
        assert not {END, 4}.intersection(answer.ids[:-1])
        assert len(answer.ids) == 9 if answer.truncated else len(answer.ids) <= 9


@pytest.mark.parametrize("lora", [False, True])
def test_log_probabilities_are_the_policys_own_before_and_after_an_update(build: Build, lora: bool):
    policy = adapted() if lora else tiny_model()
    engine = build(policy)
    for _ in range(2):
        before = {name: value.clone() for name, value in policy.state_dict().items()}
        engine.sync(policy)
        for index, answers in engine.generate(PROMPTS, KEYS, SAMPLING):
            for answer in answers:
                expected = plain_logps(policy, PROMPTS[index], answer.ids)
                torch.testing.assert_close(torch.tensor(answer.logps), expected, atol=1e-5, rtol=1e-4)
        assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
        with torch.no_grad():
            for weight in policy.parameters():
                if weight.requires_grad:
                    weight.add_(0.05 * torch.randn_like(weight))


def test_greedy(build: Build):
    model = tiny_model()
    engine = build(model)
    engine.sync(model)
    for _, (one, other) in engine.generate(PROMPTS, KEYS, Sampling(2, 0.0, 1.0, 5)):
        assert one.ids == other.ids


@pytest.mark.parametrize(
    ("kind", "how"),
    [("gpt2", "whole"), ("moe", "whole"), ("moe", "lora"), ("llama", "lora"), ("llama", "dora"), ("qwen3", "saved")],
)
def test_weights_are_those_that_the_merged_model_would_save(tmp_path: Path, kind: str, how: str):
    extra = {"whole": {}, "lora": {}, "dora": {"use_dora": True}, "saved": {"modules_to_save": ["lm_head"]}}[how]
    policy = tiny_model(kind) if how == "whole" else adapted(kind, **extra)
    if how == "saved":
        with torch.no_grad():
            policy.get_base_model().lm_head.modules_to_save["default"].weight.add_(0.1)
    policy.add_module("value_head", torch.nn.Linear(2, 2))
    found = dict(policy_weights(policy))
    del policy.value_head
    (policy if how == "whole" else policy.merge_and_unload()).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def test_weights_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grao.rollouts.vllm_server._FILE_BYTES", 5000)
    model = tiny_model("moe")
    write_weights(policy_weights(model), tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    written = [load_file(file) for file in files]
    assert len(files) > 3
    assert {name for part in written for name in part} == dict(policy_weights(model)).keys()
    assert sum(len(part) for part in written) == len(dict(policy_weights(model)))


def test_it_sleeps_between_rollouts_and_gets_its_weights_before_each(fake: Fake):
    model = tiny_model()
    engine = make_generator("vllm", model, [END], 0, 4, True, settings=VLLMConfig(context=64))
    assert fake.done == ["start", "sleep 2"]
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    rollout = ["wake weights", "load", "reset prefixes", "wake kv_cache", "sample", "sleep 2"]
    for _ in range(2):
        fake.done.clear()
        engine.sync(model)
        list(engine.generate(PROMPTS, KEYS, SAMPLING))
        assert fake.done == rollout
    fake.done.clear()
    list(engine.generate(PROMPTS, KEYS, SAMPLING))  # without a word of new weights
    assert fake.done == rollout


def test_groups_come_one_by_one_and_may_be_left(fake: Fake):
    model = tiny_model()
    engine = make_generator("vllm", model, [END], 0, 2, True, settings=VLLMConfig(context=64))
    engine.sync(model)
    groups = engine.generate(PROMPTS, KEYS, SAMPLING)
    next(groups)
    assert engine._llm.waiting
    groups.close()
    assert fake.done[-2].startswith("abort")
    assert fake.done[-1] == "sleep 2"
    assert not engine._llm.waiting


def test_what_is_asked_of_vllm_follows_from_the_settings(fake: Fake):
    settings = VLLMConfig(memory_share=0.25, dtype="float16")
    engine = make_generator("vllm", tiny_model(), [END], 0, 32, False, settings=settings)
    given = engine._llm.given
    assert given["gpu_memory_utilization"] == 0.25
    assert (given["dtype"], engine.dtype) == ("float16", torch.float16)
    assert given["max_num_seqs"] == 32
    assert given["max_model_len"] == -1
    assert given["distributed_executor_backend"] == "external_launcher"


def test_a_context_that_is_too_short_is_told(build: Build):
    model = tiny_model()
    engine = build(model, context=8)
    engine.sync(model)
    with pytest.raises(InputError, match=r"cut off a completion after \d of 9 tokens \(length\)"):
        list(engine.generate([[5] * 5], KEYS[:1], Sampling(4, 0.5, 1.0, 9)))
    with pytest.raises(InputError, match="rollout"):
        list(engine.generate([[5] * 8], KEYS[:1], SAMPLING))
    list(engine.generate([[5]], KEYS[:1], Sampling(1, 0.5, 1.0, 2)))  # it can be used again


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_temperatures_that_vllm_would_change_are_refused(build: Build, temperature: float):
    with pytest.raises(InputError, match=r"vLLM allows 0 \(greedy\), or from 0\.01 to 2"):
        list(build(tiny_model()).generate(PROMPTS, KEYS, Sampling(1, temperature)))


@pytest.mark.parametrize("version", ["0.23.1", "0.31.0", "1.0.dev3+g12"])
def test_another_version_is_refused(fake: Fake, server: FakeServer, version: str):
    server.version = fake.version = version
    for name, settings in (("vllm", VLLMConfig()), ("vllm-server", VLLMConfig(server=server.url))):
        with pytest.raises(InputError, match=r"vLLM \S+ .*, but grao supports 0\.24 to 0\.30"):
            make_generator(name, tiny_model(), [END], 0, 4, True, settings=settings)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", None)
    with pytest.raises(InputError, match=r"pip install 'grao\[vllm\]'") as caught:
        make_generator("vllm", tiny_model(), [END], 0, 4, True, settings=VLLMConfig())
    assert "\n" not in str(caught.value)


def test_what_vllm_says_when_it_cannot_start_is_one_line(fake: Fake):
    with pytest.raises(InputError, match=r"cannot start vLLM: Free memory on device cuda:0 is less than.* 0\.99\)"):
        make_generator("vllm", tiny_model(), [END], 0, 4, True, settings=VLLMConfig(memory_share=0.99))


def test_a_server_that_is_down_or_refuses_is_told_in_one_line(server: FakeServer, tmp_path: Path):
    def make(**settings):
        settings = {"server": server.url, "folder": tmp_path, **settings}
        return make_generator("vllm-server", tiny_model(), [END], 0, 4, True, settings=VLLMConfig(**settings))

    with pytest.raises(InputError, match=r"rollout\.vllm\.folder: cannot write the model's weights to .*nowhere"):
        make(folder=tmp_path / "nowhere").sync(tiny_model())
    engine = make()
    server.develops = False
    with pytest.raises(InputError, match=r"/collective_rpc returned 404: .*start it with VLLM_SERVER_DEV_MODE=1"):
        engine.sync(tiny_model())
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"/server_info.* returned 404"):
        make()
    server.develops, server.logprobs_mode = True, "processed_logprobs"
    with pytest.raises(InputError, match="runs with --logprobs-mode processed_logprobs; start it without this option"):
        make()
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9 does not answer") as caught:
        make(server="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:port does not answer \(nonnumeric port"):
        make(server="http://127.0.0.1:port")


@pytest.mark.parametrize("said", [None, [], {}, {"version": 3}, "vLLM"])
def test_another_server_is_told_in_one_line(said: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(VLLMServerGenerator, "_call", lambda engine, path, body=None: said)
    with pytest.raises(InputError, match=r"server at http://127\.0\.0\.1:9 does not answer like vLLM; start it with"):
        VLLMServerGenerator(tiny_model(), [1], 0, 4, True, VLLMConfig(server="http://127.0.0.1:9"))


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_pushes_and_all_wait(server: FakeServer, tmp_path: Path, monkeypatch, rank: int):
    settings = VLLMConfig(server=server.url, folder=tmp_path)
    engine = make_generator("vllm-server", tiny_model(), [END], 0, 4, False, settings=settings)
    server.asked.clear()
    barrier = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_rank=lambda: rank,
        barrier=lambda: server.asked.append("barrier"),
    )
    monkeypatch.setattr("grao.rollouts.vllm_server.distributed", barrier)
    engine.sync(tiny_model())
    assert server.asked == ["barrier", *(["/collective_rpc", "/reset_prefix_cache"] if rank == 0 else []), "barrier"]


def config(folder: Path, **rollout) -> GRAOConfig:
    rollout = {"group_size": 4, "temperature": 1.0, "max_new_tokens": 8, **rollout}
    training = {"steps": 3, "prompts_per_step": 3, "learning_rate": 1e-2, "trainer": {"use_cpu": True}}
    return GRAOConfig(folder, rollout=RolloutConfig(**rollout), training=TrainingConfig(**training))


ROWS = [{"prompt": f"say {word}", "reference": f"{word} it is"} for word in ("one", "two", "three", "four")]


def vowels(completions, **_):
    return [sum(letter in "ae" for letter in text) / (1 + len(text)) for text in completions]


def test_it_trains_and_its_samples_are_the_policys(fake: Fake, tmp_path: Path):
    settings = VLLMConfig(dtype="float32", context=100)
    for folder in ("one", "other"):
        run = config(tmp_path / folder, engine="vllm", vllm=settings)
        trainer = GRAOTrainer(tiny_model(), vowels, run, ROWS, processing_class=letter_tokenizer())
        trainer.train()
        assert trainer.evaluate(ROWS).keys() >= {"eval_reward"}
    one, other = (read_metrics(tmp_path / folder) for folder in ("one", "other"))
    assert [step["reward/mean"] for step in one] == [step["reward/mean"] for step in other]
    assert all(step["sampler/gap"] < 1e-5 for step in one)


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ("engine: vllm-server", "needs the server's address in vllm.server"),
        ("vllm: {memory_share: 0.5}", "vllm applies to engine: vllm or vllm-server, not to auto"),
        ("{engine: vllm, vllm: {memory_share: 1.5}}", "memory_share .*below 1"),
        ("{engine: vllm-server, vllm: {server: localhost}}", "vllm.server"),
        ("{engine: vllm, temperature: 3}", "temperatures from 0.01 to 2"),
        ("{engine: vllm, vllm: {tensor_parallel: 2}}", "tensor_parallel"),
    ],
)
def test_settings_are_checked_in_one_line(tmp_path: Path, rollout: str, message: str):
    sections = ["model: {path: m}", "data: {path: d.jsonl}", "rewards: [{function: 'a.py:b'}]", "output: o"]
    (tmp_path / "run.yaml").write_text("\n".join([*sections, f"rollout:\n  {rollout}\n"]))
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(tmp_path / "run.yaml")
    assert "\n" not in str(caught.value)


def test_recorded_signatures_are_those_of_the_installed_package():
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "vllm_signatures.py"))
    installed = script["read"](Path(found.submodule_search_locations[0]).parent)
    used = ["LLM.enqueue", "LLM.sleep", "LLM.wake_up", "LLM.collective_rpc", "GPUModelRunner.reload_weights"]
    for recorded in RECORDED.values():
        assert {name: recorded[name] for name in used} == {name: installed[name] for name in used}
