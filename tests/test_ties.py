"""Rewards that are equal but for rounding are ties everywhere; those that are not, never."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grao import core
from grao.core import ADVANTAGES, group_advantages, sequence_weights
from grao.errors import InputError
from grao.evaluation.audit_figures import policy_figures
from grao.evaluation.metrics import pair_scores, win_share
from grao.methods.base import METHODS, StepGroups
from grao.records.audit import GroupItem
from grao.rewards.base import RewardBatch, ScoredReward, difference, sign_relative
from grao.rewards.functions import FunctionReward
from grao.rewards.judge.base import Pair
from grao.rewards.judge.local import LocalJudge
from grao.rewards.judge.wording import Template
from grao.rewards.mix import Mix, WeightedReward, as_mix
from grao.training.watch import _beaten
from grao.types import PerAnswer
from tiny import tiny_model

NAN = math.nan
_METHODS = {name: method() for name, method in METHODS.items()}
SAMPLED = [
    "grao",
    "grpo",
    "luffy",
    "chord-mu",
    "chord-phi",
    "hpt",
    "srft",
    "ppo",
    "rloo",
    "dr-grpo",
    "dapo",
    "gspo",
    "gft",
    "gac",
]


def batch_of(groups: int, samples: int) -> RewardBatch:
    """Texts that say nothing: what a reward says of them is decided beforehand."""
    return RewardBatch(
        ["p"] * groups,
        [["o"] * samples] * groups,
        ["y"] * groups,
        [{}] * groups,
        [[(1,)] * samples] * groups,
        [(1,)] * groups,
    )


def table(*groups: list[float], kind=list) -> FunctionReward:
    """A function that scores B groups, the reference last in each."""
    flat = [score for group in groups for score in group]
    return FunctionReward(lambda completions: kind(flat), name="table")


def told(reward, *groups: list[float], **kind) -> torch.Tensor:
    """R of B groups by a function with these scores."""
    function = reward(table(*groups, **kind)) if reward else table(*groups, **kind)
    return as_mix(function)(batch_of(len(groups), len(groups[0]) - 1)).total


def steps_of(rewards: torch.Tensor) -> StepGroups:
    lengths = PerAnswer.of(torch.full_like(rewards, 5.0), 5.0, 0.0)
    return StepGroups(rewards, lengths, 5.0, step=0, mean_samples=5.0 * rewards.shape[1], limit=8)


def signals(name: str, rewards: torch.Tensor) -> torch.Tensor:
    """What a method makes of the samples' rewards: the weights, times the advantages where it has them apart."""
    weighted = _METHODS[name].weigh(steps_of(rewards))
    told = weighted.signals or PerAnswer.of(torch.ones_like(rewards))
    return weighted.weights.samples * told.samples


