"""What reward functions that were written for TRL do, take, return and break."""

import dataclasses
import json
import sys
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerState

from grao import DataConfig, GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.cli.main import main
from grao.data.load import load_examples
from grao.records.run import read_metrics
from grao.rewards.base import RewardBatch
from grao.rewards.functions import FunctionReward
from grao.training.watch import Watch
from grao.types import Example
from tiny import letter_tokenizer, saved_model, tiny_model

ROWS = [
    {"prompt": f"say {word}", "reference": f"{word} it is", "gold": word} for word in ("one", "two", "three", "four")
]
CHAT = ({"role": "user", "content": "hi"},)
pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")


def length(completions, **_):
    return [float(len(text)) for text in completions]


def batch(prompt="p", **columns) -> RewardBatch:
    return RewardBatch([prompt] * 2, [["a", "bb", "ccc"]] * 2, ["yy"] * 2, [columns] * 2, [[(1,)] * 3] * 2, [(1,)] * 2)


def trainer(folder: Path, reward, rows=ROWS, steps: int = 2, **more) -> GRAOTrainer:
    config = GRAOConfig(
        output_dir=folder,
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=6),
        training=TrainingConfig(steps=steps, prompts_per_step=2, learning_rate=1e-3, trainer={"use_cpu": True}),
    )
    return GRAOTrainer(tiny_model(), reward, config, rows, processing_class=letter_tokenizer(), **more)


# --- names of ours and of the data --------------------------------------------------------------------------------

GIVEN = ("prompts", "completions", "completion_ids", "reference", "trainer_state", "log_metric", "log_extra")


@pytest.mark.parametrize("name", GIVEN)
def test_a_column_that_hides_what_a_function_is_given_is_refused_before_any_work(tmp_path: Path, name: str):
    def takes_it(completions, **columns):
        raise AssertionError("called")

    rows = [Example(row["prompt"], row["reference"], None, {name: 42}, n) for n, row in enumerate(ROWS, 1)]
    wanted = rf"reward takes_it: the data have a column '{name}', .* data\.columns: \{{{name}: data_{name}\}}"
    with pytest.raises(InputError, match=wanted):
        trainer(tmp_path, takes_it, rows)
    with pytest.raises(InputError, match=wanted):
        trainer(tmp_path, takes_it, ROWS, eval_dataset=rows)
    with pytest.raises(InputError, match=wanted):
        trainer(tmp_path, Silent(), rows, watch=Watch(takes_it))
    with pytest.raises(InputError, match=wanted):
        FunctionReward(takes_it).relative(batch(**{name: 42}))
    assert not (tmp_path / "metrics.jsonl").exists()


class Silent:
    """A reward that says R itself."""

    name = "silent"

    def relative(self, batch):
        return torch.zeros(2, 3).double()


def length_alone(completions):
    return [float(len(text)) for text in completions]


def test_columns_that_a_function_does_not_take_do_not_matter():
    assert FunctionReward(length_alone).relative(batch(reference="x", log_extra=1)).tolist() == [[-1, 0, 1]] * 2


@pytest.mark.parametrize("row", [{"prompt": "p", "reference": "y", "prompts": "x"}, {"chosen": "c", "rejected": "r"}])
def test_further_columns_get_other_names(tmp_path: Path, row: dict):
    hh = {key: f"\n\nHuman: a\n\nAssistant: {key}" for key in row} | {"prompts": "x"}
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(hh if "chosen" in row else row) + "\n")
    how = {"format": "hh"} if "chosen" in row else {}
    config = DataConfig(path=str(file), columns={"prompts": "questions"}, **how)
    assert load_examples(config).examples[0].columns == {"questions": "x"}
    missing = dataclasses.replace(config, columns={"promts": "questions"})
    with pytest.raises(InputError, match=r"data\.columns: .* no other column 'promts'; its .* columns are 'prompts'"):
        load_examples(missing)


def test_no_two_columns_get_one_name(tmp_path: Path):
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps({"prompt": "p", "reference": "y", "a": 1, "b": 2}) + "\n")
    for columns in ({"a": "b"}, {"a": "c", "b": "c"}):
        with pytest.raises(InputError, match=r"data\.columns: a: .* would have two columns"):
            load_examples(DataConfig(path=str(file), columns=columns))
    swapped = load_examples(DataConfig(path=str(file), columns={"a": "b", "b": "a"}))
    assert swapped.examples[0].columns == {"b": 1, "a": 2}


