"""From records to a study's numbers and words, by hand."""

import csv
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from grao.config.arms import study_arms
from grao.config.study import BudgetConfig, SandboxConfig, Study
from grao.errors import InputError
from grao.evaluation.inference import holm, net_share, proportion
from grao.evaluation.metrics import letters, verdicts, win_share, wins
from grao.evaluation.study import arm_result, choice_shares, comparisons, curve_band
from grao.records.study import Candidate, CellRecord, Cost, Key, Outcomes, Point
from grao.reports.paper import paper_tables
from grao.reports.study import render_study, study_csv, study_tables
from grao.reports.tables import seeds_needed
from grao.reports.verdict import notes, on_both, on_prompts, on_seeds, separable, verdict
from grao.studies.study import study_result


def record(arm: str, after: str, seed: int = 0, curve: tuple[float, ...] = (), error: str | None = None) -> CellRecord:
    before, gain = "l" * len(after), after
    points = [Point(5 * place, 40 * place, 1.5 * place, ras, 0.0) for place, ras in enumerate(curve)]
    cost = Cost(10, 80, 1000, 2000, {"training": 3.0, "rollout": 1.0, "reward": 0.5, "update": 1.5, "total": 4.0})
    outcomes = None if error else Outcomes("p", after, 0.25, 12.0, 0.1, before, gain)
    key = Key(arm, "final", 1e-3, seed)
    return CellRecord(key, {}, "", "", {"torch": "2"}, None, outcomes, None if error else cost, points, error)


def test_letters_and_back() -> None:
    assert letters([0.3, 0, None, -2, math.nan]) == "wt-l-"
    assert np.array_equal(verdicts("wt-l"), [1, 0, math.nan, -1], equal_nan=True)
    assert np.array_equal(wins("wt-l"), [1, 0, math.nan, 0], equal_nan=True)
    assert win_share([1, None, 0, -1]) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="all 2 verdicts"):
        win_share([None, None])


def test_one_seed_is_the_ordinary_evaluation() -> None:
    result = arm_result([record("grao", "w" * 30 + "t" * 20 + "l" * 50)], 0.95)
    assert result.ras.over_prompts == proportion(30, 100)
    assert result.ras_win_or_tie.over_prompts == proportion(50, 100)
    assert result.nag.over_prompts == net_share(30, 50, 100)
    assert result.ras.over_seeds is None
    assert result.before.over_prompts == proportion(0, 100)


def test_seeds_and_prompts_are_kept_apart() -> None:
    # shares 0.5 and 0.3: mean 0.4, deviation 0.1414, t(1) = 12.706: 0.4 +- 1.27, cut to 0 to 1
    runs = [record("grao", "w" * 50 + "l" * 50, 0), record("grao", "w" * 30 + "l" * 70, 1)]
    for order in (runs, runs[::-1]):
        ras = arm_result(order, 0.95).ras
        assert ras.over_prompts.value == pytest.approx(0.4)
        assert ras.over_prompts.n == 100
        assert ras.over_seeds.value == pytest.approx(0.4)
        assert (ras.over_seeds.low, ras.over_seeds.high, ras.over_seeds.n) == (0, 1, 2)


def test_comparisons_by_hand() -> None:
    # one seed: the main arm alone wins 7 prompts, the other alone 1: 2 * (1 + 8) / 2^8
    arms = {"grao": [record("grao", "w" * 7 + "l" + "w" * 12)], "sft": [record("sft", "l" * 7 + "w" + "w" * 12)]}
    (one,) = comparisons(arms, "grao", 0.95)
    assert one.p_prompts == one.p_prompts_corrected == pytest.approx(2 * 9 / 2**8)
    assert one.difference.over_prompts.value == pytest.approx(6 / 20)
    assert one.relative_ras == pytest.approx(19 / 13 - 1)
    assert one.p_seeds is None


