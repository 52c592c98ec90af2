"""Sampler against trainer: what is measured of the gap, when it is warned of, and what importance weights do."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from grao import GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.engine.padded import completion_likelihood
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.records.run import read_metrics
from grao.rollouts.base import Sampling
from grao.rollouts.transformers import TransformersGenerator
from grao.training.accumulate import UpdateLoss, accumulate_gradient
from grao.training.gap import RATIOS, Importance, tolerated_gap
from grao.types import Answer, Batch, Role
from tiny import END, gradients, letter_tokenizer, relative_gap, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

ROWS = [{"prompt": f"say {word}", "reference": f"{word} it is"} for word in ("one", "two", "three", "four")]


def vowels(completions, **_):
    return [sum(letter in "ae" for letter in text) / (1 + len(text)) for text in completions]


class Shifted:
    """Samples from the policy and says other log-probabilities: each by as much as `shift` of its position."""

    def __init__(self, model, shift=None) -> None:
        self.inner, self.shift = TransformersGenerator(model, [END]), shift

    def generate(self, prompts, keys, sampling: Sampling):
        for index, answers in self.inner.generate(prompts, keys, sampling):
            yield index, [self._said(answer) for answer in answers]

    def _said(self, answer: Answer) -> Answer:
        moved = self.shift and tuple(logp + self.shift(place) for place, logp in enumerate(answer.logps))
        return Answer(answer.ids, truncated=answer.truncated, logps=moved)

    def sync(self, policy) -> None: ...


def make(folder: Path, shift=None, model=None, method=None, rollout=None, **training) -> GRAOTrainer:
    training = {"steps": 1, "prompts_per_step": 3, "learning_rate": 1e-2, "trainer": {"use_cpu": True}} | training
    config = GRAOConfig(
        folder,
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=8, **(rollout or {})),
        training=TrainingConfig(**training),
        method=method or GRAO(),
    )
    model = model or tiny_model()
    return GRAOTrainer(
        model, vowels, config, ROWS, processing_class=letter_tokenizer(), generator=Shifted(model, shift)
    )


def bent(place: int) -> float:
    return (-1) ** place * 0.1 * place


@pytest.mark.filterwarnings("ignore:step 1. sampler and trainer differ")
def test_gap_divergence_and_largest_ratio_are_means_over_what_is_trained_on(tmp_path: Path):
    trainer = make(tmp_path, bent)
    update = trainer.source.update(0)
    trainer.train()
    (step,) = read_metrics(tmp_path)
    gaps, divergences, largest = [], [], 0.0
    for answer in update.batch.answers:
        if answer.role is Role.SAMPLE:
            shifts = [-bent(place) for place in range(len(answer.ids))]  # log of trainer over sampler
            gaps.append(sum(map(abs, shifts)) / len(shifts))
            divergences.append(sum(math.exp(shift) - 1 - shift for shift in shifts) / len(shifts))
            largest = max(largest, *map(abs, shifts))
    assert step["sampler/gap"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)
    assert step["sampler/kl"] == pytest.approx(sum(divergences) / len(divergences), abs=1e-5)
    assert step["sampler/ratio"] == pytest.approx(math.exp(largest), rel=1e-4)


def test_what_rounding_explains_is_not_warned_of_and_more_is_warned_of_once(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*hardly move")
        make(tmp_path / "level", lambda place: 1e-4, steps=2).train()
    with pytest.warns(UserWarning, match=r"step 1: sampler and trainer differ by 0\.05 nats per token") as caught:
        make(tmp_path / "far", lambda place: 0.05, steps=3).train()
    assert sum("sampler and trainer" in str(each.message) for each in caught) == 1
    assert all(step["sampler/kl"] > 1e-3 for step in read_metrics(tmp_path / "far"))


def test_half_precision_rounds_more_and_dropout_is_another_model():
    class Engine:
        dtype = torch.bfloat16

    single, cpu, plain = tiny_model(), Accelerator(cpu=True), object()
    assert tolerated_gap(single, cpu, plain) == 1e-3
    assert tolerated_gap(single, cpu, Engine()) == tolerated_gap(tiny_model().to(torch.bfloat16), cpu, plain) == 0.1
    single.add_module("dropout", torch.nn.Dropout(0.1))
    dropping = tiny_model()
    dropping.model.layers[0].self_attn.attention_dropout = 0.1
    assert tolerated_gap(single, cpu, plain) == tolerated_gap(dropping, cpu, plain) == math.inf


def test_an_engine_that_says_nothing_is_not_measured(tmp_path: Path):
    make(tmp_path).train()
    (step,) = read_metrics(tmp_path)
    assert not {"sampler/gap", "sampler/kl", "sampler/ratio"}.intersection(step)


def gradient_of(trainer: GRAOTrainer, update, importance=None, method=None) -> dict[str, torch.Tensor]:
    minimised = UpdateLoss(method or GRAO(), importance=importance)
    trainer.model.zero_grad()
    accumulate_gradient(trainer.model, update, Accelerator(cpu=True), trainer.engine, 60, minimised)
    return gradients(trainer.model)


@pytest.mark.parametrize("of", RATIOS)
@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_importance_weights_are_those_of_a_naive_loop(tmp_path: Path, of: str, kind: str):
    trainer = make(tmp_path, bent, tiny_model(kind))
    update, model, cap = trainer.source.update(0), trainer.model, 1.3
    loss, cut = torch.zeros(()), 0
    for group in update.batch.groups:
        for answer in group.answers:
            logps = completion_likelihood(model, [group.item.prompt_ids], [answer.ids]).tokens[0]
            ratios = torch.ones(len(answer.ids))
            if answer.role is Role.SAMPLE:
                apart = [float(logp) - said for logp, said in zip(logps.detach(), answer.logps, strict=True)]
                if of == "sequences":
                    apart = [sum(apart)] * len(apart)
                ratios = torch.tensor([min(math.exp(one), cap) for one in apart])
                cut += sum(math.exp(one) > cap for one in apart)
            loss = loss - answer.weight * (ratios * logps).mean() / update.prompts
    model.zero_grad()
    loss.backward()
    expected = gradients(model)
    assert cut
    found = gradient_of(trainer, update, Importance(cap, RATIOS[of]))
    assert relative_gap(found, expected) < 1e-4
    assert relative_gap(gradient_of(trainer, update), expected) > 1e-3


def test_a_method_with_a_loss_of_its_own_is_weighed_as_a_whole(tmp_path: Path):
    trainer = make(tmp_path, lambda place: -0.1, method=GRPO(kl=0.0))
    update = trainer.source.update(0)
    found = gradient_of(trainer, update, Importance(1.2, RATIOS["sequences"]), GRPO(kl=0.0))
    groups = tuple(
        type(group)(
            group.item,
            tuple(
                type(answer)(**vars(answer) | {"weight": answer.weight * min(math.exp(0.1 * len(answer.ids)), 1.2)})
                for answer in group.answers
            ),
            group.number,
        )
        for group in update.batch.groups
    )
    weighed = type(update)(Batch(groups), update.positions, update.prompts, update.experience)
    assert relative_gap(found, gradient_of(trainer, weighed, method=GRPO(kl=0.0))) < 1e-4


def test_a_cap_that_nothing_reaches_changes_nothing(tmp_path: Path):
    trainer = make(tmp_path, lambda place: 0.0)
    update = trainer.source.update(0)
    found = gradient_of(trainer, update, Importance(2.0, RATIOS["tokens"]))
    assert relative_gap(found, gradient_of(trainer, update)) < 1e-5


@pytest.mark.filterwarnings("ignore:step 1. sampler and trainer differ")
def test_importance_is_logged_and_needs_log_probabilities(tmp_path: Path):
    make(tmp_path / "run", lambda place: -0.5, importance_cap=1.2).train()
    (step,) = read_metrics(tmp_path / "run")
    assert step["importance/mean"] == pytest.approx(1.2)
    assert step["importance/capped"] == 1
    with pytest.raises(InputError, match=r"importance_cap: rollout\.engine returns no log-probabilities"):
        make(tmp_path / "none", importance_cap=1.2).train()
    with pytest.raises(ValueError, match="importance_cap"):
        TrainingConfig(importance_cap=0.5)
