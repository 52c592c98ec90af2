"""A study from its recipe to its table: what it leaves, what it repeats, and that it can be stopped anywhere."""

import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from forked import Forked
from grao.cli.main import main
from grao.config.arms import method_names, spots, study_arms, with_method
from grao.config.load import load_config
from grao.config.study import Study
from grao.data.load import load_split
from grao.errors import InputError, RewardUnavailableError
from grao.evaluation.metrics import letters
from grao.records.answers import read_answers
from grao.records.study import CellRecord, Cost, Key, Outcomes, Point, pack_cells, read_cells, read_study
from grao.sandbox.world import prepare as build_sandbox
from grao.studies import runner
from grao.studies.cells import Material, is_valid, study_cells
from grao.studies.runner import run_cell
from grao.studies.study import quick, run_study
from tiny import study_folder

STUDIES = sorted((Path(__file__).resolve().parents[1] / "recipes" / "studies").glob("*.yaml"))
REWARD = """
import os, time
from grao.errors import RewardUnavailableError
def vowels(completions):
    return [sum(letter in "ae" for letter in text) / (1 + len(text)) for text in completions]
def shouts(completions):
    return [float(len(text)) for text in completions]
def spy(prompts, completions):
    with open("asked", "a") as asked:
        asked.writelines(f"{prompt}\\n" for prompt in prompts)
    return vowels(completions)
def slow(completions):
    time.sleep(0.1)
    return vowels(completions)
def breaks(completions):
    if len(completions) > 2 and os.path.exists("breaks"):
        raise RuntimeError("no such <b>luck</b>")
    return vowels(completions)
def away(completions):
    if len(completions) > 2:
        raise RewardUnavailableError("the judge is down")
    return vowels(completions)
"""
STUDY = """
base:
  model: {path: model}
  data: {path: data.jsonl, held_out: 8}
  rewards: [{function: rewards.py:vowels}]
  rollout: {group_size: 4, temperature: 1.0, max_new_tokens: 8}
  training: {prompts_per_step: 3, learning_rate: 1e-2, trainer: {use_cpu: true}}
arms:
  grao: {}
  soft: {method.beta: 0.1}
budget: {steps: 3}
seeds: [0, 1]
output: study
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model, data, rewards and a study, as working directory."""
    monkeypatch.chdir(tmp_path)
    return study_folder(tmp_path, STUDY, REWARD)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that were really done."""
    names: list[str] = []

    def watched(cell, *rest):
        names.append(cell.key.name)
        return run_cell(cell, *rest)

    monkeypatch.setattr(runner, "run_cell", watched)
    return names


class Screen:
    """Keeps what a study says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def follow(self, recipe: object) -> None:
        """No judge is asked."""

    @contextmanager
    def cell(self, title: str, left: float | None = None):
        yield lambda done, total: None

    stage = cell


def study(*options: tuple[str, str]) -> Study:
    return load_config(Study, Path("study.yaml"), options)


def timeless(folder: Path) -> str:
    """The result without what the clock says."""
    result = json.loads((folder / "study.json").read_text())
    for arm in result["arms"]:
        del arm["cost"]["seconds"]
    for band in result["curves"]:
        for point in band["points"]:
            del point["seconds"]
    return json.dumps(result)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_in_recipes_is_read(path: Path) -> None:
    study = load_config(Study, path)
    assert len(study_arms(study)) == len(spots(study)) >= len(study.arms)
    assert study_arms(quick(study))