def test_comparisons_over_seeds_with_correction() -> None:
    # eight seeds, each time better: 2 / 2^8; against two arms the smaller p-value is doubled, equal ones both are
    eight = range(8)
    arms = {
        "grao": [record("grao", "w" * (12 + seed) + "l" * (8 - seed), seed) for seed in eight],
        "sft": [record("sft", "w" * 5 + "l" * 15, seed) for seed in eight],
        "dpo": [record("dpo", "w" * 6 + "l" * 14, seed) for seed in (*eight[1:], 99)],
    }
    sft, dpo = comparisons(arms, "grao", 0.95)
    assert sft.p_seeds == pytest.approx(2 / 2**8)
    assert dpo.seeds == list(eight[1:])
    assert dpo.p_seeds == pytest.approx(2 / 2**7)
    assert (sft.p_seeds_corrected, dpo.p_seeds_corrected) == pytest.approx((4 / 2**8, 2 / 2**7))
    assert sft.difference.over_seeds.value == pytest.approx(sum((7 + seed) / 20 for seed in eight) / 8)


def test_a_missing_verdict_leaves_its_pair_out() -> None:
    arms = {"grao": [record("grao", "ww-l")], "sft": [record("sft", "lw-w")]}
    (one,) = comparisons(arms, "grao", 0.95)
    assert one.difference.over_prompts.value == 0
    assert one.difference.over_prompts.n == 3
    with pytest.raises(InputError, match="different numbers of prompts"):
        comparisons({"grao": [record("grao", "ww")], "sft": [record("sft", "www")]}, "grao", 0.95)


def test_curves_and_dynamics() -> None:
    runs = [record("grao", "wl", 0, (0.0, 0.4, 0.3)), record("grao", "wl", 1, (0.0, 0.2, 0.5))]
    band = curve_band(runs, 0.95)
    assert [point.ras.value for point in band.points] == pytest.approx([0, 0.3, 0.4])
    assert [point.reward_calls for point in band.points] == [0, 40, 80]
    arm = arm_result(runs, 0.95)
    assert arm.falling == pytest.approx((1 / 2 + 0) / 2)
    assert arm.calls_to_best == pytest.approx(40 + 40 * (0.38 - 0.3) / 0.1)
    assert arm.steps_to_best == pytest.approx(arm.calls_to_best / 8)
    assert arm_result([record("grao", "wl", 0, (0.0, 0.4))], 0.95).falling is None


def test_how_many_seeds_it_takes() -> None:
    assert [seeds_needed(tests, 0.05) for tests in (1, 2, 4, 5)] == [6, 7, 8, 8]


def compared(seeds: int, others: dict[str, int], failed: bool = False):
    """grao wins 60 of 100 prompts, the others as many as is said; the same in every seed."""
    study = Study(
        arms={"grao": {}, **{name: {} for name in others}},
        budget=BudgetConfig(steps=50),
        output="o",
        sandbox=SandboxConfig(),
        seeds=tuple(range(seeds)),
    )
    wanted = {"grao": 60, **others}
    finals = [
        record(arm, "w" * won + "l" * (100 - won), seed, (0.1, won / 100))
        for seed in range(seeds)
        for arm, won in wanted.items()
    ]
    if failed:
        finals[-1] = record(finals[-1].key.arm, "", seeds - 1, error="RuntimeError: <i>boom</i>")
    offered = [Candidate("grao", 1e-3, 0.4, 0.1), Candidate("grao", 1e-4, 0.3, 0.1)]
    return study_result(study, study_arms(study), offered, [], finals)


def test_prompts_and_seeds_at_once() -> None:
    # of 40 prompts grao alone wins 20 in both seeds, then 12: 0.5 and 0.3; squares of both reaches are added
    letters = {"grao": ("w" * 20 + "l" * 20, "w" * 12 + "l" * 28), "sft": ("l" * 40, "t" * 40)}
    arms = {arm: [record(arm, after, seed) for seed, after in enumerate(both)] for arm, both in letters.items()}
    (one,) = comparisons(arms, "grao", 0.95)
    two, both = one.difference, one.both.difference
    assert both == two.over_both == one.both.simultaneous  # a single comparison
    assert both.value - both.low == pytest.approx(
        math.hypot(0.4 - two.over_prompts.low, 0.4 - (0.4 - 0.1 * 12.7062047))
    )
    assert one.both.p == one.both.p_corrected > 0.05 > one.p_prompts
    assert one.win_or_tie.difference.value == pytest.approx(0.4 - 0.5)
    assert arm_result(arms["grao"], 0.95).ras.over_both.low == 0
    (alone,) = comparisons({arm: runs[:1] for arm, runs in arms.items()}, "grao", 0.95)
    assert alone.both is alone.win_or_tie is alone.difference.over_both is None


