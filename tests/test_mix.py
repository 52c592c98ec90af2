import dataclasses
import math
import random
from pathlib import Path

import pytest
import torch

from grao.config.load import load_recipe
from grao.core import group_advantages
from grao.errors import InputError
from grao.rewards.base import RewardBatch
from grao.rewards.mix import Mix, WeightedReward, constrained, make_rewards, normalised
from grao.training.experience import Experience
from grao.training.metrics import _part_numbers

NAN = math.nan
BATCH = RewardBatch(["p"], [["a"] * 4], ["y"], [{}], [[(1,)] * 4], [(1,)])


class Given:
    """A reward that was decided elsewhere."""

    def __init__(self, name: str, *groups: list[float]) -> None:
        self.name, self.groups = name, groups

    def relative(self, batch: RewardBatch) -> torch.Tensor:
        return torch.tensor(self.groups, dtype=torch.float64)


def total(*objectives: WeightedReward) -> list[list[float]]:
    return Mix(objectives)(BATCH).total.tolist()


def test_normalised_by_hand():
    found = normalised(torch.tensor([[1.0, 0.0, -1.0, -1.0], [3.0, 3.0, 3.0, NAN], [0.0, 0.0, 0.0, 0.0]]).double())
    assert found[0].tolist() == pytest.approx([1.336306, 0, -1.336306, -1.336306], abs=1e-6)
    # 3, 3, 3 and the reference 0: mean 2.25, deviation 1.299038
    assert found[1, :3].tolist() == pytest.approx([3 / 1.299038] * 3, abs=1e-6)
    assert found[1, 3].isnan()
    assert found[2].tolist() == [0, 0, 0, 0]


def test_normalised_is_the_standardised_reward_against_the_references_own():
    torch.manual_seed(1)
    part = torch.randn(5, 8).double()
    group = torch.cat([part, torch.zeros(5, 1)], dim=1)
    standard = (group - group.mean(dim=1, keepdim=True)) / group.std(dim=1, keepdim=True, correction=0)
    assert torch.allclose(normalised(part), standard[:, :-1] - standard[:, -1:])


def test_rounding_is_no_spread():
    assert normalised(torch.tensor([[1e-17, -2e-17]], dtype=torch.float64)).tolist() == [[0, 0]]


def test_no_scale_dominates_a_normalised_mix():
    small, large = Given("small", [1.0, 0.0, -1.0, -1.0]), Given("large", [-1000.0, 0.0, 1000.0, 1000.0])
    assert total(WeightedReward(small), WeightedReward(large)) == [[-999.0, 0.0, 999.0, 999.0]]
    assert total(WeightedReward(small, normalise=True), WeightedReward(large, normalise=True)) == [[0.0] * 4]
    twice = total(WeightedReward(small, 2.0, normalise=True), WeightedReward(large, normalise=True))
    assert twice[0] == pytest.approx(normalised(small.relative(BATCH))[0].tolist())


def test_normalising_a_reward_that_stands_alone_changes_no_advantage():
    torch.manual_seed(2)
    part = torch.randn(3, 6).double()
    reference = torch.zeros(3).double()
    plain, scaled = group_advantages(part, reference), group_advantages(normalised(part), reference)
    assert torch.allclose(plain.completions, scaled.completions)
    assert torch.allclose(plain.reference, scaled.reference)


def test_a_group_without_spread_or_without_reward_adds_nothing_when_normalised():
    one = Given("one", [1.0, 0.0], [1.0, 0.0])
    flat = Given("flat", [0.0, 0.0], [NAN, NAN])
    alone = normalised(one.relative(BATCH)).tolist()
    assert total(WeightedReward(one, normalise=True), WeightedReward(flat, normalise=True)) == alone


def test_constrained_by_hand():
    sums = torch.tensor([[2.0, 1.0, -1.0, 3.0]]).double()
    constraint = torch.tensor([[0.0, -1.0, 1.0, -0.5]]).double()
    # the second and the last break it; the least of the others is -1
    assert constrained(sums, [constraint]).tolist() == [[2.0, -2.0, -1.0, -1.5]]


def test_constrained_where_all_win_or_all_break_it():
    sums = torch.tensor([[5.0, 1.0], [4.0, -7.0]]).double()
    constraint = torch.tensor([[-1.0, 0.0], [-1.0, -2.0]]).double()
    # no sum is below the reference, hence floor 0; what is lower already stays there
    assert constrained(sums, [constraint]).tolist() == [[-1.0, 1.0], [-1.0, -7.0]]