# --- what TRL's trainer gives -------------------------------------------------------------------------------------


def test_a_function_sees_how_far_the_training_is_and_logs(tmp_path: Path):
    seen = []

    def reward(prompts, completions, completion_ids, gold, trainer_state, log_metric, log_extra, **kwargs):
        assert len(prompts) == len(completions) == len(completion_ids) == len(gold) == 10
        seen.append((trainer_state.global_step, trainer_state.max_steps))
        log_extra("gold", gold)
        for text in completions:
            log_metric("vowels", torch.tensor(sum(letter in "aeiou" for letter in text)))
        log_metric("progress", trainer_state.global_step / trainer_state.max_steps)
        return length(completions)

    made = trainer(
        tmp_path,
        reward,
        watch=Watch(lambda completions, log_metric: [log_metric("on", 1)] * 0 + length(completions), every=1),
    )
    made.train()
    assert seen == [(0, 2), (1, 2)]
    steps = read_metrics(tmp_path)
    assert [step["progress"] for step in steps] == [0, 0.5]
    assert [step["on"] for step in steps] == [1, 1]
    assert all(0 <= step["vowels"] < 7 for step in steps)


def test_outside_of_training_a_function_is_given_a_state_too():
    def reward(completions, trainer_state, log_metric, log_extra):
        log_metric("x", 1)
        log_extra("x", completions)
        return [trainer_state.global_step / trainer_state.max_steps for _ in completions]

    assert isinstance(FunctionReward(reward).surroundings["trainer_state"], TrainerState)
    assert FunctionReward(reward).relative(batch()).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("name", ["loss", "reward/mean", "step", "seconds/update", "learning_rate"])
def test_a_logged_metric_never_replaces_ours(tmp_path: Path, name: str):
    def reward(completions, log_metric):
        log_metric(name, 1.0)
        return length(completions)

    with pytest.raises(InputError, match=rf"log_metric: '{name}' is a built-in metric"):
        trainer(tmp_path, reward).train()


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda completions: [len(text.split()) for text in completions],
        lambda completions: [float(text) for text in completions],
        lambda completions, **kwargs: [completion["content"] for completion in completions],
        lambda completions: [len({text}) for text in completions],
        lambda completions: [text.lower() == "a" for text in completions],
        lambda completions: ["a" + text for text in completions],
    ],
)
def test_a_function_that_takes_messages_for_text_is_told(function):
    with pytest.raises(InputError, match=r"raised \w+Error: .*; completions are lists of messages, like the prompts"):
        FunctionReward(function, name="mine").relative(batch(CHAT))


def test_a_function_that_takes_text_for_messages_is_told():
    with pytest.raises(InputError, match="completions are plain texts, like the prompts, not messages"):
        FunctionReward(lambda completions: [len(c[0]["content"]) for c in completions], name="m").relative(batch())


def test_no_word_about_messages_where_they_are_not_the_cause():
    with pytest.raises(InputError) as caught:
        FunctionReward(lambda completions: [1 / 0], name="mine").relative(batch(CHAT))
    assert "messages" not in str(caught.value)


# --- what functions return ----------------------------------------------------------------------------------------

