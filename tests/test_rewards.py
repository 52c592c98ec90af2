import asyncio
import dataclasses
import json
import math
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from grao.errors import InputError
from grao.rewards.base import RewardBatch, ScoredReward, difference, sign_relative
from grao.rewards.functions import FunctionReward, load_function
from grao.rewards.mix import Mix, WeightedReward, as_mix, check_any_scored

BATCH = RewardBatch(
    prompts=["p", "q"],
    completions=[["a", "bb", "ccc"], ["dddd", "", "ff"]],
    references=["yy", "y"],
    columns=[{"bonus": 10}, {"bonus": 20}],
    completion_ids=[[(1,), (2, 2), (3, 3, 3)], [(4,), (), (5, 5)]],
    reference_ids=[(6, 6), (7,)],
)


def length(completions, **_):
    return [len(text) for text in completions]


class Given:
    """A reward that was decided elsewhere."""

    def __init__(self, name: str, values: list[list[float]]) -> None:
        self.name, self.values = name, values

    def relative(self, batch: RewardBatch) -> torch.Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


def test_a_scalar_reward_is_taken_relative_to_the_reference():
    assert FunctionReward(length).relative(BATCH).tolist() == [[-1, 0, 1], [3, -1, 1]]
    assert FunctionReward(length, sign_relative()).relative(BATCH).tolist() == [[-1, 0, 1], [1, -1, 1]]
    assert FunctionReward(length, sign_relative(1.0)).relative(BATCH).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_columns_arrive_beside_their_answer():
    seen = {}

    def spy(prompts, completions, bonus, **rest):
        seen.update(prompts=prompts, completions=completions, bonus=bonus, rest=rest)
        return [0.0] * len(completions)

    FunctionReward(spy).relative(BATCH)
    assert seen["prompts"] == ["p"] * 4 + ["q"] * 4
    assert seen["completions"] == ["a", "bb", "ccc", "yy", "dddd", "", "ff", "y"]
    assert seen["bonus"] == [10] * 4 + [20] * 4
    assert {name: seen["rest"].pop(name) for name in ("reference", "completion_ids")} == {
        "reference": ["yy"] * 4 + ["y"] * 4,
        "completion_ids": [[1], [2, 2], [3, 3, 3], [6, 6], [4], [], [5, 5], [7]],
    }
    assert seen["rest"].keys() == {"trainer_state", "log_metric", "log_extra"}


def test_a_source_that_scores_single_answers_is_taken_relative_to_the_reference():
    class Bonus(ScoredReward):
        def scores(self, prompts, answers, columns):
            rows = zip(prompts, answers, columns["bonus"], columns["completion_ids"], strict=True)
            return torch.tensor([bonus * len(text) + len(ids) + (prompt == "q") for prompt, text, bonus, ids in rows])

    reward = Bonus("mine", difference)
    scored = reward.scored(BATCH)
    assert scored.completions.tolist() == [[11, 22, 33], [82, 1, 43]]
    assert scored.references.tolist() == [22, 22]
    assert reward.relative(BATCH).tolist() == [[-11, 0, 11], [60, -21, 21]]
    assert as_mix(reward).rewards == [reward]


def test_a_column_called_reference_does_not_hide_the_reference():
    batch = dataclasses.replace(BATCH, columns=[{"reference": 42}, {}])
    with pytest.raises(InputError, match="the data have a column 'reference'"):
        FunctionReward(lambda completions, reference: [0.0] * len(completions)).relative(batch)


def test_a_function_gets_only_what_it_takes():
    assert FunctionReward(lambda completions: [1.0] * len(completions)).relative(BATCH).tolist() == [[0.0] * 3] * 2


def test_chat_prompts_get_completions_as_messages():
    chat = {"role": "user", "content": "hi"}
    batch = RewardBatch([(MappingProxyType(chat),)], [["x", "y"]], ["z"], [{}], [[(1,), (2,)]], [(3,)])

    def content(prompts, completions):
        assert prompts == [[chat]] * 3
        assert json.loads(json.dumps(prompts[0] + completions[0])) == [chat, {"role": "assistant", "content": "x"}]
        return [len(completion[0]["content"]) + (completion[0]["role"] == "assistant") for completion in completions]

    assert FunctionReward(content).relative(batch).tolist() == [[0.0, 0.0]]


def test_token_ids_are_handed_to_rewards_that_count_them():
    batch = RewardBatch(["p"], [["x", "y"]], ["z"], [{}], [[(1, 2), (3,)]], [(4, 5, 6)])
    reward = FunctionReward(lambda completion_ids: [len(ids) for ids in completion_ids])
    assert reward.relative(batch).tolist() == [[-1, -2]]


def test_asynchronous_functions_also_inside_a_running_loop():
    async def slow(completions):
        await asyncio.sleep(0)
        return [len(text) for text in completions]

    reward = FunctionReward(slow)
    assert reward.relative(BATCH).tolist() == [[-1, 0, 1], [3, -1, 1]]

    async def notebook():
        return reward.relative(BATCH)

    assert asyncio.run(notebook()).tolist() == [[-1, 0, 1], [3, -1, 1]]


def test_what_an_asynchronous_function_keeps_outlives_the_call():
    one_at_a_time = asyncio.Semaphore(1)

    async def limited(completions):
        async def score(text):
            async with one_at_a_time:
                await asyncio.sleep(0)
                return len(text)

        return await asyncio.gather(*map(score, completions))

    reward = FunctionReward(limited)

    async def notebook():
        return reward.relative(BATCH)

    assert reward.relative(BATCH).tolist() == [[-1, 0, 1], [3, -1, 1]]
    assert reward.relative(BATCH).tolist() == [[-1, 0, 1], [3, -1, 1]]
    assert asyncio.run(notebook()).tolist() == [[-1, 0, 1], [3, -1, 1]]


