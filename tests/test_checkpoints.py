"""Checkpoints: what is in them, who can go on from them, and that nothing in them is ever unpickled."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from forked import together
from grao import DataConfig, GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.engine.loading import load_encoder, load_model, load_reward_model
from grao.engine.sharded import full_state, is_split
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.ppo import PPO
from grao.records import checkpoints
from grao.records.run import read_metrics
from grao.training import saving
from grao.training.state import (
    TrainingState,
    group_settings,
    load_optimizer,
    load_schedule,
    load_weights,
    optimizer_state,
)
from test_sharded import environment
from test_trainer import ROWS, vowels, weights_of
from tiny import letter_tokenizer, relative_gap, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
PAIRS = [{**row, "rejected": f"no, {row['prompt']}"} for row in ROWS]
FILES = {
    "checksums.json", "config.json", "generation_config.json", "grao_state.json", "model.safetensors",
    "optimizer.safetensors", "tokenizer.json", "tokenizer_config.json", "trainer_state.json", "training_state.json",
}  # fmt: skip


def make(
    folder: Path, method=None, model=None, steps: int = 4, lora: bool = False, reward=vowels, **training
) -> GRAOTrainer:
    training = {"save_every": 2, "learning_rate": 3e-3, "trainer": {"use_cpu": True}} | training
    config = GRAOConfig(
        output_dir=folder,
        data=DataConfig(path="here", rejected="rejected"),
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=6),
        training=TrainingConfig(steps=steps, prompts_per_step=4, **training),
        method=method or GRAO(),
    )
    adapter = LoraConfig(r=2, target_modules="all-linear") if lora else None
    return GRAOTrainer(
        model or tiny_model(), reward, config, PAIRS, processing_class=letter_tokenizer(), peft_config=adapter
    )


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"checkpoint-{step}"


def lines(folder: Path) -> list[dict[str, float]]:
    timings = ("seconds", "speed/")
    return [{name: x for name, x in line.items() if not name.startswith(timings)} for line in read_metrics(folder)]


def test_a_checkpoint_holds_no_pickle(tmp_path: Path):
    make(tmp_path, steps=2).train()
    assert {path.name for path in checkpoint(tmp_path, 2).iterdir()} == FILES
    names = set(load_file(checkpoint(tmp_path, 2) / "optimizer.safetensors"))
    weights = dict(tiny_model().named_parameters())
    assert names == {f"{name}/{what}" for name in weights for what in ("step", "exp_avg", "exp_avg_sq")}


@pytest.mark.parametrize("kind", ["moe", "gpt2"])
def test_a_model_that_is_stored_under_other_names_goes_on_exactly(tmp_path: Path, kind: str):
    """Experts are one tensor in memory and many on disk; gpt2's output layer is its embedding."""
    whole = make(tmp_path / "whole", model=tiny_model(kind))
    whole.train()
    again = make(tmp_path / "whole", model=tiny_model(kind, seed=1))
    again.train(resume_from_checkpoint=str(checkpoint(tmp_path / "whole", 2)))
    assert relative_gap(weights_of(again.model), weights_of(whole.model)) == 0


def later(completions, trainer_state, **_):
    """Nothing can be learned from the first step."""
    return [0.0] * len(completions) if trainer_state.global_step == 0 else vowels(completions)


@pytest.mark.filterwarnings("ignore:the reward .* scores every answer")
def test_before_the_optimiser_knows_anything_too(tmp_path: Path):
    runs = [make(tmp_path, GRPO(kl=0.0), steps=3, save_every=1, reward=later) for _ in range(2)]
    runs[0].train()
    assert not load_file(checkpoint(tmp_path, 1) / "optimizer.safetensors")
    assert load_file(checkpoint(tmp_path, 2) / "optimizer.safetensors")
    runs[1].train(resume_from_checkpoint=str(checkpoint(tmp_path, 1)))
    assert relative_gap(*(weights_of(run.model) for run in runs)) == 0


def test_two_processes_write_and_one_and_four_go_on(tmp_path: Path):
    """PPO with an adapter: critic, steered penalty, and two updates a step."""
    method = PPO(updates=2, kl_target=0.5)
    whole = make(tmp_path / "whole", method, lora=True)
    whole.train()

    def train(folder: Path, chosen: Path | None) -> None:
        trainer = make(folder, method, lora=True)
        trainer.train(resume_from_checkpoint=chosen and str(chosen))
        if trainer.is_world_process_zero():
            save_file(weights_of(trainer.model), folder / "weights.safetensors")
        torch.distributed.barrier()

    together(2, lambda: train(tmp_path / "two", None))
    for run in ("one", "four"):
        shutil.copytree(tmp_path / "two", tmp_path / run)
    together(4, lambda: train(tmp_path / "four", checkpoint(tmp_path / "four", 2)))
    one = make(tmp_path / "one", method, lora=True)
    one.train(resume_from_checkpoint=str(checkpoint(tmp_path / "one", 2)))
    save_file(weights_of(one.model), tmp_path / "one" / "weights.safetensors")
    for run in ("two", "one", "four"):
        assert relative_gap(load_file(tmp_path / run / "weights.safetensors"), weights_of(whole.model)) < 1e-4
        for line, other in zip(lines(tmp_path / run), lines(tmp_path / "whole"), strict=True):
            assert line == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("save_async", [False, True])