def test_what_a_study_leaves_behind(place: Path) -> None:
    result = run_study(study(("evaluate_every", "2")), Screen())
    folder = place / "study"
    assert {path.name for path in folder.iterdir()} == {
        "answers", "cells", "study.json", "study.csv", "study.html", "study.yaml", "work",
    }  # fmt: skip
    assert sorted(path.stem for path in (folder / "cells").iterdir()) == [
        "grao-final-lr0.01-seed0", "grao-final-lr0.01-seed1", "soft-final-lr0.01-seed0", "soft-final-lr0.01-seed1",
    ]  # fmt: skip
    assert sorted(path.name for path in (folder / "work").iterdir()) == [".gitignore", "before"]
    kept = read_answers(folder, result)
    assert [len(kept), list(kept[0].answers), list(kept[0].comparisons)] == [
        8,
        ["before", "grao", "soft"],
        ["grao|before", "soft|before"],
    ]
    for arm in ("grao", "soft"):
        outcomes = read_cells(folder)[Key(arm, "final", 0.01, 0)].outcomes
        assert letters([item.answers[arm].reward for item in kept]) == outcomes.after
        assert letters([item.comparisons[f"{arm}|before"] for item in kept]) == outcomes.gain
    assert not any(item.answers["grao"].token_ids for item in kept)
    assert read_study(folder) == result
    assert load_config(Study, folder / "study.yaml") == study(("evaluate_every", "2"))
    assert [arm.seeds for arm in result.arms] == [[0, 1], [0, 1]]

    record = read_cells(folder)[Key("grao", "final", 0.01, 0)]
    assert record.cost.steps == 3
    assert record.cost.reward_calls == 3 * 3 * 4
    assert [(point.step, point.reward_calls) for point in record.curve] == [(0, 0), (2, 24), (3, 36)]
    assert record.curve[-1].ras == record.outcomes.after.count("w") / 8
    assert record.curve[0].ras == record.outcomes.before.count("w") / 8
    others = [read_cells(folder)[Key("soft", "final", 0.01, seed)] for seed in (0, 1)]
    assert others[0].outcomes.before == record.outcomes.before
    assert others[0].outcomes.prompts == others[1].outcomes.prompts == record.outcomes.prompts
    assert (folder / "cells" / "grao-final-lr0.01-seed0.json").stat().st_size < 5_000


@pytest.mark.parametrize("lora", ["null", "{rank: 4, dropout: 0.1}"])
def test_arms_that_do_not_differ_come_to_the_same(place: Path, lora: str) -> None:
    same = study(("arms.soft", "{method: {beta: 0.5}}"), ("seeds", "[3]"), ("base.model.lora", lora))
    result = run_study(same, Screen())
    one, other = (replace(arm, arm="", cost=replace(arm.cost, seconds={})) for arm in result.arms)
    assert one == other
    assert result.comparisons[0].difference.over_prompts.value == 0
    assert result.comparisons[0].p_prompts == 1


def test_half_of_the_records_lost(place: Path, done: list[str]) -> None:
    run_study(study(("evaluate_every", "1")), Screen())
    whole = timeless(place / "study")
    lost = ["grao-final-lr0.01-seed1", "soft-final-lr0.01-seed0"]
    (place / "study" / "cells" / f"{lost[0]}.json").unlink()
    (place / "study" / "cells" / f"{lost[1]}.json").write_text('{"key": {"arm": "soft"')
    shutil.rmtree(place / "study" / "work")
    done.clear()
    run_study(study(("evaluate_every", "1")), Screen())
    assert sorted(done) == lost
    assert timeless(place / "study") == whole


def test_packed_records_count_and_newer_ones_win(place: Path, done: list[str]) -> None:
    run_study(study(), Screen())
    folder, whole = place / "study", timeless(place / "study")
    records = read_cells(folder)
    pack_cells(folder)
    assert not (folder / "cells").exists()
    seeds = [json.loads(line)["settings"]["seed"] for line in (folder / "cells.jsonl").read_text().splitlines()]
    assert seeds == [0, 1, 0, 1]
    assert list(read_cells(folder).items()) == sorted(records.items(), key=lambda item: item[0].name)
    done.clear()
    run_study(study(), Screen())
    assert done == []
    assert timeless(folder) == whole
    run_study(study(("arms.soft.method.beta", "0.2")), Screen())
    assert done == ["soft-final-lr0.01-seed0", "soft-final-lr0.01-seed1"]
    assert len(list((folder / "cells").iterdir())) == 2
    assert read_cells(folder)[Key("soft", "final", 0.01, 0)].settings["method.beta"] == 0.2
    pack_cells(folder)
    assert len((folder / "cells.jsonl").read_text().splitlines()) == 4
    assert read_cells(folder)[Key("soft", "final", 0.01, 1)].settings["method.beta"] == 0.2
    (folder / "cells.jsonl").write_text((folder / "cells.jsonl").read_text()[:-100])
    done.clear()
    run_study(study(("arms.soft.method.beta", "0.2")), Screen())
    assert done == ["soft-final-lr0.01-seed1"]


