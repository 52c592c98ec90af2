"""Metrics from verdicts: hand-counted examples, missing verdicts, and evaluation.json as a function of items.jsonl."""

import dataclasses
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grao.errors import InputError
from grao.evaluation import metrics
from grao.evaluation.inference import half_tie_share, holm, net_share, proportion, relative_gain
from grao.evaluation.metrics import evaluation_from_items, gain
from grao.records.run import Item, RecordedAnswer, Scores, read_evaluation, read_items, write_evaluation

BEFORE = [1.0, -1.0, 0.0, -1.0, None, 1.0]
AFTER = [1.0, 1.0, 0.0, None, 1.0, -0.5]
AFTER_ON_BEFORE = [0.0, 1.0, None, 1.0, 0.3, -1.0]


def scores(rewards, tokens, truncated, confidence: float = 0.95, text: str = "a") -> Scores:
    """Of answers to different prompts."""
    rows = zip(rewards, tokens, truncated, strict=True)
    answers = [RecordedAnswer(text, count, cut, reward, [1]) for reward, count, cut in rows]
    return metrics.scores(answers, ["reference"] * len(answers), range(len(answers)), confidence)


def items() -> list[Item]:
    return [
        Item(
            id=f"p{i}",
            prompt=f"prompt {i}",
            reference="reference",
            answers={
                "before": RecordedAnswer("b", tokens=10 + i, truncated=i == 0, reward=before, token_ids=[1]),
                "after": RecordedAnswer("a", tokens=20, truncated=False, reward=after, token_ids=[1]),
            },
            comparisons={"after|before": verdict},
        )
        for i, (before, after, verdict) in enumerate(zip(BEFORE, AFTER, AFTER_ON_BEFORE, strict=True))
    ]


def test_scores_of_a_counted_example() -> None:
    # AFTER: 3 wins, 1 tie, 1 loss, 1 missing.
    found = scores(AFTER, tokens=[10, 20, 30, 40, 50, 60], truncated=[False] * 5 + [True], confidence=0.9)
    assert found.ras == proportion(3, 5, 0.9)
    assert found.ras.value == 0.6
    assert found.ras_win_or_tie == proportion(4, 5, 0.9)
    assert found.ras_half_tie == half_tie_share(3, 1, 5, 0.9)
    assert found.ras_half_tie.value == 0.7
    assert found.missing == 1
    assert found.mean_reward == pytest.approx((1 + 1 + 0 + 1 - 0.5) / 5)
    assert found.mean_tokens == 35
    assert found.truncated == pytest.approx(1 / 6)


def test_gain_of_a_counted_example() -> None:
    # Comparisons: 3 wins, 1 tie, 1 loss, 1 missing. Both have a verdict on prompts 0, 1, 2, 5: both win on the first,
    # only `after` on the second, neither on the third, only `before` on the last.
    found = gain("after", "before", AFTER_ON_BEFORE, AFTER, BEFORE)
    assert (found.model, found.baseline, found.missing) == ("after", "before", 1)
    assert found.nag == net_share(3, 1, 5)
    assert found.nag.value == pytest.approx(0.4)
    assert found.nag_win == proportion(3, 5)
    assert found.relative_ras == relative_gain(1, 1, 1, 1)


def test_relative_gain_counts_wins_over_the_reference() -> None:
    # 3 wins against 2 on the same four prompts: a relative gain of one half, whatever the direct comparison says.
    found = gain("after", "before", [-1.0] * 4, [1.0, 2.0, 0.1, 0.0], [1.0, 1.0, 0.0, -1.0])
    assert found.relative_ras is not None
    assert found.relative_ras.value == pytest.approx(0.5)
    assert found.relative_ras.n == 4
    assert found.nag.value == -1


@pytest.mark.parametrize(
    "baseline", [pytest.param([0.0, -1.0], id="never wins"), pytest.param([None, None], id="no common verdict")]
)
def test_relative_gain_is_none_where_it_is_undefined(baseline: list[float | None]) -> None:
    assert gain("after", "before", [1.0, 1.0], [1.0, 1.0], baseline).relative_ras is None