def test_split_weights_write_and_one_process_goes_on_and_back(tmp_path: Path, save_async: bool):
    """FSDP2 with all weights trained, a frozen policy, and a critic."""
    method = PPO(kl=0.1)

    def run(folder: Path, chosen: Path | None = None, split: bool = False) -> GRAOTrainer:
        if split:
            os.environ.update(environment("fsdp2"))
        trainer = make(folder, method, save_async=save_async)
        trainer.train(resume_from_checkpoint=chosen and str(chosen))
        weights = full_state(trainer._policy, trainer.is_world_process_zero())
        if split:
            assert all(map(is_split, trainer._policy.parameters()))
        if weights:
            save_file({name: weights[name].clone() for name in weights_of(trainer.model)}, folder / "end.safetensors")
        return trainer

    whole = run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "back")
    together(2, lambda: run(tmp_path / "two", split=True) and None)
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    run(tmp_path / "one", checkpoint(tmp_path / "one", 2))
    together(2, lambda: run(tmp_path / "back", checkpoint(tmp_path / "back", 2), split=True) and None)
    for folder in ("two", "one", "back"):
        assert relative_gap(load_file(tmp_path / folder / "end.safetensors"), weights_of(whole.model)) < 1e-4


IDS = torch.arange(3, 19)[None]


def steps(model: torch.nn.Module, optimizer, schedule, count: int) -> None:
    """A few steps that need no trainer."""
    for _ in range(count):
        model(IDS).logits.square().mean().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def begun(model: torch.nn.Module):
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW([{"params": weights[::2]}, {"params": weights[1::2], "weight_decay": 0.0}], lr=1e-2)
    return optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))


def some_model(kind: str, split: bool, seed: int) -> torch.nn.Module:
    model = tiny_model("llama" if kind == "lora" else kind, seed)
    if kind == "lora":
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    if split:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        inner = model.get_base_model() if kind == "lora" else model
        for layer in inner.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(weight, DTensor) for weight in model.parameters())
    return model.train()


def write(folder: Path, model, optimizer) -> TrainingState:
    tensors, numbers = optimizer_state(model, optimizer, copy=False)
    weights = full_state(model, keep=True, copy=True)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        folder.mkdir()
        kind = next(each for each in type(model).__mro__ if not each.__name__.startswith("FSDP"))
        kind.save_pretrained(model, folder, state_dict=weights)
        save_file(tensors, folder / "optimizer.safetensors")
    return TrainingState(2, group_settings(optimizer), numbers, {}, [])


def read(folder: Path, state: TrainingState, model):
    load_weights(model, folder)
    optimizer, schedule = begun(model)
    load_optimizer(model, optimizer, folder, state)
    load_schedule(schedule, optimizer, state.schedule)
    return optimizer, schedule


@pytest.mark.parametrize("kind", ["llama", "moe", "lora"])
def test_whole_and_split_weights_go_on_from_each_other(tmp_path: Path, kind: str):
    """FSDP2 on two processes, as `fully_shard` makes it by hand."""
    plain = some_model(kind, split=False, seed=0)
    optimizer, schedule = begun(plain)
    steps(plain, optimizer, schedule, 2)
    state = write(tmp_path / "whole", plain, optimizer)
    steps(plain, optimizer, schedule, 2)
    save_file({name: value.detach() for name, value in plain.named_parameters()}, tmp_path / "end")

    def work() -> None:
        torch.distributed.init_process_group("gloo")
        split = some_model(kind, split=True, seed=1 - (kind == "lora"))
        optimizer, schedule = read(tmp_path / "whole", state, split)
        assert group_settings(optimizer) == state.groups
        write(tmp_path / "split", split, optimizer)
        torch.distributed.barrier()
        for name in ("optimizer", "adapter_model" if kind == "lora" else "model"):
            one, other = (load_file(tmp_path / each / f"{name}.safetensors") for each in ("whole", "split"))
            assert relative_gap(one, other) == 0
        steps(split, optimizer, schedule, 2)
        assert relative_gap(snapshot_of(split), load_file(tmp_path / "end")) < 1e-5
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

    together(2, work)
    again = some_model(kind, split=False, seed=1 - (kind == "lora"))
    steps(again, *read(tmp_path / "split", state, again), 2)
    assert relative_gap(snapshot_of(again), load_file(tmp_path / "end")) == 0


