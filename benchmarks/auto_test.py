"""Tests whether `method: auto` is ever worse than the best fixed method; preregistered in `docs/LOG.md`.

    python benchmarks/auto_test.py plan                     power and cost of the test
    python benchmarks/auto_test.py run [--minutes 8]        the missing runs; repeat the command to continue
    python benchmarks/auto_test.py report                   the verdict, from the records in studies/auto-test

Twelve cells: base models by ability, two worlds, good references or half of them bad, a judge that is right or wrong on
30 % of its verdicts. Every run does the same amount of counted work. In each cell the best of five fixed arms is chosen
on separate seeds and compared with `auto` on others, seed by seed.
"""

import argparse
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, t

from grao.config.study import BudgetConfig, NoiseConfig, SandboxConfig, SelectionConfig, Study
from grao.evaluation.metrics import wins
from grao.records.study import CellRecord, pack_cells, read_cells
from grao.studies.study import run_study

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "studies" / "auto-test"
WORK = 20.0
"""Seconds of counted work per run: about 43 steps of GRPO, or 330 of SFT."""
CHOOSING, TESTING = (1000, 1001), (0, 1, 2, 3)
"""Seeds on which a cell's comparator is chosen, and those of the comparison."""
MARGIN, WORST = -0.02, -0.05
"""`auto` passes if the lower bound of its mean difference is above the first, and no cell is below the second."""
LEVEL = 0.95

_SFT = {"method": {"name": "sft"}, "until": {"steps": 100}}
FIXED: dict[str, dict[str, Any]] = {
    "sft": {},
    "grpo": {},
    "grao": {},
    "sft-grpo": {"stages": [_SFT, {"method": {"name": "grpo"}}]},
    "sft-grao-light": {"stages": [_SFT, {"method": {"name": "grao", "beta": 0.25}}]},
}


@dataclass(frozen=True)
class Cell:
    """One cell: a base model, its tasks, its references and its judge."""

    name: str
    ability: float
    world: dict[str, Any]
    noise: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The learning rate of all arms: the best for most of them on such a model in the stored studies."""
        return 3e-4 if self.ability > 0.5 else 1e-3


_OTHER, _UNSEEN = {"seed": 1}, {"objectives": ("truthful", "fair")}
SETTINGS = [
    *(Cell(f"other-{ability:g}", ability, _OTHER) for ability in (0, 0.2, 0.5, 0.95)),
    *(Cell(f"unseen-{ability:g}", ability, _UNSEEN) for ability in (0, 0.2, 0.5, 0.95)),
    *(Cell(f"other-{ability:g}-bad-references", ability, _OTHER, {"references": 0.5}) for ability in (0.2, 0.95)),
    *(Cell(f"other-{ability:g}-bad-judge", ability, _OTHER, {"rewards": 0.3}) for ability in (0.2, 0.95)),
]


def study(setting: Cell, arms: dict[str, dict[str, Any]], seeds: Sequence[int]) -> Study:
    """Return the study of one cell with these arms and seeds."""
    return Study(
        arms=arms,
        budget=BudgetConfig(work=WORK),
        output=FOLDER / setting.name,
        sandbox=SandboxConfig(ability=setting.ability, **setting.world),
        noise=NoiseConfig(**setting.noise),
        base={"training": {"prompts_per_step": 16, "learning_rate": setting.rate}},
        seeds=tuple(seeds),
        selection=SelectionConfig(seeds=(9999,)),  # unused, but must differ from the seeds
        evaluate_every=10,
    )


def ras(records: Sequence[CellRecord], arm: str, seeds: Sequence[int]) -> np.ndarray:
    """Return (N prompts, R seeds): 1 if the answer beats the reference, 0 if not, NaN without a verdict."""
    runs = {record.key.seed: record.outcomes for record in records if record.key.arm == arm and record.outcomes}
    return np.array([wins(runs[seed].after) for seed in seeds], dtype=float).T


def strongest(records: Sequence[CellRecord]) -> str:
    """Return the fixed arm with the most wins on the choosing seeds; the first one in a tie."""
    return max(FIXED, key=lambda arm: float(np.nanmean(ras(records, arm, CHOOSING))))


class DeadlineError(Exception):
    """The time limit has passed."""


class Screen:
    """Prints each run, and raises `DeadlineError` instead of starting one after the deadline."""

    def __init__(self, until: float) -> None:
        self.until = until

    def say(self, line: str) -> None:
        """Print a line with the time."""
        print(time.strftime("%H:%M:%S"), line, flush=True)

    def follow(self, recipe: object) -> None:
        """Do nothing: no judge server is used."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Any]:
        """Show no progress bar for a phase."""
        yield lambda done, total: None

    @contextmanager
    def cell(self, title: str, left: float | None) -> Iterator[Any]:
        """Start a run unless the deadline has passed."""
        if time.monotonic() > self.until:
            raise DeadlineError
        yield lambda done, total: None