def test_two_constraints_add_their_violations():
    sums = torch.tensor([[5.0, 5.0, 5.0, 5.0]]).double()
    one, two = torch.tensor([[-1.0, -1.0, 2.0, 0.0]]).double(), torch.tensor([[-2.0, 9.0, -0.5, 0.0]]).double()
    assert constrained(sums, [one, two]).tolist() == [[-3.0, -1.0, -0.5, 5.0]]


def test_what_breaks_a_constraint_ranks_below_all_that_keeps_it_and_below_the_reference():
    draw = random.Random(0)
    for _ in range(200):
        sums = torch.tensor([[draw.gauss(0, 3) for _ in range(6)]], dtype=torch.float64)
        constraint = torch.tensor([[draw.choice([-1.0, 0.0, 1.0]) for _ in range(6)]], dtype=torch.float64)
        found, broken = constrained(sums, [constraint])[0], constraint[0] < 0
        assert torch.equal(found[~broken], sums[0][~broken])
        assert (found[broken] < 0).all()
        if broken.any() and not broken.all():
            assert found[broken].max() < found[~broken].min()


def test_a_judge_that_says_nothing_about_a_group_has_failed_and_a_function_does_not_apply():
    class Judged(Given):
        def tally(self):
            return {}

    sure = Given("sure", [1.0, 2.0], [3.0, 4.0])
    silent = ("other", [1.0, NAN], [NAN, NAN])
    assert Mix([sure, Given(*silent)])(BATCH).total.tolist()[1] == [3.0, 4.0]
    found = Mix([sure, Judged(*silent)])(BATCH).total
    assert found[0].tolist() == pytest.approx([2.0, NAN], nan_ok=True)
    assert found[1].isnan().all()


def test_a_constraint_that_says_nothing_is_not_held():
    helpful = Given("helpful", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    harmless = Given("harmless", [0.0, NAN, -1.0], [NAN, NAN, NAN])
    found = Mix([helpful, WeightedReward(harmless, constraint=True)])(BATCH).total
    assert found[0].tolist() == pytest.approx([1.0, NAN, -1.0], nan_ok=True)
    assert found[1].isnan().all()


def test_a_constraint_of_weight_0_only_forbids():
    helpful, harmless = Given("helpful", [1.0, 2.0, -1.0]), Given("harmless", [1.0, -1.0, 1.0])
    assert total(WeightedReward(helpful), WeightedReward(harmless, 0.0, constraint=True)) == [[1.0, -2.0, -1.0]]


def test_a_normalised_constraint_is_broken_by_its_normalised_size():
    helpful, harmless = Given("helpful", [1.0, 2.0]), Given("harmless", [0.0, -300.0])
    deviation = math.sqrt(2) * 100  # of 0, -300 and the reference's 0
    found = total(WeightedReward(helpful), WeightedReward(harmless, 0.0, normalise=True, constraint=True))
    assert found[0] == pytest.approx([1.0, -300 / deviation])


def test_every_reward_is_logged_by_itself():
    one, two = Given("one", [1.0, -1.0, 0.0, NAN]), Given("two", [-4.0, -4.0, 2.0, 2.0])
    mixed = Mix([WeightedReward(one, 3.0), WeightedReward(two, normalise=True, constraint=True)])(BATCH)
    assert mixed.parts["two"].tolist() == [[-4.0, -4.0, 2.0, 2.0]]
    assert mixed.constraints == {"two"}
    logged = {name: values.mean().item() for name, values in _part_numbers(experience(mixed)).items()}
    assert logged == pytest.approx(
        {
            "reward_one/mean": 0.0,
            "reward_one/win": 1 / 3,
            "reward_one/missing": 0.25,
            "reward_two/mean": -1.0,
            "reward_two/win": 0.5,
            "reward_two/missing": 0.0,
            "reward_two/violated": 0.5,
        }
    )


def experience(mixed) -> Experience:
    return Experience(groups=[], rewards=mixed, weighted=None)  # type: ignore[arg-type]


def test_a_recipe_says_how_rewards_are_mixed(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {path: m}\ndata: {path: d}\noutput: o\nrewards:\n"
        "  - rule: {length: {at_most: 2}}\n    weight: 0.5\n    normalise: true\n"
        "  - rule: {regex: {pattern: sorry}}\n    name: polite\n    constraint: true\n"
    )
    mix = make_rewards(load_recipe(path))
    settings = [dataclasses.astuple(dataclasses.replace(one, reward=None)) for one in mix.objectives]
    assert settings == [(None, 0.5, True, False), (None, 1.0, False, True)]
    assert [reward.name for reward in mix.rewards] == ["length", "polite"]
    twice = path.read_text().replace("polite", "length")
    path.write_text(twice)
    with pytest.raises(InputError, match="two have the name 'length'; rename one"):
        make_rewards(load_recipe(path))
