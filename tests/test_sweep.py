"""Studies along axes: their arms, what is said of them, errors made on purpose, and the weights of an ablation."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grao.cli.main import main
from grao.config.arms import spots, study_arms
from grao.config.load import load_config
from grao.config.study import Study, ablation
from grao.evaluation.study import sweep_result
from grao.methods import METHODS
from grao.methods.base import StepGroups
from grao.records.study import CellRecord, GridPosition, Key, Outcomes, read_cells, read_study
from grao.reports.sweep import sweep_sentences
from grao.reports.tables import share
from grao.rewards.base import RewardBatch
from grao.rewards.functions import FunctionReward
from grao.rewards.mix import WeightedReward
from grao.studies.runner import StudyMix, hash_in_share, swap_answers
from grao.studies.study import arm_weights
from grao.types import Example, PerAnswer
from tiny import study_folder

REWARD = "def vowels(completions):\n    return [text.count('a') for text in completions]\n"
STUDY = """
base:
  model: {path: model}
  data: {path: data.jsonl, held_out: 8, rejected: worse}
  rewards: [{function: rewards.py:vowels}]
  rollout: {group_size: 4, temperature: 1.0, max_new_tokens: 8}
  training: {prompts_per_step: 3, learning_rate: 1e-2, trainer: {use_cpu: true}}
arms:
  grao: {}
  grpo: {method.kl: 0}
over:
  rollout.temperature: [0.7, 1]