def run(minutes: float, half: int | None) -> None:
    """Do the missing runs, cell by cell."""
    screen = Screen(time.monotonic() + 60 * minutes)
    settings = SETTINGS if half is None else SETTINGS[half::2]
    try:
        for setting in settings:
            folder = FOLDER / setting.name
            print(setting.name, flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(FOLDER / "work.json", folder)  # all cells count work alike
            run_study(study(setting, FIXED, CHOOSING), screen)
            rival = strongest([*read_cells(folder).values()])
            run_study(study(setting, {"auto": {}, rival: FIXED[rival]}, TESTING), screen)
            pack_cells(folder)
    except DeadlineError:
        print("time is up; repeat the command to continue")


def differences() -> dict[str, tuple[str, np.ndarray]]:
    """Return complete cell -> its comparator, and the difference `auto` minus comparator, (N, R)."""
    complete = {}
    for setting in SETTINGS:
        records = [*read_cells(FOLDER / setting.name).values()]
        done = {(record.key.arm, record.key.seed) for record in records if record.outcomes}
        if not {(arm, seed) for arm in FIXED for seed in CHOOSING} <= done:
            continue
        rival = strongest(records)
        if {(arm, seed) for arm in ("auto", rival) for seed in TESTING} <= done:
            complete[setting.name] = rival, ras(records, "auto", TESTING) - ras(records, rival, TESTING)
    return complete


@dataclass(frozen=True)
class CellResult:
    """`auto` against the comparator of one cell, as shares."""

    cell: str
    rival: str
    auto: float
    """RAS of `auto`."""
    fixed: float
    """RAS of the comparator."""
    low: float
    """Limits of the interval of `auto` minus `fixed`, simultaneous over all cells."""
    high: float


@dataclass(frozen=True)
class Verdict:
    """Both endpoints: the mean difference over cells with its 95 % interval, and the cells below `WORST`."""

    cells: list[CellResult]
    mean: float
    low: float
    high: float

    @property
    def below(self) -> list[str]:
        """Cells whose interval lies below `WORST`."""
        return [result.cell for result in self.cells if result.high < WORST]


def verdict() -> Verdict | None:
    """Return the verdict on the complete cells, None if there is none."""
    complete = differences()
    if not complete:
        return None
    means = {name: np.nanmean(table, axis=0) for name, (_, table) in complete.items()}
    count, seeds = len(complete), len(TESTING)
    pooled = math.sqrt(float(np.mean([values.var(ddof=1) for values in means.values()])))  # over seeds, within cells
    freedom = count * (seeds - 1)
    bound = t.ppf(1 - (1 - LEVEL) / 2 / count, freedom)  # Bonferroni over the cells
    cells = []
    for name, (rival, table) in complete.items():
        records = [*read_cells(FOLDER / name).values()]
        auto, fixed = (float(np.nanmean(ras(records, arm, TESTING))) for arm in ("auto", rival))
        error = math.sqrt(pooled**2 / seeds + prompt_variance([table]))
        low, high = (auto - fixed + sign * bound * error for sign in (-1, 1))
        cells.append(CellResult(name, rival, auto, fixed, low, high))
    mean = float(np.mean([values.mean() for values in means.values()]))
    error = math.sqrt(pooled**2 / (seeds * count) + mean_variance(complete))
    low, high = (mean + sign * t.ppf((1 + LEVEL) / 2, freedom) * error for sign in (-1, 1))
    return Verdict(cells, mean, low, high)


def report() -> None:
    """Print every cell, and both endpoints."""
    result = verdict()
    if result is None:
        sys.exit("no cell is complete; run it first")
    print(f"{'cell':28}{'against':>16}{'auto':>8}{'rival':>8}{'diff':>8}   simultaneous interval")
    for cell in result.cells:
        numbers = f"{100 * cell.auto:8.1f}{100 * cell.fixed:8.1f}{100 * (cell.auto - cell.fixed):+8.1f}"
        print(f"{cell.cell:28}{cell.rival:>16}{numbers}   {100 * cell.low:+.1f} to {100 * cell.high:+.1f}")
    mean, low, high = (100 * value for value in (result.mean, result.low, result.high))
    print(f"\nmean over {len(result.cells)} of {len(SETTINGS)} cells: {mean:+.1f} ({low:+.1f} to {high:+.1f}) points")
    if len(result.cells) < len(SETTINGS):
        print("not complete: no verdict yet")
        return
    first, second = result.low > MARGIN, not result.below
    print(f"first endpoint, lower bound above {100 * MARGIN:+.0f}: {'reached' if first else 'missed'}")
    missed = f"missed: {', '.join(result.below)}"
    print(f"second endpoint, no cell below {100 * WORST:+.0f}: {'reached' if second else missed}")


def prompt_variance(tables: Sequence[np.ndarray]) -> float:
    """Variance over prompts of the mean difference in one world, averaged over its cells and seeds."""
    per_prompt = np.nanmean(np.stack([np.nanmean(table, axis=1) for table in tables]), axis=0)
    return float(np.nanvar(per_prompt, ddof=1) / len(per_prompt))


def mean_variance(complete: dict[str, tuple[str, np.ndarray]]) -> float:
    """Variance over prompts of the mean over cells; cells of one world share their prompts."""
    worlds = {setting.name: str(setting.world) for setting in SETTINGS}
    total = 0.0
    for world in set(worlds.values()):
        tables = [table for name, (_, table) in complete.items() if worlds[name] == world]
        if tables:
            total += (len(tables) / len(complete)) ** 2 * prompt_variance(tables)
    return total


def plan(deviation: float, prompt_error: float, seconds: float) -> None:
    """Print, by number of seeds, the power for the first endpoint if `auto` is as good as the comparators.

    Args:
        deviation: standard deviation of a cell's difference over seeds.
        prompt_error: standard error of the mean over cells that is due to prompts.
        seconds: time of one run.
    """
    for seeds in (2, 3, 4, 6):
        error = math.sqrt(deviation**2 / (seeds * len(SETTINGS)) + prompt_error**2)
        needed = t.ppf((1 + LEVEL) / 2, len(SETTINGS) * (seeds - 1)) * error
        power = norm.cdf((-MARGIN - needed) / error)
        runs = len(SETTINGS) * (len(FIXED) * len(CHOOSING) + 2 * seeds)
        hours = runs * seconds / 3600
        print(f"{seeds} seeds: error {100 * error:.2f} points, power {power:.2f}, {runs} runs, {hours:.1f} core-hours")


def main() -> None:
    """Plan, run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["plan", "run", "report"])
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after this time")
    parser.add_argument(
        "--half", type=int, choices=[0, 1], help="every other cell, so that two processes share the work"
    )
    parser.add_argument(
        "--deviation", type=float, default=0.03, help="plan: standard deviation of a difference over seeds"
    )
    parser.add_argument("--prompt-error", type=float, default=0.006, help="plan: error of the mean from prompts")
    parser.add_argument("--seconds", type=float, default=25.0, help="plan: time of one run")
    options = parser.parse_args()
    if options.action == "plan":
        plan(options.deviation, options.prompt_error, options.seconds)
    elif options.action == "run":
        run(options.minutes, options.half)
    else:
        report()


if __name__ == "__main__":
    main()
