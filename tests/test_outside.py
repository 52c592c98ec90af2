"""A method, a reward source and a sampling engine, each one short file outside the package, train together."""

import sys
from pathlib import Path

import pytest
import torch

from grao import GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.records.run import read_metrics
from tiny import gradients, letter_tokenizer, tiny_model

OUTSIDE = Path(__file__).parent / "outside"
sys.path.insert(0, str(OUTSIDE))

from best_of_group import BestOfGroup  # noqa: E402
from letters import Vowels  # noqa: E402
from plain_engine import PlainEngine  # noqa: E402

ROWS = [
    {"prompt": f"say {word}", "reference": f"{word} it is"} for word in ("one", "two", "three", "four", "five", "six")
]
pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")


def make(folder: Path, engine: str = "plain_engine:PlainEngine", method=None, **training) -> GRAOTrainer:
    config = GRAOConfig(
        output_dir=folder,
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=8, engine=engine),
        training=TrainingConfig(prompts_per_step=6, learning_rate=1e-2, trainer={"use_cpu": True}, **training),
    )
    method = BestOfGroup() if method is None else method
    return GRAOTrainer(tiny_model(), Vowels(), config, ROWS, processing_class=letter_tokenizer(), method=method)


def test_each_is_one_short_file():
    for file in OUTSIDE.glob("*.py"):
        assert len(file.read_text().splitlines()) <= 60, file.name


def test_they_train_together(tmp_path: Path):
    trainer = make(tmp_path, steps=25)
    assert isinstance(trainer.generator, PlainEngine)
    with pytest.warns(UserWarning, match="answers repeat themselves"):  # vowels and nothing else
        trainer.train()
    lines = read_metrics(tmp_path)
    rewards = [line["reward/mean"] for line in lines]
    assert len(rewards) == 25
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.05
    assert all(0 <= line["groups/won"] <= 1 for line in lines)
    assert trainer.generator.synchronised == 1 + 25


def test_an_engine_with_weights_of_its_own_is_evaluated_as_trained(tmp_path: Path):
    trainer = make(tmp_path, steps=1)
    trainer.train()
    expected = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.evaluate(ROWS)
    for name, value in trainer.generator.policy.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_method_from_outside_weighs_as_it_says(tmp_path: Path):
    trainer = make(tmp_path, method=BestOfGroup(reference=0.5))
    update = trainer.source.update(0)
    for group in update.batch.groups:
        (answer,) = group.answers
        total = update.experience.rewards.total[group.number]
        assert (answer.role.name, answer.weight) == (("SAMPLE", 1.0) if total.max() > 0 else ("REFERENCE", 0.5))
    trainer.learner.gradient(
        trainer.model, update, trainer.learner.before(trainer.model, update, trainer.method), trainer.method
    )
    assert any(gradient.abs().sum() > 0 for gradient in gradients(trainer.model).values())


def test_its_settings_are_checked():
    with pytest.raises(ValueError, match="greater than 0"):
        BestOfGroup(reference=0.0)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("vlm", "unknown engine 'vlm'; choose auto, transformers"),
        ("nowhere:Engine", "cannot import"),
        ("letters:Sampler", "Sampler"),
    ],
)
def test_an_engine_that_is_not_there_is_named(tmp_path: Path, engine: str, message: str):
    with pytest.raises(InputError, match=f"rollout.engine: .*{message}"):
        make(tmp_path, engine)
    assert torch.is_grad_enabled()
