"""Models split over processes learn, sample and save what one process does, and never wait for each other for ever."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import LoraConfig
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.tensor import DTensor

from forked import Forked, together
from grao import DataConfig, GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.cli.main import main
from grao.config.stages import StageConfig
from grao.engine.sharded import configure_sharding, full_state, is_split
from grao.methods.base import Method
from grao.methods.dpo import DPO
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.ppo import PPO
from grao.methods.sft import SFT
from grao.methods.stage import Until
from grao.records.run import read_metrics
from grao.rollouts.weights import policy_weights
from grao.types import Answer
from test_method_runs import PAIRS, quiet
from test_trainer import vowels
from tiny import letter_tokenizer, relative_gap, saved_model, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "accelerate"
STEPS = 2


def environment(name: str) -> dict[str, str]:
    """What `accelerate launch` makes of a configuration."""
    config = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    if name == "fsdp2":
        return {"ACCELERATE_USE_FSDP": "true"} | {
            key.upper(): str(v).lower() for key, v in config["fsdp_config"].items()
        }
    stage = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": str(config["deepspeed_config"]["zero_stage"])}
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false", **stage}


@dataclass(frozen=True)
class Case:
    """A training that is run by one process and by several."""

    method: Method
    kind: str = "llama"
    lora: bool = False
    reward: Callable[..., list[float]] = vowels
    training: tuple[tuple[str, object], ...] = ()
    before: tuple[StageConfig, ...] = ()
    """Stages before the method."""


CASES = {
    "grao": Case(GRAO(), training=(("measure_kl", True),)),
    "grpo": Case(GRPO(kl=0.1, updates=2)),
    "ppo": Case(PPO(updates=2, kl_target=0.5)),
    "dpo": Case(DPO()),
    "lora": Case(DPO(), lora=True),
    "moe": Case(GRAO(), "moe", training=(("router_loss", 0.1),)),
    "padded": Case(PPO(updates=2), "gpt2"),
    "silent": Case(GRPO(kl=0.0), reward=quiet),
    "staged": Case(GRPO(kl=0.1), before=(StageConfig(SFT(), Until(steps=2)),), training=(("steps", 2),)),
    "drawn-lora": Case(GRPO(kl=0.1), lora=True),
}
RECORDED = [name for name in CASES if name != "drawn-lora"]
COPIES, FOUR = ("lora", "moe"), ("silent",)
"""Cases that replay what one process drew; of them those that are run with copies too, or by four processes."""


class Recorded:
    """Gives the completions that one process drew, and checks that it would draw the same."""

    def __init__(self, answers: dict[int, list[Answer]]) -> None:
        self.answers = answers

    def generate(self, prompts, keys, sampling):
        return [(index, self.answers[key]) for index, key in enumerate(keys)]

    def sync(self, policy) -> None:
        pass


class Recording:
    """Draws with another engine and keeps the completions by their keys."""

    def __init__(self, engine) -> None:
        self.engine, self.answers = engine, {}

    def generate(self, prompts, keys, sampling):
        for index, answers in self.engine.generate(prompts, keys, sampling):
            self.answers[keys[index]] = answers
            yield index, answers

    def sync(self, policy) -> None:
        self.engine.sync(policy)


def make(folder: Path, case: Case, generator=None, **rollout) -> GRAOTrainer:
    device = {"ddp_backend": "gloo"} if "ACCELERATE_USE_DEEPSPEED" in os.environ else {"use_cpu": True}
    training = {"steps": STEPS, "prompts_per_step": 5, "learning_rate": 0.3, "token_budget": 60}
    config = GRAOConfig(
        output_dir=folder,
        data=DataConfig(path="here", rejected="rejected"),
        rollout=RolloutConfig(**{"group_size": 3, "temperature": 1.0, "max_new_tokens": 6} | rollout),
        training=TrainingConfig(**training | dict(case.training), trainer={"optim": "sgd", **device}),
        method=GRAO() if case.before else case.method,
        stages=[*case.before, StageConfig(case.method)] if case.before else [],
    )
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights="gaussian") if case.lora else None
    return GRAOTrainer(
        tiny_model(case.kind), case.reward, config, PAIRS, eval_dataset=PAIRS[:3], processing_class=letter_tokenizer(),
        peft_config=lora, generator=generator,
    )  # fmt: skip


def record(trainer: GRAOTrainer) -> Recording:
    trainer.generator = trainer.source.generator = Recording(trainer.generator)
    return trainer.generator


@dataclass
class Alone:
    """What one process makes of a case."""

    start: dict[str, torch.Tensor]
    end: dict[str, torch.Tensor]
    answers: dict[int, list[Answer]]
    metrics: list[dict[str, float]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Alone]:
    folder, runs = tmp_path_factory.mktemp("alone"), {}
    for name in RECORDED:
        trainer = make(folder / name, CASES[name])
        recording, start = record(trainer), full_state(trainer.model, keep=True)
        start = {key: value.clone() for key, value in start.items()}
        trainer.train()
        end, metrics = full_state(trainer.model, keep=True), read_metrics(folder / name)
        runs[name] = Alone(start, end, recording.answers, metrics)
    return runs


def run_case(folder: Path, name: str, alone: Alone, split: Callable[[torch.Tensor], bool]) -> None:
    """In one of several processes: trains on the completions that one process drew, and keeps what came of it.

    Args:
        split: what each weight must be.
    """
    AcceleratorState._reset_state()
    trainer = make(folder / name, CASES[name], Recorded(alone.answers))
    trainer.train()
    weights = list(trainer.model.parameters())
    assert all(map(split, weights))
    assert all(weight.requires_grad for weight in weights) != CASES[name].lora
    end = full_state(trainer.accelerator.unwrap_model(trainer.model), keep=True)
    if trainer.is_world_process_zero():
        torch.save(end, folder / f"{name}.pt")


@pytest.fixture(scope="module")
def split(alone: dict[str, Alone], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with the weights of each case: of two processes with copies, of two and of four with parts."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("ddp", "fsdp2", "fsdp2-of-4")}

    def two() -> None:
        for name in COPIES:
            run_case(folders["ddp"], name, alone[name], lambda weight: not is_split(weight))
        os.environ.update(environment("fsdp2"))
        for name in RECORDED:
            run_case(folders["fsdp2"], name, alone[name], lambda weight: isinstance(weight, DTensor))
        distributed.barrier()

    def four() -> None:
        os.environ.update(environment("fsdp2"))
        for name in FOUR:
            run_case(folders["fsdp2-of-4"], name, alone[name], lambda weight: isinstance(weight, DTensor))
        distributed.barrier()

    together(2, two)
    together(4, four)
    return folders


RUN = [
    *(("fsdp2", name) for name in RECORDED),
    *(("ddp", name) for name in COPIES),
    *(("fsdp2-of-4", name) for name in FOUR),
]


@pytest.mark.parametrize(("way", "name"), RUN)
def test_weights_move_as_those_of_one_process(way: str, name: str, alone: dict[str, Alone], split: dict[str, Path]):
    check(split[way], name, alone[name])


def check(folder: Path, name: str, alone: Alone) -> None:
    """Holds what several processes left against what one process made."""
    start, end = alone.start, alone.end
    several = torch.load(folder / f"{name}.pt")
    assert several.keys() == end.keys()
    moved = torch.cat([(end[key] - start[key]).flatten() for key in end])
    apart = torch.cat([(several[key] - end[key]).flatten() for key in end])
    assert moved.norm() > 0.05
    assert apart.norm() < 1e-4 * moved.norm()
    logs = alone.metrics, read_metrics(folder / name)
    for one, other in zip(*logs, strict=True):
        for key in set(one) - {"loss", "dpo/accuracy"}:  # the margin of the first step is 0 up to rounding
            if key in ("tokens/forwarded", "flops/update"):  # each process asks the frozen model by itself
                assert other[key] >= 0.998 * one[key], key
            elif not key.startswith(("seconds", "speed")):
                assert other[key] == pytest.approx(one[key], rel=2e-3, abs=1e-4), key


DRAWN = {"drawn-lora": {"merge_adapter": True}, "ppo": {}}
"""Cases whose processes sample themselves, with settings of the rollout."""


def draw_case(folder: Path, name: str, trainer: GRAOTrainer) -> None:
    """Evaluates, trains on completions of its own, evaluates and saves; the first process keeps what came of it."""
    recording, evaluated = record(trainer), [trainer.evaluate()]
    trainer.train()
    evaluated.append(trainer.evaluate())
    trainer.save_model(str(folder / name / "model"))
    pushed = {key: value.clone() for key, value in policy_weights(trainer.model)}
    answers = [None] * trainer.accelerator.num_processes
    if trainer.accelerator.num_processes > 1:
        distributed.all_gather_object(answers, recording.answers)
    else:
        answers = [recording.answers]
    if trainer.is_world_process_zero():
        torch.save(pushed, folder / name / "pushed.pt")
        drawn = {str(key): [each.ids for each in group] for part in answers for key, group in part.items()}
        (folder / name / "drawn.json").write_text(json.dumps([evaluated, drawn]))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of one process and of two that share the weights."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    for name, rollout in DRAWN.items():
        draw_case(one, name, make(one / name, CASES[name], **rollout))

    def share() -> None:
        os.environ.update(environment("fsdp2"))
        for name, rollout in DRAWN.items():
            AcceleratorState._reset_state()
            draw_case(two, name, make(two / name, CASES[name], **rollout))
        distributed.barrier()

    together(2, share)
    return one, two


@pytest.mark.parametrize("name", DRAWN)
def test_they_draw_judge_and_save_what_one_process_does(name: str, drawn: tuple[Path, Path]):
    check_drawn(drawn, name)


def check_drawn(drawn: tuple[Path, Path], name: str) -> None:
    """Holds what several processes drew, judged and saved against what one process did."""
    (evaluated, answers), same = (json.loads((folder / name / "drawn.json").read_text()) for folder in drawn)
    assert evaluated[0] != evaluated[1]
    assert same == [evaluated, answers]
    files = [sorted(path.name for path in (folder / name / "model").iterdir()) for folder in drawn]
    assert files[0] == files[1]
    assert ("value_head.safetensors" in files[0]) == (name == "ppo")
    for file in (file for file in files[0] if file.endswith(".safetensors")):
        one, two = (load_file(folder / name / "model" / file) for folder in drawn)
        assert one.keys() == two.keys()
        assert relative_gap(two, one) < 1e-3
    one, two = (torch.load(folder / name / "pushed.pt") for folder in drawn)
    assert list(one) == list(two)
    assert relative_gap(two, one) < 1e-3


@pytest.mark.skipif(
    find_spec("deepspeed") is None or torch.cuda.is_available(), reason="needs deepspeed, without a GPU"
)
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deepspeed_does_what_one_process_does(
    stage: str, alone: dict[str, Alone], drawn: tuple[Path, Path], tmp_path: Path
):
    names = ["grpo", "ppo", "lora"]

    def run() -> None:
        os.environ.update(environment(stage) | {"DS_ACCELERATOR": "cpu"})
        import_module("deepspeed").ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled first
        for name in names:
            run_case(tmp_path, name, alone[name], lambda weight: is_split(weight) == (stage == "zero3"))
        for name, rollout in DRAWN.items():
            AcceleratorState._reset_state()
            draw_case(tmp_path / "drawn", name, make(tmp_path / "drawn" / name, CASES[name], **rollout))
        distributed.barrier()

    together(2, run)
    for name in names:
        check(tmp_path, name, alone[name])
    for name in DRAWN:
        check_drawn((drawn[0], tmp_path / "drawn"), name)


def test_a_killed_process_ends_all_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    saved_model(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (tmp_path / "rewards.py").write_text(
        "import os, signal\n"
        "def deadly(completions):\n"
        "    if os.path.exists('run/metrics.jsonl') and os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return [len(text) % 3 for text in completions]\n"
    )
    recipe = {
        "model": {"path": "model"}, "data": {"path": "data.jsonl"}, "output": "run",
        "rewards": [{"function": "rewards.py:deadly"}], "rollout": {"group_size": 2, "max_new_tokens": 4},
        "training": {"steps": 9, "prompts_per_step": 4, "trainer": {"use_cpu": True}},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    known = environment("fsdp2") | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    begin = time.monotonic()
    killed, left = (
        Forked(lambda: main(["train", "--config", "recipe.yaml"]), RANK=rank, LOCAL_RANK=rank, **known)
        for rank in ("1", "0")
    )
    assert killed.wait() == -signal.SIGKILL
    assert left.wait(60) == 1
    assert time.monotonic() - begin < 60
    last = left.err.strip().splitlines()[-1]
    assert last.startswith("error: another process of this run exited; see its output")
    assert "Traceback" not in left.err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FSDP_VERSION", "1", "set fsdp_version: 2"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "set fsdp_cpu_ram_efficient_loading: false"),
        ("FSDP_OFFLOAD_PARAMS", "true", "set fsdp_offload_params: false"),
    ],
)
def test_ways_of_splitting_that_are_refused(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch):
    for key, setting in {**environment("fsdp2"), "FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD", name: value}.items():
        monkeypatch.setenv(key, setting)
    if name != "FSDP_VERSION":
        monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "true")
    accelerator = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, mixed_precision="no")
    with pytest.raises(InputError, match=f"^accelerate's configuration: .*{message}$"):
        configure_sharding(accelerator, tiny_model())