@pytest.mark.parametrize("unusable", [None, math.nan, math.inf, -math.inf])
def test_a_missing_verdict_is_counted_and_never_a_tie(unusable: float | None) -> None:
    found = scores([1.0, unusable, -1.0], [1, 1, 1], [False] * 3)
    assert (found.missing, found.ras.n) == (1, 2)
    assert found.ras_half_tie.value == 0.5
    assert found.ras_win_or_tie.value == 0.5
    assert found.mean_reward == 0


def test_swapping_model_and_baseline_negates_the_net_gain() -> None:
    there = gain("a", "b", AFTER_ON_BEFORE, AFTER, BEFORE)
    back = gain("b", "a", [None if r is None else -r for r in AFTER_ON_BEFORE], BEFORE, AFTER)
    assert back.nag.value == -there.nag.value
    assert (back.nag.low, back.nag.high) == pytest.approx((-there.nag.high, -there.nag.low))


def test_evaluation_is_a_function_of_the_items() -> None:
    found = evaluation_from_items(items(), confidence=0.9)
    assert (found.confidence, found.prompts) == (0.9, 6)
    assert list(found.models) == ["before", "after"]
    before, after = (
        scores(BEFORE, range(10, 16), [True] + [False] * 5, 0.9, "b"),
        scores(AFTER, [20] * 6, [False] * 6, 0.9),
    )
    gained = gain("after", "before", AFTER_ON_BEFORE, AFTER, BEFORE, 0.9)
    assert found.models == {"before": before, "after": after}
    assert found.gains == [gained]
    assert found.corrected == holm({"before": before.p, "after": after.p, "after|before": gained.p})


def test_files_reproduce_each_other(tmp_path: Path) -> None:
    evaluation = evaluation_from_items(items())
    write_evaluation(tmp_path, evaluation, items())
    assert evaluation_from_items(read_items(tmp_path), evaluation.confidence) == read_evaluation(tmp_path)


def test_one_model_needs_no_comparison() -> None:
    alone = [dataclasses.replace(item, answers={"before": item.answers["before"]}, comparisons={}) for item in items()]
    found = evaluation_from_items(alone)
    assert list(found.models) == ["before"]
    assert found.gains == []


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    rewards=st.lists(st.sampled_from([-1.0, 0.0, 1.0, None]), min_size=1, max_size=60).filter(
        lambda rewards: any(reward is not None for reward in rewards)
    ),
    random=st.randoms(use_true_random=False),
)
def test_shares_are_ordered_and_the_order_of_prompts_is_irrelevant(rewards: list[float | None], random: Random) -> None:
    count = len(rewards)
    found = scores(rewards, [1] * count, [False] * count)
    assert found.ras.value <= found.ras_half_tie.value <= found.ras_win_or_tie.value
    assert found.ras_half_tie.value == pytest.approx((found.ras.value + found.ras_win_or_tie.value) / 2)
    assert found.ras.n + found.missing == count
    shuffled = list(rewards)
    random.shuffle(shuffled)
    assert scores(shuffled, [1] * count, [False] * count) == found


def without_verdicts(name: str) -> list[Item]:
    return [
        dataclasses.replace(item, answers={**item.answers, name: dataclasses.replace(item.answers[name], reward=None)})
        for item in items()
    ]


def changed(row: int, **fields: object) -> list[Item]:
    """The items with some fields of one row replaced."""
    return [dataclasses.replace(item, **fields) if i == row else item for i, item in enumerate(items())]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], "contains no prompts"),
        (without_verdicts("after"), "all 6 verdicts on 'after' against the references are missing"),
        (
            [dataclasses.replace(item, comparisons={"after|before": None}) for item in items()],
            "all 6 comparisons of 'after' with 'before' are missing",
        ),
        (
            [dataclasses.replace(item, comparisons={"after|middle": 1.0}) for item in items()],
            "'after|middle' is not 'model|baseline' with models among: before, after",
        ),
        (changed(2, comparisons={}), "row 3 (id 'p2'): comparisons: found none, but row 1 has after|before"),
        (
            changed(4, answers={"after": RecordedAnswer("a", 1, False, 1.0, [1])}),
            "row 5 (id 'p4'): answers: found after, but row 1 has before, after",
        ),
    ],
)
def test_unusable_items_are_one_clear_line(broken: list[Item], message: str) -> None:
    with pytest.raises(InputError) as raised:
        evaluation_from_items(broken)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
