"""Samples drawn ahead of their step while a judge reads: which weights they come from, and that all else stays."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from grao import GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.config.rewards import JudgeConfig
from grao.config.stages import StageConfig
from grao.errors import RewardUnavailableError
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.sft import SFT
from grao.methods.stage import Until
from grao.records.run import read_metrics
from grao.rewards.judge.client import Endpoint
from grao.rewards.judge.ledger import Ledger
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.server import ServerJudge
from grao.rewards.judge.wording import load_template
from grao.training import ahead, experience
from grao.training.experience import ExperienceSource
from grao.types import Answer
from judge_server import Asked, JudgeServer, Told, longer
from tiny import letter_tokenizer, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

WORDS = ("red", "blue", "green", "grey", "pink", "gold", "teal", "plum")
ROWS = [{"prompt": f"say {word}", "reference": f"a {word}."} for word in WORDS]

Make = Callable[..., GRAOTrainer]


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer().running() as running:
        yield running


@pytest.fixture
def make(server: JudgeServer, tmp_path: Path) -> Make:
    def build(
        name: str, steps: int = 4, samples_ahead: int = 1, reward=None, method=None, stages=(), **training
    ) -> GRAOTrainer:
        config = GRAOConfig(
            tmp_path / name,
            rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=8, ahead=samples_ahead),
            training=TrainingConfig(
                steps=steps, prompts_per_step=3, learning_rate=1e-2, trainer={"use_cpu": True}, **training
            ),
            stages=list(stages),
        )
        endpoint = Endpoint(JudgeConfig(model="judge", base_url=server.url, retries=0, timeout=5.0, patience=0.5))
        judge = ServerJudge(endpoint, load_template("helpful"), Ledger(tmp_path / f"{name}.sqlite"))
        reward = reward or JudgeReward(judge)
        return GRAOTrainer(tiny_model(), reward, config, ROWS, processing_class=letter_tokenizer(), method=method)

    return build


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """The samples that each step learns from."""
    steps, update = [], ExperienceSource.update

    def watched(source: ExperienceSource, step: int):
        result = update(source, step)
        steps.append(ids_of(result.experience.groups))
        return result

    monkeypatch.setattr(ExperienceSource, "update", watched)
    return steps


def wait_for(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def ids_of(groups) -> list[tuple[int, ...]]:
    return [sample.ids for group in groups for sample in group.samples]


def weights_of(trainer: GRAOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def same(one: GRAOTrainer, other: GRAOTrainer) -> bool:
    found = weights_of(other)
    return all(torch.equal(value, found[name]) for name, value in weights_of(one).items())


def test_samples_are_one_step_old_and_not_more(make: Make, seen, tmp_path: Path):
    fresh = make("fresh")
    expected = [ids_of(fresh.source._sample(step, lambda group: None)) for step in (0, 1)]
    first = make("first", steps=1, samples_ahead=0)
    first.train()
    expected.append(ids_of(first.source._sample(2, lambda group: None)))
    seen.clear()
    trainer = make("ahead", steps=3)
    trainer.train()
    assert seen == expected
    gaps = [step["sampler/gap"] for step in read_metrics(tmp_path / "ahead")]
    assert gaps[0] < 1e-5 < 1e-4 < min(gaps[1:])
    assert not trainer.source._sample_ahead(2, [])  # nothing is sampled for a step that will not be


def test_nothing_is_sampled_beyond_the_steps_of_a_stage(make: Make, monkeypatch: pytest.MonkeyPatch):
    sampled, sample = [], ExperienceSource._sample

    def recorded(source: ExperienceSource, step: int, finished):
        sampled.append((source.method.name, step))
        return sample(source, step, finished)

    monkeypatch.setattr(ExperienceSource, "_sample", recorded)
    trainer = make("staged", steps=3, stages=[StageConfig(GRPO(), Until(steps=2)), StageConfig(GRAO())])
    trainer.train()
    assert sampled == [("grpo", 0), ("grpo", 1), ("grao", 0), ("grao", 1), ("grao", 2)]


def test_the_judge_reads_one_step_while_the_next_is_sampled(make: Make, server: JudgeServer, monkeypatch):
    asked, waited = [], []

    def late(source: ExperienceSource, step: int, finished):
        if step == 1:
            waited.append(wait_for(lambda: bool(server.asked)))
        return sample(source, step, finished)

    def scored(groups, rewards):
        result = judged(groups, rewards)
        asked.append({one.context for one in server.asked} - {context for step in asked for context in step})
        return result

    judged, sample = experience.reward_groups, ExperienceSource._sample
    monkeypatch.setattr(ExperienceSource, "_sample", late)
    monkeypatch.setattr(experience, "reward_groups", scored)
    trainer = make("run", steps=2)
    trainer.train()
    prompts = [{f"say {WORDS[index]}" for _, index in trainer.source.draws(step)} for step in (0, 1)]
    assert [{context.rpartition("\n")[2] for context in step} for step in asked] == prompts
    assert waited == [True]  # before anybody wanted a verdict
    assert set(Counter(one.body["messages"][0]["content"] for one in server.asked).values()) == {1}


def test_a_run_goes_on_bit_by_bit(make: Make, seen, tmp_path: Path):
    whole = make("whole")
    whole.train()
    expected = list(seen)
    make("cut", save_every=2).train()
    seen.clear()
    resumed = make("cut")
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoints" / "checkpoint-2"))
    assert seen == expected[2:]
    assert same(resumed, whole)


def test_after_a_judge_that_was_down_too(make: Make, server: JudgeServer, seen, tmp_path: Path):
    whole = make("whole")
    whole.train()
    expected, steps = list(seen), []

    def down(asked: Asked) -> Told:
        steps.append(asked)
        return Told(status=503) if len(steps) > 48 else longer(asked)

    cut = make("cut")
    server.script = down
    with pytest.raises(RewardUnavailableError):
        cut.train()
    done = cut.state.global_step
    assert 0 < done < 4
    assert cut.save_checkpoint()
    server.script = longer
    seen.clear()
    resumed = make("cut")
    resumed.train(resume_from_checkpoint=True)
    assert seen == expected[done:]
    assert same(resumed, whole)


def test_a_second_training_begins_anew(make: Make, seen, tmp_path: Path):
    trainer = make("one", steps=1)
    trainer.train()
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.mul_(1.5)
    expected = ids_of(trainer.source._sample(0, lambda group: None))
    trainer.source.update(0)
    assert seen[-1] == expected


def test_several_processes_keep_their_shares_in_one_file(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def answer(place: int, sample: int) -> Answer:
        ids = tuple(range(3, 4 + place + sample))
        return Answer(ids, truncated=bool(sample % 2), logps=tuple(-token / 7 for token in ids))

    groups = [[answer(place, sample) for sample in range(4)] for place in range(3)]
    shares = [[(0, groups[0]), (2, groups[2])], [(1, groups[1])]]
    monkeypatch.setattr(ahead, "gather_object", lambda share: shares[0] + shares[1])
    ahead.write_ahead(tmp_path, shares[1], main=False)
    assert not list(tmp_path.iterdir())
    ahead.write_ahead(tmp_path, shares[0], main=True)
    found = ahead.read_ahead(tmp_path, 3)
    assert found == groups
    assert [[one.logps for one in group] for group in found] == [[one.logps for one in group] for group in groups]
    source = make("run").source
    for source.process, source.processes in ((0, 2), (1, 2), (0, 1)):
        source.restore(5, found)
        own = groups[source.process :: source.processes]
        assert [list(group.samples) for group in source.sampled[5]] == [
            [Answer(**vars(one) | {"text": kept.text}) for one, kept in zip(group, saved.samples, strict=True)]
            for group, saved in zip(own, source.sampled[5], strict=True)
        ]
        assert [place for place, _ in source.share(5)] == list(range(source.process, 3, source.processes))
        assert source.share(4) == []


def test_it_is_refused_where_nothing_is_gained(make: Make):
    def vowels(completions, **_):
        return [text.count("a") for text in completions]

    with pytest.raises(InputError, match=r"rollout\.ahead: no reward waits for a server"):
        make("run", reward=vowels)
    with pytest.raises(InputError, match=r"rollout\.ahead: sft does not sample during training"):
        make("run", method=SFT())
    with pytest.raises(ValueError, match="ahead"):
        RolloutConfig(ahead=2)