RETURNED = {
    "array": np.array,
    "float32 array": lambda n: np.array(n, dtype=np.float32),
    "column": lambda n: np.array(n)[:, None],
    "row": lambda n: torch.tensor(n, dtype=torch.float32)[None],
    "bfloat16 with gradient": lambda n: torch.tensor(n, dtype=torch.bfloat16, requires_grad=True)[:, None],
    "whole numbers": lambda n: torch.tensor(n).long(),
    "single tensors": lambda n: [torch.tensor([x], requires_grad=True) for x in n],
    "single arrays": lambda n: [np.array([x]) for x in n],
    "decimals": lambda n: [Decimal(x) for x in n],
    "numbers as text": lambda n: [f" {x} " for x in n],
    "generator": lambda n: (x for x in n),
    "tuple": tuple,
    "values of a dictionary": lambda n: dict(enumerate(n)).values(),
    "objects": lambda n: np.array(n, dtype=object),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_numbers_come_in_many_forms(kind: str):
    def reward(completions):
        return RETURNED[kind](length(completions))

    assert FunctionReward(reward).relative(batch()).tolist() == [[-1, 0, 1]] * 2


def test_truth_values_and_none_are_rewards():
    values = [True, False, None, np.bool_(True)] * 2
    found = FunctionReward(lambda completions: values).relative(batch())[0]
    assert found[:2].tolist() == [0, -1]
    assert found[2].isnan()
    lacking = np.array([1.0, None, 3.0, 2.0] * 2, dtype=object)
    assert FunctionReward(lambda completions: lacking).relative(batch())[0, 1].isnan()


async def unfinished(completions):
    for text in completions:
        yield float(len(text))


def broken_generator(completions):
    yield 1.0
    raise RuntimeError("half\nway")


def leaves(completions):
    sys.exit("no key")


async def leaves_later(completions):
    sys.exit(3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: dict.fromkeys(range(8), 1.0), "must return a list of 8 numbers, not dict"),
        (lambda completions: "12345678", "must return a list of 8 numbers, not str"),
        (lambda completions: set(range(8)), "must return a list of 8 numbers, not set"),
        (unfinished, "must return a list of 8 numbers, not async_generator"),
        (lambda completions: torch.tensor(1.0), "must return a list of 8 numbers, not float"),
        (lambda completions: np.ones((8, 2)), "returned 16 values for 8 answers"),
        (lambda completions: [[1.0, 2.0]] * 8, r"returned \[1.0, 2.0\] for answer 1; return a number or None"),
        (lambda completions: [torch.ones(2)] * 8, "for answer 1; return a number or None"),
        (lambda completions: [{"score": 1}] * 8, "for answer 1; return a number or None"),
        (lambda completions: [10**400] * 8, "for answer 1; return a number or None"),
        (lambda completions: [1j] * 8, "for answer 1; return a number or None"),
        (broken_generator, "raised RuntimeError: half way"),
        (leaves, "raised SystemExit: no key"),
        (leaves_later, r"raised RuntimeError: sys.exit\(3\)"),
    ],
)
def test_what_is_no_list_of_numbers_is_one_line(function, message: str):
    for _ in range(2):  # the loop of asynchronous functions lives on
        with pytest.raises(InputError, match=message) as caught:
            FunctionReward(function, name="mine").relative(batch())
        assert "\n" not in str(caught.value)


def test_a_function_may_change_what_it_is_given():
    rows = batch(CHAT, tags=["a", "b"], facts={"deep": [1]})

    def greedy(prompts, completions, tags, facts, completion_ids):
        size = len(completions)
        for each in (*tags, *(fact["deep"] for fact in facts), *completion_ids, *prompts, *completions):
            assert len(each) == len(each) > 0
            each.clear()
        for given in (prompts, completions, tags, completion_ids):
            given.clear()
        return [1.0] * size

    for _ in range(2):
        assert not FunctionReward(greedy).relative(rows).any()
    assert rows.columns[0] == {"tags": ["a", "b"], "facts": {"deep": [1]}}


# --- a reward that says nothing -----------------------------------------------------------------------------------


def scaled(factor, completions, **_):
    return [factor * x for x in length(completions)]


@pytest.mark.parametrize(
    ("reward", "names"),
    [
        (lambda completions: [1.0] * len(completions), "<lambda>"),
        ([partial(scaled, 0.0), lambda completions: [0.1] * len(completions)], r"scaled \+ <lambda>"),
        (lambda prompts, completions: [len(prompt) for prompt in prompts], "<lambda>"),
        (lambda completions, gold: [len(word) / 3 for word in gold], "<lambda>"),
        (lambda completions: np.ones(len(completions)), "<lambda>"),
    ],
)
def test_a_reward_that_says_the_same_of_everything_is_said_once(tmp_path: Path, reward, names: str):
    with pytest.warns(UserWarning, match=rf"the reward \({names}\) scores every answer of step 1 the same") as seen:
        trainer(tmp_path, reward).train()
    assert sum("scores every answer" in str(warning.message) for warning in seen) == 1


def test_a_run_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture):
    model = saved_model(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "flat.py").write_text("def flat(completions, **columns): return [0.5] * len(completions)\n")
    options = {
        "model.path": model, "data.path": tmp_path / "data.jsonl", "data.held_out": 1,
        "rewards.0.function": f"{tmp_path}/flat.py:flat",
        "rollout.max_new_tokens": 4, "rollout.group_size": 2, "training.steps": 1, "training.prompts_per_step": 2,
        "training.learning_rate": 1e-3, "output": tmp_path / "run",
    }  # fmt: skip
    with pytest.warns(UserWarning, match="nothing can be learned"):
        assert main(["train", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]) == 0