@st.composite
def added_up(draw) -> tuple[list[float], type]:
    """One sum of positive numbers in several orders, computed in float32 or float64, at any scale; and its dtype."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scale = 10 ** draw(st.floats(-6, 6))
    parts = [dtype(part * scale) for part in draw(st.lists(st.floats(0.01, 1), min_size=2, max_size=8))]
    orders = random.Random(draw(st.integers(0, 10**6)))
    members = []
    for _ in range(draw(st.integers(3, 9))):
        orders.shuffle(parts)
        total = dtype(0)
        for part in parts:
            total = dtype(total + part)
        members.append(total)
    return members, dtype


@settings(max_examples=25, deadline=None)
@given(added_up())
def test_sums_in_any_order_are_ties_in_every_method_and_figure(case) -> None:
    members, dtype = case
    as_given = lambda values: np.array(values, dtype=dtype)  # noqa: E731
    plain = [float(member) for member in members]
    for rewards in (told(None, plain), told(None, plain, kind=as_given), told(None, plain, kind=torch.tensor)):
        assert rewards.tolist() == [[0.0] * (len(members) - 1)]
        for name in SAMPLED:
            assert signals(name, rewards).tolist() == rewards.tolist(), name
        for advantages in ADVANTAGES.values():
            for scope in ("joint", "samples"):
                found = advantages(rewards, torch.zeros(1).double(), scope)
                assert sequence_weights(found).completions.tolist() == rewards.tolist()
                assert sequence_weights(found, sign="signed").reference.tolist() == [0.0]
        assert win_share(rewards[0].tolist()) == 0
        assert _beaten(rewards).tolist() == [0.5]
    given = torch.from_numpy(as_given(plain))[None]
    for advantages in ADVANTAGES.values():
        found = advantages(given[:, :-1], given[:, -1], "joint")
        if advantages is not ADVANTAGES["none"]:
            assert not found.completions.any()
            assert not found.reference.any()
    shifted = told(None, [*plain[:-1], plain[-1] / 2])  # equal among each other, above the reference
    assert len(set(shifted[0].tolist())) == 1
    for name in ("grpo", "chord-mu", "chord-phi", "hpt"):
        assert not signals(name, shifted).any(), name


@settings(max_examples=30, deadline=None)
@given(added_up(), st.sampled_from([-1e-3, 1e-3]))
def test_a_thousandth_of_the_scale_is_never_a_tie(case, part: float) -> None:
    members, dtype = case
    plain = [float(member) for member in members]
    plain[0] = float(dtype(plain[0] * (1 + part)))
    for rewards in (told(None, plain), told(sign_of, plain)):
        assert rewards[0, 0].sign() == math.copysign(1, part)
        assert rewards[0, 1:].tolist() == [0.0] * (len(plain) - 2)
        for name in SAMPLED:
            if name != "hpt":  # they look at the reference where all samples lose
                assert signals(name, rewards)[0, 0] != 0, name
    two = [WeightedReward(table(plain), 0.3), WeightedReward(FunctionReward(constant), -2.0, normalise=True)]
    assert Mix(two)(batch_of(1, len(plain) - 1)).total[0, 0].sign() == math.copysign(1, part)


def sign_of(reward: FunctionReward) -> FunctionReward:
    return FunctionReward(reward.function, sign_relative(), "sign")


def constant(completions):
    return [0.1 + 0.2] * len(completions)


@settings(max_examples=40, deadline=None)
@given(added_up(), st.floats(-3, 3).filter(lambda weight: abs(weight) > 1e-3), st.booleans())
def test_a_mix_of_ties_is_a_tie(case, weight: float, normalise: bool) -> None:
    members, _ = case
    plain = [float(member) for member in members]
    other = FunctionReward(lambda completions: [7 * score for score in plain], name="other")
    mix = Mix([WeightedReward(table(plain), weight, normalise), WeightedReward(other, 1.0, normalise)])
    assert not mix(batch_of(1, len(plain) - 1)).total.any()


NOISE = {
    "tenths": ([0.3, 0.1 + 0.2, 0.3], list),
    "float32 as python floats": ([float(np.float32(0.1) * 3), float(np.float32(0.3)), 0.3], list),
    "two steps of float32": ([1.0, 1.0 + 2**-22, 1.0], lambda values: torch.tensor(values, dtype=torch.float32)),
    "logits of a thousand": ([1000.0001, 1000.0, 1000.0002], list),
    "below zero": ([-0.7, -0.7000001, -0.69999999], list),
    "a chain": ([1.0, 1.000001, 1.000003, 1.000002], list),
    "a millionth": ([1e-6, 1.0000005e-6, 1e-6], list),
    "float64": ([1.0, 1.0 + 3e-15, 1.0], np.array),
}


@pytest.mark.parametrize("case", NOISE)
def test_noise_is_no_signal(case: str) -> None:
    values, kind = NOISE[case]
    for reward in (None, sign_of):
        rewards = told(reward, values, kind=kind)
        assert not rewards.any()
        assert not any(signals(name, rewards).any() for name in SAMPLED)


SIGNAL = {
    "float64 says more": ([1.0 + 1e-9, 1.0], np.array),
    "so does a tensor": ([1.0 + 1e-9, 1.0], lambda values: torch.tensor(values, dtype=torch.float64)),
    "and whole numbers": ([16777217, 16777216], np.array),
    "shorter floats say no less": ([1.0625, 1.0], lambda values: torch.tensor(values, dtype=torch.bfloat16)),
    "near zero": ([1e-9, 0.0], list),
    "next to a giant": ([1e-3, 1e6, 1.1e-3], list),
}


@pytest.mark.parametrize("case", SIGNAL)
def test_what_differs_by_more_is_signal(case: str) -> None:
    values, kind = SIGNAL[case]
    assert told(None, values, kind=kind)[0, 0] == pytest.approx(values[0] - values[-1], rel=1e-2)
    assert told(sign_of, values, kind=kind)[0, 0].abs() == 1


def test_ties_by_hand() -> None:
    eps = 2.0**-23
    row = torch.tensor([[1.0, 1 + 16 * eps, 1 + 40 * eps, NAN, 5.0, 1 + 41 * eps]]).double()
    found = core.merge_ties(row, core.rounding(row))
    assert found[0, :3].tolist() == [1.0, 1.0, 1 + 41 * eps]  # the last member's value where it is one of them
    assert found[0, 3].isnan()
    assert found[0, 4:].tolist() == [5.0, 1 + 41 * eps]
    assert torch.equal(core.merge_ties(found, core.rounding(found))[0, [0, 1, 2, 4, 5]], found[0, [0, 1, 2, 4, 5]])
    missing = torch.tensor([[1.0, 1 + eps, NAN]]).double()
    assert core.merge_ties(missing, core.rounding(missing))[0, :2].tolist() == [1.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, 1.0, -2.0, 1e160, 5e-310, NAN, 1 + 1e-7, 1 + 1e-6, 3e-6, 1e6]), min_size=2, max_size=9
    )
)
def test_merging_is_the_closure_of_the_rule(values: list[float]) -> None:
    row = torch.tensor([values], dtype=torch.float64)
    near = core.rounding(row)
    found, group = core.merge_ties(row, near)[0].tolist(), list(range(len(values)))
    for _ in values:  # a naive closure
        for i, a in enumerate(values):
            for j, b in enumerate(values):
                if abs(a - b) <= max(near[0, i].item(), near[0, j].item()):
                    group[i] = group[j] = min(group[i], group[j])
    for i, a in enumerate(found):
        assert math.isnan(a) == math.isnan(values[i])
        for j, b in enumerate(found):
            if i != j and not math.isnan(a + b):
                assert (a == b) == (group[i] == group[j])
    assert math.isnan(values[-1]) or found[-1] == values[-1]


def test_what_cancels_in_a_mix_is_a_tie_at_the_scale_of_its_parts() -> None:
    high = FunctionReward(lambda completions: [float(np.float32(1000.1)), 1000.0], name="high")
    low = FunctionReward(lambda completions: [-0.1, 0.0], name="low")
    assert Mix([high, low])(batch_of(1, 1)).total.tolist() == [[0.0]]
    three = [FunctionReward(lambda completions, r=r: [r, 0.0], name=str(r)) for r in (0.3, -0.1, -0.2)]
    assert Mix(three)(batch_of(1, 1)).total.tolist() == [[0.0]]


def test_rounding_breaks_no_constraint() -> None:
    helpful = FunctionReward(lambda completions: [2.0, 1.0, 0.0], name="helpful")
    harmless = WeightedReward(table([0.3, 0.2, 0.1 + 0.2]), weight=0.0, constraint=True)
    assert Mix([helpful, harmless])(batch_of(1, 2)).total[0].tolist() == pytest.approx([2.0, -0.1])


def test_the_edge_of_a_band_is_no_matter_of_rounding() -> None:
    tenths = [0.3, 0.4, 0.5, 0.6, 0.7]
    bands = [told(lambda reward: FunctionReward(reward.function, sign_relative(0.1)), [x, x - 0.1]) for x in tenths]
    assert [found.item() for found in bands] == [0.0] * len(tenths)
    assert told(lambda reward: FunctionReward(reward.function, sign_relative(0.1)), [0.3, 0.199]).item() == 1


def test_a_scorer_may_say_that_it_is_exact_to_more() -> None:
    class Exact(ScoredReward):
        precision = torch.float64

        def scores(self, prompts, answers, columns):
            return torch.tensor([1 + 1e-9, 1.0], dtype=torch.float64)

    assert Mix([Exact("exact", difference)])(batch_of(1, 1)).total.item() > 0
    Exact.precision = ScoredReward.precision
    assert Mix([Exact("exact", difference)])(batch_of(1, 1)).total.item() == 0


def test_one_that_says_r_itself_is_taken_at_its_word_but_for_rounding_near_1() -> None:
    class Said:
        name = "said"

        def relative(self, batch):
            return torch.tensor([[0.1 + 0.2 - 0.3, 1e-9, 0.7, 0.7000001]], dtype=torch.float64)

    found = Mix([Said()])(batch_of(1, 4)).total[0].tolist()
    assert found == [0.0, 1e-9, 0.7, 0.7]


def test_equal_samples_whose_mean_is_rounded_have_no_advantage() -> None:
    rewards = torch.full((1, 3), 0.1, dtype=torch.float64)
    for name in ("group", "mean"):
        found = ADVANTAGES[name](rewards, rewards.new_full((1,), 0.1), "joint")
        assert found.completions.tolist() == [[0.0] * 3]
        assert ADVANTAGES[name](rewards, rewards.new_zeros(1), "samples").completions.tolist() == [[0.0] * 3]
    assert not any(signals(name, rewards).any() for name in ("grpo", "chord-mu", "hpt"))


@pytest.mark.parametrize("size", [1e160, 1e300, 1e-200, 5e-310])
def test_advantages_have_no_scale(size: float) -> None:
    rewards = torch.tensor([[1.0, 0.0, -1.0, -1.0]], dtype=torch.float64)
    plain, scaled = (group_advantages(rewards * factor, torch.zeros(1).double()) for factor in (1.0, size))
    torch.testing.assert_close(scaled.completions, plain.completions)
    torch.testing.assert_close(scaled.reference, plain.reference)


@pytest.mark.parametrize(
    "rewards",
    [
        [FunctionReward(lambda completions: [1e160, 0.0], name="big")],
        [FunctionReward(lambda completions: [1e308, -1e308], name="big")],
        [WeightedReward(table([1e10, 0.0]), 1e200)],
        [FunctionReward(lambda completions: [10**30, 0], name="big"), table([0.0, 0.0])],
        [WeightedReward(table([-1e10, 0.0]), 1e10), FunctionReward(constant)],
        [FunctionReward(lambda completions: [1e160, 1e160], name="big")],  # as references are tried on themselves
    ],
)
def test_what_is_too_large_to_learn_from_is_refused(rewards) -> None:
    with pytest.raises(
        InputError, match=r"^(reward big|the sum of the rewards): R = .* is too large .*; scale it down"
    ):
        Mix(rewards)(batch_of(1, 1))


def test_verdicts_of_huge_scores_are_fine() -> None:
    assert told(sign_of, [1e160, 1.001e160]).tolist() == [[-1.0]]


def test_a_judge_here_that_cannot_tell_says_so(chat_tokenizer) -> None:
    model = tiny_model("qwen3", vocabulary=len(chat_tokenizer))
    torch.nn.init.zeros_(model.lm_head.weight)  # every token is as likely as any other
    template = Template("short", "{context} {text_1} {text_2}")
    for orders in ("one", "both"):
        judged = LocalJudge(model, chat_tokenizer, template, orders).compare(
            [Pair("p", "one", "other"), Pair("q", "x", "y")]
        )
        assert [each.value for each in judged] == [0.0, 0.0]
        assert not any(each.flipped for each in judged)


def test_a_pair_whose_scores_differ_by_rounding_is_a_tie() -> None:
    found = pair_scores([0.1 + 0.2, 1.0, 5.0], [0.3, 1.0000001, 4.0], [1, 2, 3], [1, 1, 1])
    assert found.ties == 2
    assert found.accuracy.value == pytest.approx(1 / 3)


def test_an_audit_sees_no_signal_in_rounding() -> None:
    rows = [[0.3, -0.1, -0.2], [0.1, 0.1, 0.1], [-0.1, -0.1, -0.1]]
    groups = [
        GroupItem(
            id=str(index), prompt="p", reference="y", reference_tokens=1, rewards=row, parts={}, no_signal=False,
            dropped=False, tokens=[1, 2, 3], truncated=[False] * 3, best="o",
        )
        for index, row in enumerate(rows)
    ]  # fmt: skip
    assert policy_figures(groups).mean_beats.value == pytest.approx(1 / 3)
    same = policy_figures([groups[1], groups[1]])
    assert same.deviation.highest == 0
    assert same.between is None