def test_intervals_of_a_family_hold_at_once() -> None:
    result = compared(8, {"sft": 30, "grpo": 57, "dpo": 61})
    for each in result.comparisons:
        wide, plain = each.both.simultaneous, each.both.difference
        assert wide.low < plain.low < plain.value == wide.value < plain.high < wide.high
        assert (plain.low > 0 or plain.high < 0) == (each.both.p < 0.05)
    ps = [each.both.p for each in result.comparisons]
    assert [each.both.p_corrected for each in result.comparisons] == list(
        holm(dict(zip("abc", ps, strict=True))).values()
    )
    assert [each.win_or_tie for each in result.comparisons] == [each.both for each in result.comparisons]  # no ties


def test_which_rate_a_selection_would_choose() -> None:
    # one run each on two prompts: both won, one won, none. Resamples: ww, wl, lw, ll of the second are 1/4 each; the
    # first always has 2 of 2, so of equals (the second drawn twice at its won prompt) the first is taken
    assert choice_shares([["ww"], ["wl"], ["ll"]]) == [1, 0, 0]
    share = choice_shares([["wl"], ["lw"]])  # the first unless prompt 2 is drawn twice
    assert share == pytest.approx([0.75, 0.25], abs=0.04)
    runs = choice_shares([["wl", "wl"], ["ww", "ll"]])  # runs are drawn too: by hand below
    # the second has 1, 1/2 or 0 with 1/4, 1/2, 1/4 by the runs; the first 1, 1/2 or 0 with the same by the prompts
    assert runs[1] == pytest.approx(1 / 4 * 3 / 4 + 1 / 2 * 1 / 4, abs=0.04)
    assert choice_shares([["w-"], ["-w"]]) == pytest.approx([0.75, 0.25], abs=0.04)  # nothing known counts as no win


def test_a_choice_that_is_not_clear_is_said() -> None:
    result = compared(2, {"sft": 30})
    offered = [Candidate("grao", 1e-3, 0.4, 0.1, None, 0.55), Candidate("grao", 3e-3, 0.3, 0.1, None, 0.45)]
    said = " ".join(notes(replace(result, candidates=offered)))
    assert "The choice of learning rate is uncertain" in said
    assert "bootstrap resamples also choose 0.003 instead of 0.001 for grao (45 %)." in said
    offered[0] = replace(offered[0], chosen=0.9)
    assert "uncertain" not in " ".join(notes(replace(result, candidates=offered)))


def test_right_answers_stand_beside_ras_where_they_were_recorded() -> None:
    result = compared(2, {"sft": 30})
    assert "Correct answers" not in render_study("a", result, "")
    runs = [record("grao", "wl", seed) for seed in (0, 1)]
    runs = [
        replace(run, outcomes=replace(run.outcomes, right=right)) for run, right in zip(runs, ("wl", "ww"), strict=True)
    ]
    arm = arm_result(runs, 0.95)
    assert arm.right.over_prompts.value == 0.75
    known = replace(result, arms=[replace(each, right=arm.right) for each in result.arms])
    assert "Correct answers" in render_study("a", known, "")
    assert next(csv.DictReader(io.StringIO(study_csv(known))))["right"] == "0.75"