def test_killed_and_begun_again(place: Path) -> None:
    running = Forked(lambda: main(["compare", "--config", "study.yaml", "--output", "killed"]))
    deadline = time.monotonic() + 90
    while not list((place / "killed").glob("cells/*.json")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert 1 <= len(list((place / "killed" / "cells").glob("*.json"))) < 4
    run_study(study(("output", "killed")), Screen())
    run_study(study(), Screen())
    assert timeless(place / "killed") == timeless(place / "study")


def test_only_what_a_change_concerns_is_done_again(place: Path, done: list[str]) -> None:
    run_study(study(), Screen())
    done.clear()
    run_study(study(("base.rollout.batch_size", "8")), Screen())
    assert done == []
    run_study(study(("arms.soft.method.beta", "0.2")), Screen())
    assert done == ["soft-final-lr0.01-seed0", "soft-final-lr0.01-seed1"]
    done.clear()
    run_study(study(("arms.soft.method.beta", "0.2"), ("seeds", "[0, 1, 5]")), Screen())
    assert done == ["grao-final-lr0.01-seed5", "soft-final-lr0.01-seed5"]
    done.clear()
    (place / "rewards.py").write_text(REWARD + "\n# changed\n")
    run_study(study(("seeds", "[0]")), Screen())
    assert done == ["grao-final-lr0.01-seed0", "soft-final-lr0.01-seed0"]


def test_a_field_that_came_later_counts_as_its_default(place: Path) -> None:
    material = Material(study())
    cell, *_ = study_cells(material, study_arms(study()), "final", {"grao": [0.01]})
    record = CellRecord(cell.key, dict(cell.settings), "", "", {}, None)
    assert is_valid(record, cell.settings)
    del record.settings["method.sign"]
    assert is_valid(record, cell.settings)
    assert not is_valid(record, cell.settings | {"method.sign": "signed"})
    assert not is_valid(record, cell.settings | {"method.beta": 0.4})
    record.settings["method.gone"] = 1
    assert not is_valid(record, cell.settings)


SELECTING = (("learning_rates", "[1e-3, 1e-2, 1e-1]"), ("selection.prompts", "4"), ("seeds", "[0]"))


def test_selection_never_sees_the_test_prompts(place: Path) -> None:
    chosen = study(*SELECTING, ("base.rewards.0.function", "rewards.py:spy"))
    split = load_split(study_arms(chosen)[0].recipe.data, 0)
    test, train = ({example.prompt for example in side} for side in (split.test, split.train))
    arms = study_arms(chosen)
    cells = study_cells(Material(chosen), arms, "select", {arm.name: arm.learning_rates for arm in arms})
    assert len(cells) == 6
    run_cell(cells[0], place / "before")
    asked = set((place / "asked").read_text().splitlines())
    assert asked
    assert asked <= train
    assert not asked & test
    for cell in cells:
        judged = {example.prompt for example in cell.split.test}
        assert len(judged) == 4
        assert judged <= train
        assert not judged & {example.prompt for example in cell.split.train}


def test_the_selected_rate_is_the_best_on_the_kept_away_prompts(place: Path, done: list[str]) -> None:
    result = run_study(study(*SELECTING, ("arms.soft.learning_rates", "[2e-2]")), Screen())
    assert [one.learning_rate for one in result.candidates] == [1e-3, 1e-2, 1e-1]
    records = [read_cells(place / "study")[Key("grao", "select", rate, 1000)] for rate in (1e-3, 1e-2, 1e-1)]
    assert [one.ras for one in result.candidates] == [record.outcomes.after.count("w") / 4 for record in records]
    ranked = sorted(result.candidates, key=lambda one: (-one.ras, -one.mean_reward, one.learning_rate))
    assert [arm.learning_rate for arm in result.arms] == [ranked[0].learning_rate, 2e-2]
    assert len(done) == 3 + 2
    assert "Candidate learning rates" in (place / "study" / "study.html").read_text()


BROKEN = (("arms.soft.rewards", "[{function: 'rewards.py:breaks', name: vowels}]"), ("seeds", "[0]"))


def test_a_failed_run_stands_in_the_result_and_is_tried_again_on_request(place: Path, done: list[str]) -> None:
    (place / "breaks").touch()
    screen = Screen()
    result = run_study(study(*BROKEN), screen)
    assert [arm.arm for arm in result.arms] == ["grao"]
    assert result.absent == ["soft"]
    assert [failure.cell for failure in result.failures] == ["soft-final-lr0.01-seed0"]
    assert "no such <b>luck</b>" in result.failures[0].error
    assert any("FAILED" in line for line in screen.lines)
    page = (place / "study" / "study.html").read_text()
    assert "no such &lt;b&gt;luck&lt;/b&gt;" in page
    assert "<b>luck" not in page
    (place / "breaks").unlink()
    assert run_study(study(*BROKEN), Screen()).failures == result.failures
    assert len(done) == 2
    again = run_study(study(*BROKEN), Screen(), retry=True)
    assert [arm.arm for arm in again.arms] == ["grao", "soft"]
    assert again.failures == []
    assert done[2:] == ["soft-final-lr0.01-seed0"]


def test_a_failed_run_is_counted_once(place: Path, done: list[str]) -> None:
    (place / "breaks").touch()
    rates = ("arms.soft.learning_rates", "[1e-2, 2e-2]"), ("arms.soft.rewards", "[{function: 'rewards.py:breaks'}]")
    alone = study(*rates, ("seeds", "[0]"), ("selection.prompts", "2"))
    screen = Screen()
    result = run_study(alone, screen)
    assert [failure.cell for failure in result.failures] == [f"soft-select-lr{rate}-seed1000" for rate in (0.01, 0.02)]
    numbered = [line.split(" ")[0] for line in screen.lines if "rate" in line]
    assert numbered == ["1/4", "2/4", "3/3"]  # no final run of an arm without a rate
    screen = Screen()
    run_study(alone, screen, retry=True)
    assert [line.split(" ")[0] for line in screen.lines if "rate" in line] == ["1/4", "2/4"]


def test_a_reward_that_cannot_be_had_stops_the_study(place: Path) -> None:
    away = study(("arms.soft.rewards", "[{function: 'rewards.py:away'}]"), ("seeds", "[0]"))
    with pytest.raises(RewardUnavailableError, match="the judge is down; finished runs are kept"):
        run_study(away, Screen())
    assert [path.stem for path in (place / "study" / "cells").iterdir()] == ["grao-final-lr0.01-seed0"]


def test_if_every_run_fails_there_is_no_table(place: Path) -> None:
    with pytest.raises(
        InputError, match=r"all runs of the study failed; the first: grao-final-lr0.01-seed0: .*nowhere"
    ):
        run_study(study(("base.model.path", "nowhere"), ("seeds", "[0]")), Screen())


def test_ctrl_c_keeps_what_is_finished(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupted(cell, *rest):
        if cell.key.name == "soft-final-lr0.01-seed0":
            raise KeyboardInterrupt
        return run_cell(cell, *rest)

    monkeypatch.setattr(runner, "run_cell", interrupted)
    assert main(["compare", "--config", "study.yaml"]) == 130
    assert "the same command resumes the study" in capsys.readouterr().err
    assert [path.stem for path in (place / "study" / "cells").iterdir()] == ["grao-final-lr0.01-seed0"]


class Clock:
    """Stands for `time` in the runner and the study: each run takes the seconds that its arm is said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **takes: float) -> None:
        self.now = 0.0
        self.takes = takes
        for module in ("runner", "study"):
            monkeypatch.setattr(f"grao.studies.{module}.time", self)
        monkeypatch.setattr(runner, "run_cell", self.pretended)

    def monotonic(self) -> float:
        return self.now

    def pretended(self, cell, *rest) -> CellRecord:
        took = self.takes[cell.key.arm]
        self.now += took
        seconds = dict.fromkeys(("training", "rollout", "reward", "update"), 0.0) | {"total": took}
        after = "wl" if cell.key.learning_rate > 1e-3 else "ll"
        outcomes = Outcomes("", after, 0.0, 1.0, 0.0, *(("", "") if cell.key.role == "select" else (after, after)))
        curve = [Point(3, 0, 0.0, 0.5, 0.0)]
        return CellRecord(cell.key, cell.settings, "", "", {}, None, outcomes, Cost(3, 0, 0, 0, seconds), curve)


def test_no_run_begins_that_would_not_end_in_time(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    clock, folder = Clock(monkeypatch, grao=50.0, soft=20.0), place / "it's"
    words = ["compare", "--config", "study.yaml", "--minutes", "2", "--output", "it's", "--seeds", "[0, 1, 2]"]
    words += ["--learning_rates", "[1e-3, 1e-2]", "--selection.prompts", "4", "--arms.soft.learning_rates", "[1e-2]"]

    def ran() -> list[str]:
        return sorted(path.stem.replace("-lr0.01", "") for path in folder.glob("cells/*"))

    # both selections; of the first seed's two runs grao's 50 s would end at 150 s
    assert main(words) == 0
    assert ran() == ["grao-select-lr0.001-seed1000", "grao-select-seed1000"]
    left = "time is up: 6 runs are left; resume with grao compare --config study.yaml --minutes=2 '--output=it'\"'\"'s'"
    assert f"{left} '--seeds=[0, 1, 2]' '--learning_rates=[1e-3, 1e-2]'" in capsys.readouterr().out
    assert not (folder / "study.json").exists()

    # 50, 20, then 50: the next run of soft is known to take 20 and would end at 140 s
    begun = clock.now
    assert main(words) == 0
    assert clock.now - begun == 120
    assert ran() == ["grao-final-seed0", "grao-final-seed1", "grao-select-lr0.001-seed1000", "grao-select-seed1000",
                     "soft-final-seed0"]  # fmt: skip
    assert "3 runs are left" in capsys.readouterr().out

    assert main([*words, "--minutes", "1"]) == 0  # soft's 20 s, but not grao's 50 behind them
    assert "2 runs are left" in capsys.readouterr().out
    clock.takes = {"grao": 500.0, "soft": 20.0}
    assert main(words) == 0  # the first always begins, however long it takes
    assert "1 run is left" in capsys.readouterr().out
    assert main(words) == 0
    assert "time is up" not in capsys.readouterr().out
    assert len(ran()) == 8
    assert read_study(folder).arms[0].seeds == [0, 1, 2]


def test_others_judge_than_those_that_are_trained_on(place: Path, done: list[str]) -> None:
    judged = ("judges", "[{function: 'rewards.py:shouts', name: loud}]"), ("seeds", "[0]"), ("evaluate_every", "2")
    run_study(study(*judged), Screen())
    record = read_cells(place / "study")[Key("grao", "final", 0.01, 0)]
    kept = read_answers(place / "study", read_study(place / "study"))
    for item in kept:
        answer = item.answers["grao"]
        assert [said.reward for said in answer.said] == ["loud"]
        assert answer.reward == len(answer.text) - len(item.reference)
    assert record.outcomes.after == letters([item.answers["grao"].reward for item in kept])
    assert record.outcomes.gain == letters([item.comparisons["grao|before"] for item in kept])
    assert record.curve[0].mean_reward == pytest.approx(sum(item.answers["before"].reward for item in kept) / len(kept))
    assert {name: value for name, value in record.settings.items() if "judges" in name and value == "loud"} == {
        "study.judges.0.name": "loud"
    }
    done.clear()
    run_study(study(*judged), Screen())
    assert done == []
    run_study(study(*judged[1:]), Screen())  # another judge, other runs
    assert len(done) == 2


def test_budgets(place: Path) -> None:
    arms = study_arms(study(("budget", "{samples: 25}"), ("arms.soft.rollout.group_size", "2")))
    assert [arm.recipe.training.steps for arm in arms] == [3, 5]  # 25 / (3 * 4), 25 / (3 * 2)
    result = run_study(
        study(("budget", "{seconds: 0.35}"), ("base.rewards.0.function", "rewards.py:slow"), ("seeds", "[0]")), Screen()
    )
    for arm in result.arms:
        assert 1 <= arm.cost.steps <= 4  # each takes more than 0.1 seconds
        assert arm.cost.seconds["training"] >= 0.35
    with pytest.raises(InputError, match=r"arms.grao: training.schedule must be constant"):
        study_arms(study(("budget", "{seconds: 1}"), ("base.training.schedule", "linear")))


def test_models_are_kept_on_request(place: Path) -> None:
    run_study(study(("keep_models", "true"), ("seeds", "[0]")), Screen())
    kept = place / "study" / "models" / "grao-final-lr0.01-seed0"
    assert (kept / "model.safetensors").exists()
    assert not list(kept.glob("*.bin"))


def test_arms_with_other_held_out_prompts_are_refused(place: Path) -> None:
    with pytest.raises(InputError, match=r"arms.soft: data: the held-out prompts are not those of grao"):
        run_study(study(("arms.soft.data.held_out", "5")), Screen())


def test_a_run_is_not_written_over(place: Path) -> None:
    (place / "study").mkdir()
    (place / "study" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"output: study contains a run"):
        run_study(study(), Screen())


def test_quick_is_small_and_lies_elsewhere(place: Path) -> None:
    small = quick(study(*SELECTING, ("arms.third", "{method.beta: 1.0}"), ("against", "soft")))
    assert list(small.arms) == ["soft", "grao"]
    assert [arm.learning_rates for arm in study_arms(small)] == [(1e-2,), (1e-2,)]
    assert small.seeds == (0,)
    assert small.budget.steps == 3
    assert quick(study(("budget", "{seconds: 60}"))).budget.steps == 6
    assert small.output == Path("study-quick")


def test_quick_in_the_embedded_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    recipe = next(path for path in STUDIES if path.stem == "sandbox-weak")
    built = partial(build_sandbox, cache=tmp_path / "cache", steps=10)  # of pretraining; 1,600 take two minutes
    monkeypatch.setattr("grao.studies.study.build_sandbox", built)
    monkeypatch.chdir(tmp_path)
    short = ["--base.rollout.group_size", "2", "--base.rollout.max_new_tokens", "12", "--sandbox.held_out", "40"]
    assert main(["compare", "--config", str(recipe), "--quick", "--output", "weak", *short]) == 0
    result = read_study(tmp_path / "weak-quick")
    assert [(arm.arm, arm.seeds) for arm in result.arms] == [("grao", [0]), ("grao-signed", [0])]
    assert result.arms[0].cost.reward_calls == 6 * 16 * 2
    assert "40 held-out prompts" in " ".join(capsys.readouterr().out.split())


def test_the_command(place: Path, capsys) -> None:
    assert main(["compare", "--config", "study.yaml", "--quick", "--seeds", "[4]"]) == 0
    shown = capsys.readouterr().out
    assert "RAS, strict wins" in shown
    assert "1/2 grao, rate 0.01, seed 4" in shown
    assert "study-quick/study.html" in shown
    assert (place / "study-quick" / "study.csv").read_text().count("\n") == 3
    page = (place / "study-quick" / "study.html").read_text()
    (place / "study-quick" / "study.html").unlink()
    assert main(["report", "study-quick"]) == 0
    assert "RAS, strict wins" in capsys.readouterr().out
    assert (place / "study-quick" / "study.html").read_text() == page


def test_several_processes_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="runs in one process"):
        run_study(study(), Screen())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "method.beta: 0.1",
            "method.betta: 0.1",
            "study.yaml: arms.soft: method.betta is unknown; did you mean method.beta",
        ),
        ("method.beta: 0.1", "learning_rates: [fast]", "arms.soft: learning_rates must be a list of numbers above 0"),
        ("method.beta: 0.1", "beta: 0.1", "arms.soft: beta is unknown; did you mean method.beta"),
        ("steps: 3", "steps: 3, samples: 5", "study.yaml, line 11: budget: a budget must be exactly one of"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds contains a value twice"),
        ("seeds: [0, 1]", "sedes: [0, 1]", "study.yaml, line 12: sedes is unknown; did you mean seeds"),
        ("seeds: [0, 1]", "against: dpo", "error: study.yaml: against: 'dpo' is not an arm; arms are grao, soft"),
        ("  soft:", "  a/b:", "arms: 'a/b' is not a valid name"),
        ("  rollout:", "  rolout:", "study.yaml: base: rolout is unknown; did you mean rollout"),
        ("output: study", "sandbox: {ability: 2}\noutput: study", "sandbox.ability must be"),
    ],
)
def test_a_wrong_study_is_one_line(place: Path, capsys, old: str, new: str, message: str) -> None:
    (place / "study.yaml").write_text(STUDY.replace(old, new))
    assert main(["compare", "--config", "study.yaml"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (place / "study").exists()


def test_an_arm_with_another_method_brings_its_section(place: Path) -> None:
    assert "grao" in method_names()
    fields = {"method.beta": 0.2, "rollout.group_size": 2}
    assert with_method("grao", fields, "sft") == {"method": {"name": "grao"}, **fields}
    assert with_method("soft", fields, "grao") == fields