def snapshot_of(model) -> dict[str, torch.Tensor]:
    values = full_state(model, keep=True, copy=True)
    return {name: values[name] for name, _ in model.named_parameters()}


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


PICKLES = (
    *("pytorch_model.bin", "adapter_model.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"),
    *("rng_state.pth", "rng_state_0.pth", "training_args.bin", "value_head.pt", ".metadata", "pytorch_model_fsdp.bin"),
)


def trapped(folder: Path, *names: str) -> Path:
    """The folder with a pickle under each name; the file that tells of its reading lies beside it."""
    folder.mkdir(exist_ok=True, parents=True)
    for name in names or PICKLES:
        with (folder / name).open("wb") as file:
            pickle.dump(Trap(folder.parent / "unpickled"), file)
    return folder


def test_a_trap_works(tmp_path: Path):
    pickle.loads((trapped(tmp_path / "any") / "optimizer.bin").read_bytes()).close()
    assert (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", PICKLES)
def test_nothing_in_a_checkpoint_is_unpickled(tmp_path: Path, name: str, lora: bool):
    run = tmp_path / "run"
    make(run, steps=2, lora=lora).train()
    trapped(checkpoint(run, 2), name)
    checkpoints.seal(checkpoint(run, 2))
    again = make(run, steps=3, lora=lora)
    if name == "optimizer.pt":
        with pytest.raises(InputError, match=r"was written by an earlier version of grao in another format; finish"):
            again.train(resume_from_checkpoint=True)
        assert checkpoint(run, 2).exists()
    else:
        again.train(resume_from_checkpoint=True)
    assert not list(tmp_path.rglob("unpickled"))


@pytest.mark.parametrize("load", [load_model, load_reward_model, load_encoder])
@pytest.mark.parametrize("adapter", [False, True])
def test_nothing_in_a_model_folder_is_unpickled(tmp_path: Path, load, adapter: bool):
    base = tmp_path / "base"
    tiny_model().save_pretrained(base)
    folder = trapped(tmp_path / "model")
    if adapter:
        get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear")).save_pretrained(folder)
        (folder / "adapter_model.safetensors").unlink()
        config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    else:
        shutil.copy(base / "config.json", folder)
    with pytest.raises(InputError, match=r"model\.path: "):
        load(str(folder))
    assert not list(tmp_path.rglob("unpickled"))


@pytest.mark.parametrize("lora", [False, True])
def test_in_the_background_the_same_is_written(tmp_path: Path, lora: bool):
    sides = {save_async: tmp_path / f"{save_async}" for save_async in (False, True)}
    for save_async, folder in sides.items():
        make(folder, PPO(updates=2), steps=3, lora=lora, save_async=save_async, save_every=1).train()
    for step in range(1, 4):
        one, other = (checkpoint(folder, step) for folder in sides.values())
        assert checkpoints.fault(other) is None
        for file in sorted(one.glob("*.safetensors")):
            assert file.read_bytes() == (other / file.name).read_bytes(), file.name
    assert not (sides[True] / "checkpoints" / ".draft").exists()


def test_of_two_processes_one_writes_in_the_background(tmp_path: Path):
    def train() -> None:
        trainer = make(tmp_path, save_async=True, save_every=1)
        trainer.train()
        assert trainer._last_whole == checkpoint(tmp_path, 4)
        torch.distributed.barrier()

    together(2, train)
    assert [checkpoints.fault(checkpoint(tmp_path, step)) for step in range(1, 5)] == [None] * 4


def test_both_of_two_processes_hear_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def train() -> int:
        trainer = make(tmp_path, save_async=True)
        expected = OSError if trainer.is_world_process_zero() else InputError
        with pytest.raises(expected, match="No space left on device"):
            trainer.train()
        return 0

    monkeypatch.setattr(saving, "save_file", full)
    together(2, train)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_an_optimiser_whose_state_no_file_can_hold_is_named_after_one_step(tmp_path: Path):
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            self.state[self.param_groups[0]["params"][0]]["projector"] = object()

    trainer = make(tmp_path, save_every=None)
    trainer.create_optimizer = lambda *_: setattr(trainer, "optimizer", Odd(trainer.model.parameters(), lr=1e-3))
    with pytest.raises(InputError, match=r"training\.trainer\.optim: its state 'projector' \(object\) cannot be saved"):
        trainer.train()
    assert trainer.state.global_step == 1
