"""Dynamic sampling: which prompts take the places of groups that teach nothing, on one process or several."""

from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from pydantic import TypeAdapter

from grao.config.recipe import Recipe
from grao.errors import InputError
from grao.methods.dapo import DAPO
from grao.methods.grpo import GRPO
from grao.methods.stage import Stage
from grao.records.run import read_metrics
from grao.rewards.mix import MixedRewards, as_mix, concatenated
from grao.rollouts.base import Sampling, draw_key
from grao.studies.forecast import Workload
from grao.training.ahead import check_ahead
from grao.training.experience import ExperienceSource, Update, shuffled
from grao.types import Answer, Encoded, Example
from test_method_runs import PAIRS, make
from test_trainer import vowels, weights_of
from tiny import letter_tokenizer, relative_gap

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
SIZE, B = 12, 4
"""Prompts, and how many of them a step has."""


class Counting:
    """Answers prompt i with two samples of i + 1 tokens, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[int, int]]] = []

    def generate(self, prompts, keys, sampling):
        self.asked.append([(prompt[0], key) for prompt, key in zip(prompts, keys, strict=True)])
        return [(at, [Answer((3,) * (prompt[0] + 1)) for _ in range(2)]) for at, prompt in enumerate(prompts)]

    def sync(self, policy) -> None:
        pass


class Says:
    """Tells the two samples of these prompts apart, and no others."""

    name = "says"

    def __init__(self, telling: set[int]) -> None:
        self.telling = telling

    def relative(self, batch) -> torch.Tensor:
        told = [row["row"] in self.telling for row in batch.columns]
        return torch.tensor([[1.0, -1.0] if each else [-1.0, -1.0] for each in told], dtype=torch.float64)


def source_of(telling: set[int], generator: Counting, method=None, **others) -> ExperienceSource:
    items = [Encoded(Example(f"{i}", "y", None, {"row": i}, i), "", (i,), "y", (3,)) for i in range(SIZE)]
    tokenizer = letter_tokenizer()
    return ExperienceSource(
        items, generator, as_mix(Says(telling)), method or DAPO(), tokenizer, Sampling(2), B, seed=5, **others
    )


def prompts_of(update: Update) -> list[int]:
    return [group.item.prompt_ids[0] for group in update.experience.groups]


def further_prompts(source: ExperienceSource, step: int) -> list[int]:
    """The order in which a step takes further prompts."""
    own = [index for _, index in source.draws(step)]
    return [index for index in shuffled(SIZE, draw_key(5, "further", step)) if index not in own]


def test_silent_groups_are_drawn_anew_with_other_prompts() -> None:
    step, generator = 3, Counting()
    plain = source_of(set(), generator)
    own, further = [index for _, index in plain.draws(step)], further_prompts(plain, step)
    # of the step's own prompts the second and the fourth teach something; of the further ones the second and the third
    source = source_of({own[1], own[3], further[1], further[2]}, generator)
    update = source.update(step)
    assert prompts_of(update) == [*own, further[0], further[1], further[2]]
    assert [[prompt for prompt, _ in round_] for round_ in generator.asked] == [own, further[:2], [further[2]]]
    keys = [key for round_ in generator.asked[1:] for _, key in round_]
    assert keys == [draw_key(5, step, "further", index) for index in further[:3]]
    # the loss is a mean over the tokens of the four groups that fill the step
    filled = [own[1], own[3], further[1], further[2]]
    tokens = sum(2 * (prompt + 1) for prompt in filled)
    rows = list(update.experience.weighted.weights.rows())
    for prompt, row in zip(prompts_of(update), rows, strict=True):
        assert row[0] / B == pytest.approx((prompt + 1) / tokens if prompt in filled else 0.0)
    assert update.prompts == B
    assert {update.experience.groups[group].item.prompt_ids[0] for group, _ in update.positions} == set(filled)


@pytest.mark.parametrize(("attempts", "rounds"), [(0, [4]), (1, [4, 4]), (2, [4, 4, 4]), (9, [4, 4, 4])])
def test_it_ends_with_the_attempts_or_with_the_prompts(attempts: int, rounds: list[int]) -> None:
    generator = Counting()
    update = source_of(set(), generator, DAPO(resample=attempts)).update(0)
    assert [len(round_) for round_ in generator.asked] == rounds
    assert len(set(prompts_of(update))) == sum(rounds)  # none twice, and after three rounds there is none left
    assert update.positions == []


def test_nothing_is_drawn_anew_where_all_teach_something_or_nobody_asks() -> None:
    for telling, method in ((set(range(SIZE)), DAPO()), (set(), GRPO())):
        generator = Counting()
        source_of(telling, generator, method).update(0)
        assert len(generator.asked) == 1


def test_two_processes_draw_what_one_does() -> None:
    step, plain = 2, source_of(set(), Counting())
    own, further = [index for _, index in plain.draws(step)], further_prompts(plain, step)
    telling = {
        own[2],
        further[1],
        further[4],
    }  # three places, two of them of one process, are filled in two more rounds
    alone = source_of(telling, Counting())
    expected = alone.update(step)
    weights = {}
    barrier, parts = Barrier(2, timeout=30), [torch.zeros(0)] * 2
    updates: list[Update | None] = [None, None]
    asked: list[list[tuple[int, int]]] = []

    def run(process: int) -> None:
        def total(values: torch.Tensor) -> list[float]:
            parts[process] = values
            barrier.wait()
            summed = (parts[0] + parts[1]).tolist()
            barrier.wait()
            return summed

        generator = Counting()
        source = source_of(telling, generator, process=process, processes=2, total=total)
        updates[process] = source.update(step)
        asked.extend(generator.asked)

    threads = [Thread(target=run, args=(process,)) for process in range(2)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    for update in updates:
        rows = update.experience.weighted.weights.rows()
        weights |= dict(zip(prompts_of(update), map(tuple, rows), strict=True))
    rows = expected.experience.weighted.weights.rows()
    assert weights == dict(zip(prompts_of(expected), map(tuple, rows), strict=True))
    assert sorted(pair for round_ in asked for pair in round_) == sorted(
        pair for round_ in alone.generator.asked for pair in round_
    )


def some(prompts, completions, **_):
    """Half of the prompts teach nothing."""
    return [0.0 if len(prompt) % 2 else value for prompt, value in zip(prompts, vowels(completions), strict=True)]


def test_a_run_counts_what_it_drew_and_resumes_bit_by_bit(tmp_path: Path) -> None:
    settings = {"reward": some, "save_every": 1, "prompts_per_step": 2, "steps": 3}
    whole = make(tmp_path / "whole", DAPO(), **settings)
    whole.train()
    again = make(tmp_path / "again", DAPO(), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoints" / "checkpoint-1"))
    assert relative_gap(weights_of(again.model), weights_of(whole.model)) == 0
    (first, *lines), same = (read_metrics(tmp_path / run) for run in ("whole", "again"))
    for line, other in zip(lines, same, strict=True):
        assert line["groups/drawn"] == other["groups/drawn"]
        assert 2 <= line["groups/drawn"] <= len(PAIRS)
        silent = line["groups/silent"]
        assert silent == round(line["groups/no_signal"] * line["groups/drawn"])
        assert line["groups/drawn"] - silent <= 2
    assert any(line["groups/drawn"] > 2 for line in (first, *lines))


def test_samples_cannot_be_drawn_ahead_of_rewards_that_decide_what_is_drawn() -> None:
    with pytest.raises(InputError, match=r"^rollout.ahead: dapo draws more prompts after it has the rewards; leave"):
        check_ahead(1, [Stage(DAPO())], early=True)
    check_ahead(1, [Stage(DAPO(resample=0))], early=True)


@pytest.mark.parametrize(("attempts", "groups"), [(0, B), (1, 2 * B), (9, SIZE)])
def test_the_plan_counts_what_may_be_drawn_at_most(attempts: int, groups: int) -> None:
    sections = {"model": {"path": "m"}, "data": {"path": "d"}, "rewards": [{"function": "a.py:b"}], "output": "o"}
    sections |= {"training": {"prompts_per_step": B}, "rollout": {"group_size": 2}}
    recipe = TypeAdapter(Recipe).validate_python({**sections, "method": {"name": "dapo", "resample": attempts}})
    work = Workload.of(recipe, source_of(set(), Counting()).items, max_steps=[3], held_out=0)
    assert work.samples == 3 * groups * 2
    assert f"{'at most ' if attempts else ''}{work.samples} completions" in next(work.lines(recipe))


def test_what_was_said_in_two_batches_is_said_in_one() -> None:
    def said(value: float) -> MixedRewards:
        part = torch.full((1, 2), value)
        return MixedRewards(part, {"judge": part}, {"judge": {"requests": 2, "flip": torch.tensor([value])}})

    both = concatenated([said(1.0), said(0.0)])
    assert both.total.tolist() == both.parts["judge"].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert both.tallies["judge"]["requests"] == 4
    assert both.tallies["judge"]["flip"].tolist() == [1.0, 0.0]