def test_none_nan_and_infinity_are_missing_and_a_missing_reference_takes_its_group_along():
    values = [1.0, None, math.nan, 0.0, math.inf, 2.0, 3.0, None]
    found = FunctionReward(lambda completions: values).relative(BATCH)
    assert found[0, 0] == 1.0
    assert found[0, 1:].isnan().all()
    assert found[1].isnan().all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: [1.0], "returned 1 values for 8 answers"),
        (lambda completions: 3, "must return a list of 8 numbers, not int"),
        (lambda completions: ["good"] * 8, "returned 'good' for answer 1"),
        (lambda completions: 1 / 0, r"test_rewards.py, line \d+ raised ZeroDivisionError"),
        (lambda completions, missing: [0.0] * 8, "'missing'; available are reference, bonus, completion_ids, pro"),
    ],
)
def test_a_broken_reward_is_one_line(function, message: str):
    with pytest.raises(InputError, match=message) as caught:
        FunctionReward(function, name="mine").relative(BATCH)
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mix_is_a_weighted_sum():
    one, two = Given("one", [[1.0, -1.0]]), Given("two", [[0.0, 4.0]])
    mixed = Mix([one, WeightedReward(two, 0.5)])(BATCH)
    assert mixed.total.tolist() == [[1.0, 1.0]]
    assert mixed.parts["two"].tolist() == [[0.0, 4.0]]


def test_a_mix_carries_the_scores_before_the_comparison():
    lengths = FunctionReward(length, sign_relative(), "lengths")
    mixed = Mix([WeightedReward(lengths, 0.5), Given("verdicts", [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])])(BATCH)
    assert mixed.scores.keys() == {"lengths"}
    scored = mixed.scores["lengths"]
    assert scored.completions.tolist() == [[len(text) for text in group] for group in BATCH.completions]
    assert scored.references.tolist() == [len(text) for text in BATCH.references]


def test_in_a_mix_missing_stays_missing_unless_the_reward_does_not_apply_to_the_prompt():
    nan = math.nan
    one = Given("one", [[1.0, 2.0], [1.0, 2.0], [nan, nan]])
    two = Given("two", [[nan, 5.0], [nan, nan], [nan, nan]])
    total = Mix([one, two])(BATCH).total
    assert total[0].isnan().tolist() == [True, False]
    assert total[0, 1] == 7.0
    assert total[1].tolist() == [1.0, 2.0]
    assert total[2].isnan().all()


def test_a_reward_that_applies_to_no_prompt_of_the_batch_is_left_out_of_it():
    mixed = as_mix([length, lambda completions: [None] * len(completions)])(BATCH)
    assert mixed.total.tolist() == [[-1, 0, 1], [3, -1, 1]]
    assert mixed.parts["<lambda>"].isnan().all()


def test_rewards_that_say_nothing_at_all_are_named():
    nan = math.nan
    silent = FunctionReward(lambda completions: [None] * 8, name="mine")
    with pytest.raises(InputError, match=r"^reward mine returned None or NaN for all 6 answers"):
        check_any_scored([Mix([silent])(BATCH)])
    rewards = [Given("one", [[1.0, nan]]), Given("two", [[nan, 1.0]]), Given("three", [[1.0, 1.0]])]
    with pytest.raises(InputError, match=r"^reward one and reward two returned None or NaN for all 2 answers"):
        check_any_scored([Mix(rewards)(BATCH)])
    with pytest.raises(InputError, match="for all 12 answers"):
        check_any_scored([Mix([silent])(BATCH)] * 2)
    check_any_scored([Mix([silent])(BATCH), as_mix(length)(BATCH)])  # one group of several
    assert Mix([Given("one", [[nan, nan], [nan, 0.0]])])(BATCH).total[1, 1] == 0.0


def test_as_mix_takes_functions_rewards_lists_and_mixes():
    mix = as_mix([length, Given("given", [[1.0] * 3] * 2)])
    assert [reward.name for reward in mix.rewards] == ["length", "given"]
    assert as_mix(mix) is mix
    assert as_mix(length)(BATCH).total.tolist() == [[-1, 0, 1], [3, -1, 1]]


def test_a_mix_needs_rewards_with_different_names():
    with pytest.raises(InputError, match=r"two have the name 'length'; rename one: FunctionReward\(f, name="):
        as_mix([length, length])
    with pytest.raises(InputError, match="at least one is required"):
        as_mix([])


def test_functions_are_found_in_files_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_reward.py").write_text("def good(completions):\n    return [2.0] * len(completions)\n")
    assert load_function(f"{tmp_path}/my_reward.py:good")(["x"]) == [2.0]
    monkeypatch.chdir(tmp_path)
    assert load_function("my_reward.py:good")(["x"]) == [2.0]
    assert load_function("my_reward:good")(["x"]) == [2.0]
    assert load_function("math:sqrt")(4) == 2


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_colon", "write package.module:function"),
        ("nowhere.py:f", "there is no file 'nowhere.py'"),
        ("nowhere_at_all:f", "ModuleNotFoundError"),
        ("math:nothing", "has no function 'nothing'"),
        ("math:pi", "has no function 'pi'"),
    ],
)
def test_a_function_that_is_not_there_is_named(reference: str, message: str):
    with pytest.raises(InputError, match=message):
        load_function(reference)


def test_difference_keeps_what_is_missing():
    found = difference(torch.tensor([[1.0, math.nan]]), torch.tensor([[0.5]]))
    assert found[0, 0] == 0.5
    assert found[0, 1].isnan()