def test_the_verdict_in_words() -> None:
    few = compared(3, {"sft": 30, "grpo": 59})
    assert on_prompts(few) == (
        "For new prompts and the same trained models (Holm-adjusted p-values): grao beats sft (+30.0 points, p < "
        "0.001) and does not differ significantly from grpo (+1.0 points, p = 1.00)."
    )
    assert on_seeds(few) == (
        "3 seeds cannot show whether this holds for new training runs on the same prompts: for 2 Holm-adjusted tests "
        "at 5 % it takes at least 7."
    )
    many = compared(8, {"sft": 30, "grpo": 90})
    assert "grao beats sft (+30.0 points, p = 0.016) and loses to grpo (-30.0 points, p = 0.016)" in on_seeds(many)
    assert verdict(many).startswith(
        "After 50 steps, grpo beats the reference most often, on 90.0 % of 100 held-out prompts, mean over 8 seeds "
        "(before training: 0.0 %; win-or-tie rate: 90.0 %). Its lead over the runner-up, grao with 60.0 %, is "
        "significant: p < 0.001 for new prompts and new training runs, 8 seeds. For new prompts and new training runs "
        "(Holm-adjusted p-values): grao beats sft (+30.0 points, p < 0.001) and loses to grpo (-30.0 points, p < "
        "0.001). For new prompts and the same trained models"
    )
    assert re.search(r"is not significant: p = 0.\d+ for new prompts .* runs, 3 seeds.$", separable(few))
    one = compared(1, {"sft": 30, "grpo": 60})
    assert separable(one).endswith("is not significant: p = 1.00 over prompts; a single seed cannot show more.")
    assert on_both(one) == ""


def test_every_two_arms_are_compared() -> None:
    result = compared(8, {"sft": 30, "grpo": 90})
    pairs = {(pair.arm, pair.other): pair for pair in result.pairs}
    assert list(pairs) == [("grao", "sft"), ("grao", "grpo"), ("sft", "grpo")]
    assert pairs["sft", "grpo"].difference.over_prompts.value == pytest.approx(-0.6)
    assert pairs["sft", "grpo"].p_seeds_corrected == pytest.approx(3 * 2 / 2**8)
    page = render_study("a", result, "")
    rows = re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", page[page.index('id="pairs"') :])
    assert [name for name, _ in rows[:3]] == ["grpo", "grao", "sft"]  # highest first
    assert re.findall('number">(.*?)<', rows[0][1]) == ["", "+30.0 bps", "+60.0 bps"]


def test_the_paper_stands_beside_a_study_of_its_kind() -> None:
    assert paper_tables(["grao", "sft"]) == []
    (table,) = paper_tables(["mine", "grao", "sft", "grpo"])
    assert [list(row.cells)[:3] for row in table.rows] == [
        ["grao", "64.60", "67.98"],
        ["sft", "30.95", "0.28"],
        ["grpo", "60.89", "60.74"],
    ]


def test_notes_say_what_is_missing() -> None:
    said = list(notes(compared(2, {"sft": 30}, failed=True)))
    error = "RuntimeError: <i>boom</i>"
    assert said[0] == f"Run sft-final-lr0.001-seed1 failed; use --retry to run it again. Error: {error}"
    assert said[1].startswith("sft has 1 of 2 seeds")
    assert said[2] == "The largest candidate learning rate was selected for grao (0.001); try larger ones."
    assert next(notes(compared(1, {"sft": 30}))).startswith("The largest candidate learning rate")


def test_the_page_is_whole_and_escaped() -> None:
    page = render_study("a <b>", compared(3, {"sft": 30, "grpo": 59}, failed=True), "arms: '<script>'")
    assert "a &lt;b&gt;" in page
    assert "&lt;i&gt;boom&lt;/i&gt;" in page
    assert "<script>'" not in page
    assert page.count("<figure>") == 4
    assert "src=" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_the_tables_fit_a_terminal() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for table in study_tables(compared(8, {"sft": 30, "grpo": 59})):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "60.0 %" in text
    assert "before training" in text


def test_the_csv_holds_the_numbers() -> None:
    result = compared(8, {"sft": 30})
    grao, sft = csv.DictReader(io.StringIO(study_csv(result)))
    assert float(grao["ras"]) == 0.6
    assert grao["p_prompts"] == ""
    assert float(sft["grao_minus_arm"]) == pytest.approx(0.3)
    assert float(sft["p_seeds_corrected"]) == result.comparisons[0].p_seeds_corrected
    assert float(sft["ras_low_over_prompts"]) == result.arms[1].ras.over_prompts.low
    assert float(sft["ras_low_over_both"]) == result.arms[1].ras.over_both.low
    assert float(sft["grao_minus_arm_win_or_tie_p"]) == result.comparisons[0].win_or_tie.p
    columns = list(grao)
    assert columns.index("falling") < columns.index("ras_low_over_both")  # what is new comes last