budget: {steps: 2}
seeds: [0, 1]
output: study
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model, data, reward and a sweep, as working directory."""
    monkeypatch.chdir(tmp_path)
    return study_folder(tmp_path, STUDY, REWARD)


def study(*options: tuple[str, str]) -> Study:
    return load_config(Study, Path("study.yaml"), options)


def test_every_arm_stands_at_every_point(place: Path) -> None:
    two = study(("over", "{rollout.temperature: [0.5, 1], group: {small: {rollout.group_size: 2}, usual: {}}}"))
    arms = {arm.name: arm for arm in study_arms(two)}
    assert list(arms) == [
        f"{arm}+temperature={temperature},group={group}"
        for temperature in ("0.5", "1")
        for group in ("small", "usual")
        for arm in ("grao", "grpo")
    ]
    small = arms["grpo+temperature=0.5,group=small"]
    assert (small.recipe.rollout.temperature, small.recipe.rollout.group_size) == (0.5, 2)
    assert (small.recipe.method.name, small.recipe.method.kl) == ("grpo", 0)
    assert arms["grao+temperature=1,group=usual"].recipe.rollout.group_size == 4
    assert [spot.point for spot in spots(replace(two, over={}))] == [(), ()]


def test_a_sweep_from_file_to_page(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--config", "study.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "minus that of another arm at the same point" in shown
    assert "Win-or-tie rate, mean over seeds" in " ".join(shown.split())
    result = read_study(place / "study")
    assert result.sweep.axes == ["rollout.temperature"]
    assert [(one.arm, one.other) for one in result.sweep.contrasts] == [
        ("grao+temperature=0.7", "grpo+temperature=0.7"),
        ("grao+temperature=1", "grpo+temperature=1"),
    ]
    assert [one.other for one in result.sweep.changes] == ["grpo"]
    assert result.comparisons == []
    limit = "With 2 seeds, no test over seeds alone can be significant after Holm's correction for 2 comparisons"
    assert limit in " ".join(shown.split())
    rows = list(csv.DictReader((place / "study" / "study.csv").read_text().splitlines()))
    assert [(row["arm"], row["rollout.temperature"]) for row in rows] == [
        ("grao", "0.7"),
        ("grpo", "0.7"),
        ("grao", "1"),
        ("grpo", "1"),
    ]
    assert rows[1]["grao_minus_arm"] == str(result.sweep.contrasts[0].difference.over_prompts.value)
    page = (place / "study" / "study.html").read_text()
    assert "RAS, strict wins along rollout.temperature" in page
    assert "Win-or-tie rate along rollout.temperature" in page
    assert '"label":"grpo"' in page
    record = read_cells(place / "study")[Key("grpo+temperature=0.7", "final", 0.01, 1)]
    assert record.settings["rollout.temperature"] == 0.7
    (place / "study" / "study.html").unlink()
    assert main(["report", "study"]) == 0
    assert (place / "study" / "study.html").read_text() == page


def test_a_map_of_two_axes(place: Path) -> None:
    axes = "{training.learning_rate: [0.001, 0.01], method.beta: [0, 0.5]}"
    options = ["--over", axes, "--arms", "{grao: {}}", "--seeds", "[0]", "--budget.steps", "1"]
    assert main(["sweep", "--config", "study.yaml", *options]) == 0
    result = read_study(place / "study")
    assert (result.arms[0].learning_rate, result.arms[0].arm) == (0.001, "grao+learning_rate=0.001,beta=0")
    page = (place / "study/study.html").read_text()
    assert "Rows: training.learning_rate. Columns: method.beta" in page
    cells = re.findall(r'<td class="shade(\d)">(.*?)</td>', page)
    reached = [getattr(arm, name).over_prompts for name in ("ras", "ras_win_or_tie") for arm in result.arms]
    assert [text for _, text in cells] == [share(ras).replace(" %", "\N{NO-BREAK SPACE}%") for ras in reached]
    assert max(int(shade) for shade, _ in cells) == 8


def test_quick_sweep(place: Path) -> None:
    assert main(["sweep", "--config", "study.yaml", "--quick", "--over", "{rollout.temperature: [0.5, 0.7, 1]}"]) == 0
    assert len(list((place / "study-quick" / "cells").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--over", "{}"], "over: a sweep needs one or two axes"),
        (["--over", "{method.beta: [1]}"], "over.method.beta: an axis needs at least two points"),
        (["--over", "{method.beta: [1, 1.0]}"], "over.method.beta: contains a value twice"),
        (["--over", "{method.betta: [1, 2]}"], "arms.grao+betta=1: method.betta is unknown; did you mean method.beta"),
        (["--over", "{a: {x: {}, y: {}}, b: {x: {}, y: {}}, c: {x: {}, y: {}}}"], "over must have one or two axes"),
        (["--over", "{sandbox.ability: [0, 1]}"], "sandbox needs a section sandbox in the study itself"),
        (["--over", "{method.kl: [0, 1]}"], "arms.grpo: method.kl is set by the study's section over"),
        (["--over", "{model.lora: [null, {rank: 2}]}"], "over.model.lora: {rank: 2} is not a valid label; use {label"),
        (["--over", "{size: {a b: {}, c: {}}}"], "over.size: 'a b' is not a valid label"),
        (
            ["--over", "{training.learning_rate: [0.1, 0.2]}", "--learning_rates", "[0.1, 0.2]"],
            "arms.grao+learning_rate=0.1: training.learning_rate and learning_rates are both given",
        ),
        (["--over", "{noise.rewards: [0, 2]}"], "arms.grao+rewards=2: noise.rewards"),
    ],
)
def test_a_wrong_sweep_is_one_line(place: Path, capsys, options: list[str], message: str) -> None:
    assert main(["sweep", "--config", "study.yaml", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert main(["compare", "--config", "study.yaml"]) == 2
    assert "run it with grao sweep" in capsys.readouterr().err


def record(arm: str, seed: int, after: str) -> CellRecord:
    outcomes = Outcomes(prompts="p", after=after, mean_reward=0.0, mean_tokens=1.0, truncated=0.0)
    return CellRecord(Key(arm, "final", 0.1, seed), {}, "", "", {}, None, outcomes=outcomes)


def test_leads_and_how_they_change() -> None:
    letters = {
        "grao+x=0": ("wwll", "wlll"),
        "grpo+x=0": ("wlll", "llll"),  # behind by 1/4 and 1/4
        "grao+x=1": ("wwww", "wwwl"),
        "grpo+x=1": ("wlll", "wwll"),  # behind by 3/4 and 1/4
    }
    runs = {name: [record(name, seed, after) for seed, after in enumerate(both)] for name, both in letters.items()}
    places = [GridPosition(name, name[:4], [name[-1]]) for name in letters]
    sweep = sweep_result(places, ["x"], runs, "grao", 0.95)
    assert [one.difference.over_prompts.value for one in sweep.contrasts] == [0.25, 0.5]
    (change,) = sweep.changes
    assert change.other == "grpo"
    assert change.change.value == pytest.approx(0.25)  # mean of 1/2 and 0
    del runs["grpo+x=1"]
    sweep = sweep_result(places, ["x"], runs, "grao", 0.95)
    assert len(sweep.contrasts) == 1
    assert sweep.changes == []


def letters_of(shares: dict[str, tuple[int, ...]]) -> dict[str, list[CellRecord]]:
    """Name -> a run a seed that wins so many of 100 prompts, never the same ones for long."""
    outcomes = {name: ["w" * won + "l" * (100 - won) for won in of] for name, of in shares.items()}
    return {
        name: [record(name, seed, after[7 * seed :] + after[: 7 * seed]) for seed, after in enumerate(of)]
        for name, of in outcomes.items()
    }


def test_over_several_models_the_change_is_over_models() -> None:
    # the lead moves by 20 and 10 points in the first model, by 30 and 40 in the second: 15 and 35, so 25 on average
    shares = {
        "grao+ability=0,seed=0": (10, 10),
        "grpo+ability=0,seed=0": (10, 10),
        "grao+ability=0,seed=1": (20, 20),
        "grpo+ability=0,seed=1": (10, 10),
        "grao+ability=1,seed=0": (40, 30),
        "grpo+ability=1,seed=0": (20, 20),
        "grao+ability=1,seed=1": (70, 80),
        "grpo+ability=1,seed=1": (30, 30),
    }
    places = [GridPosition(name, name[:4], [name[13], name[-1]]) for name in shares]
    axes = ["sandbox.ability", "sandbox.seed"]
    sweep = sweep_result(places, axes, letters_of(shares), "grao", 0.95)
    (change,) = sweep.changes
    assert (change.over, change.change.n) == ("models", 2)
    assert change.change.value == pytest.approx(0.25)
    assert change.p_seeds == 0.5
    other = sweep_result(places, axes[::-1], letters_of(shares), "grao", 0.95)  # the labels now mean the reverse
    assert other.changes[0].change.value == pytest.approx((0.1 + 0.3) / 2)


def test_one_model_an_ability_is_said() -> None:
    shares = {f"{arm}+ability={ability}": (10, 12) for ability in (0, 1) for arm in ("grao", "grpo")}
    places = [GridPosition(name, name[:4], [name[-1]]) for name in shares]
    sweep = sweep_result(places, ["sandbox.ability"], letters_of(shares), "grao", 0.95)
    result = SimpleNamespace(main="grao", prompts=100, confidence=0.95, seeds=2)
    assert "Each ability is a single pretrained model here" in " ".join(sweep_sentences(result, sweep))
    moved = replace(sweep, axes=["rollout.temperature"])
    assert "pretrained model" not in " ".join(sweep_sentences(result, moved))


def test_points_of_one_arm_are_set_against_the_best() -> None:
    shares = {"grao+x=0": (10, 11, 12), "grao+x=1": (60, 61, 59), "grao+x=2": (58, 60, 61)}
    places = [GridPosition(name, "grao", [name[-1]]) for name in shares]
    runs = letters_of(shares)
    sweep = sweep_result(places, ["x"], runs, "grao", 0.95)
    assert [(each.name, each.best) for each in sweep.below] == [("grao+x=0", "grao+x=1"), ("grao+x=2", "grao+x=1")]
    far, near = (each.ras for each in sweep.below)
    assert far.difference.value == pytest.approx(-0.49)
    assert far.p_corrected < 0.05 < near.p_corrected
    assert far.p_corrected >= 2 * far.p
    shown = " ".join(sweep_sentences(SimpleNamespace(main="grao", prompts=100, confidence=0.95, seeds=3), sweep))
    assert shown == (
        "For new prompts and new training runs, 1 of the 2 other points is significantly below the best, grao+x=1."
    )
    elsewhere = [replace(run, outcomes=replace(run.outcomes, prompts="q")) for run in runs["grao+x=0"]]
    sweep = sweep_result(places, ["x"], runs | {"grao+x=0": elsewhere}, "grao", 0.95)
    assert [each.name for each in sweep.below] == ["grao+x=2"]  # other prompts cannot be paired


def test_rewards_are_turned_around_for_some_answers_and_always_the_same() -> None:
    texts = [f"answer {number}" for number in range(2000)]
    batch = RewardBatch(
        prompts=["p"],
        completions=[texts],
        references=["r"],
        columns=[{}],
        completion_ids=[[[1]] * len(texts)],
        reference_ids=[[1]],
    )
    objectives = [WeightedReward(FunctionReward(lambda completions: [float(len(text) > 1) for text in completions]))]
    plain = StudyMix(objectives)(batch).total
    noisy = StudyMix(objectives, wrong=0.2, seed=3)
    first, second = noisy(batch).total, noisy(batch).total
    assert torch.equal(first, second)
    assert torch.equal(first.abs(), plain.abs())
    assert 0.17 < (first == -plain).double().mean() < 0.23 or not plain.any()
    assert noisy.calls == 4000


def test_the_share_that_is_chosen() -> None:
    counted = sum(hash_in_share(0.3, 0, number) for number in range(5000)) / 5000
    assert 0.28 < counted < 0.32
    assert not any(hash_in_share(0.0, number) for number in range(100))
    assert all(hash_in_share(1.0, number) for number in range(100))


def test_references_are_exchanged_with_rejected_answers() -> None:
    rows = [Example(f"p{number}", "good", "bad" if number % 2 else None, {}, number) for number in range(400)]
    changed = swap_answers(rows, 0.5, seed=0)
    swapped = [one for one in changed if one.reference == "bad"]
    assert 70 < len(swapped) < 130
    assert all(one.rejected == "good" and one.row % 2 for one in swapped)
    assert swap_answers(rows, 0.0, seed=0) == rows


def test_noise_is_in_the_training_and_in_the_record_alone(place: Path) -> None:
    assert main(["sweep", "--config", "study.yaml", "--over", "{noise.references: [0, 1]}", "--seeds", "[0]"]) == 0
    clean, noisy = (
        read_cells(place / "study")[Key(f"grao+references={share}", "final", 0.01, 0)] for share in ("0", "1")
    )
    assert "study.noise.references" not in clean.settings
    assert noisy.settings["study.noise.references"] == 1
    assert clean.outcomes.prompts == noisy.outcomes.prompts
    assert clean.outcomes.before == noisy.outcomes.before
    assert clean.outcomes.mean_tokens != noisy.outcomes.mean_tokens or clean.outcomes.after != noisy.outcomes.after


def test_references_cannot_be_exchanged_with_nothing(place: Path, capsys) -> None:
    options = ["--base.data.rejected", "null", "--over", "{noise.references: [0, 0.5]}"]
    assert main(["sweep", "--config", "study.yaml", *options]) == 2
    assert "give data.rejected" in capsys.readouterr().err


def test_effective_weights_of_the_ablation(place: Path) -> None:
    arms = study_arms(ablation(replace(study(), over={}, arms={"grao": {}})))
    found = {one.arm: one for one in arm_weights(arms)}
    assert len(found) == 12
    assert "batch" not in found
    lost, one, won = found["grao"].situations  # method page, section 3, with G = 4
    assert (lost.won, lost.lost, lost.reference) == (None, pytest.approx(-0.2), pytest.approx(1.3))
    assert (won.lost, won.reference) == (None, 0.0)
    assert one.won > 0 > one.lost
    assert found["signed"].situations[2].reference == pytest.approx(-1.3)
    assert found["grao"].kappa == pytest.approx((0.5 + 0.6 / 4) / 1.6)
    assert found["grao-no-regulariser"].kappa == pytest.approx(0.5)
    assert found["signed-scope-samples"].kappa == pytest.approx(0.5 / 1.6)
    assert found["raw-reward"].kappa is None
    assert all(one.rescaled is None for one in found.values())


def test_arms_that_are_rescalings_of_each_other_are_named(place: Path) -> None:
    twice = {"method.beta": 1.0, "method.lambda": 1.2, "method.exploration": 2.0}
    other = {"method.lambda": 0.0, "method.beta": (0.5 + 0.6 / 4) / 1.6}  # the same kappa
    arms = study_arms(replace(study(), over={}, arms={"grao": {}, "twice": twice, "bare": other, "sft": {}}))
    assert [(one.arm, one.rescaled) for one in arm_weights(arms)] == [
        ("grao", None),
        ("twice", "grao"),
        ("bare", "grao"),
        ("sft", None),
    ]


def test_the_ablation_is_whatever_the_study_says(place: Path) -> None:
    base = {"method": {"name": "grao", "sign": "signed", "scope": "samples", "normalise": "none"}}
    plain, other = (ablation(replace(study(), base={**study().base, **more})) for more in ({}, base))
    for one, two in zip(study_arms(plain), study_arms(other), strict=True):
        assert one.recipe.method == two.recipe.method


def test_the_ablation_replaces_what_arms_were_compared_with(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--config", "study.yaml", "--quick", "--seeds", "[0]", "--against", "grpo"]) == 0


def test_the_ablation_command(place: Path) -> None:
    assert main(["ablate", "--config", "study.yaml", "--quick", "--seeds", "[0]"]) == 0
    folder = place / "study-ablation-quick"
    assert [arm.arm for arm in read_study(folder).arms] == ["grao", "grao-no-exploration"]
    assert "Effective weights" in (folder / "study.html").read_text()


def weights(name: str, rewards: list[list[float]], **fields: object) -> torch.Tensor:
    values = torch.tensor(rewards, dtype=torch.float64)
    lengths = PerAnswer.of(torch.ones_like(values), 1.0)
    weighted = METHODS[name](**fields).weigh(StepGroups(values, lengths, 1.0, step=0, mean_samples=4.0, limit=1))
    return torch.tensor(list(weighted.weights.rows()))


def test_rewards_relative_to_less_than_their_group() -> None:
    rewards = [[1.0, 0, -1, -1], [-1.0, -1, -1, -1]]
    plain = {"lambda_": 0.0, "sign": "signed"}
    raw = weights("grao", rewards, normalise="none", **plain)
    assert raw[0].tolist() == pytest.approx([0.25, 0, -0.25, -0.25, 0, 0])
    assert raw[1].tolist() == pytest.approx([-0.25] * 4 + [0, 0])
    mean = weights("grao", rewards, normalise="mean", **plain)  # means -0.2 and -0.8, reference included
    assert mean[0].tolist() == pytest.approx([1.2 / 4, 0.2 / 4, -0.8 / 4, -0.8 / 4, 0.5 * 0.2, 0])
    assert mean[1].tolist() == pytest.approx([-0.2 / 4] * 4 + [0.5 * 0.8, 0])
    batch = weights("grao", rewards, normalise="batch", **plain)  # mean -0.5, deviation sqrt(0.45) over all ten
    deviation = ((1.5**2 + 3 * 0.5**2 + 6 * 0.5**2) / 10) ** 0.5
    assert batch[1].tolist() == pytest.approx([-0.5 / deviation / 4] * 4 + [0.5 * 0.5 / deviation, 0])
    same = weights("grao", [[1.0, 1.0]], normalise="batch", scope="samples", **plain)
    assert same.abs().sum() == 0
    same = weights("grao", [[0.1] * 8] * 3, normalise="batch", scope="samples", **plain)  # but for rounding
    assert same.abs().sum() == 0
    missing = weights("grao", [[float("nan"), -1.0]], normalise="none", **plain)
    assert missing[0].tolist() == [0, -1, 0, 0]
