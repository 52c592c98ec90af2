"""Is `method: auto` ever the wrong choice? The test that `docs/LOG.md` announced before it was run.

    python benchmarks/auto_test.py plan                     the power calculation, and what the test will take
    python benchmarks/auto_test.py run [--minutes 8]        does what is missing; the same command goes on
    python benchmarks/auto_test.py report                   the verdict, from the records in studies/auto-test

Twelve cells: base models by ability, two worlds, references that are plain or half of them bad, a judge that is right
or errs on 30 % of its verdicts. Every run does the same counted work. In each cell the best of five fixed arms is
chosen on seeds of its own and set against `auto` on others, seed by seed.
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
"""Seconds of counted work of a run: about 43 steps of GRPO, or 330 of SFT."""
CHOOSING, TESTING = (1000, 1001), (0, 1, 2, 3)
"""Seeds that choose a cell's comparator, and those that count."""
MARGIN, WORST = -0.02, -0.05
"""`auto` passes if the lower bound of its mean difference lies above the first, and no cell lies below the second."""
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
class Place:
    """One cell: a base model, its tasks, its references and its judge."""

    name: str
    ability: float
    world: dict[str, Any]
    noise: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The learning rate of all arms: the one that suits most of them on such a model in the stored studies."""
        return 3e-4 if self.ability > 0.5 else 1e-3


_OTHER, _UNSEEN = {"seed": 1}, {"objectives": ("truthful", "fair")}
PLACES = [
    *(Place(f"other-{ability:g}", ability, _OTHER) for ability in (0, 0.2, 0.5, 0.95)),
    *(Place(f"unseen-{ability:g}", ability, _UNSEEN) for ability in (0, 0.2, 0.5, 0.95)),
    *(Place(f"other-{ability:g}-bad-references", ability, _OTHER, {"references": 0.5}) for ability in (0.2, 0.95)),
    *(Place(f"other-{ability:g}-bad-judge", ability, _OTHER, {"rewards": 0.3}) for ability in (0.2, 0.95)),
]


def study(place: Place, arms: dict[str, dict[str, Any]], seeds: Sequence[int]) -> Study:
    """The runs of one cell."""
    return Study(
        arms=arms,
        budget=BudgetConfig(work=WORK),
        output=FOLDER / place.name,
        sandbox=SandboxConfig(ability=place.ability, **place.world),
        noise=NoiseConfig(**place.noise),
        base={"training": {"prompts_per_step": 16, "learning_rate": place.rate}},
        seeds=tuple(seeds),
        selection=SelectionConfig(seeds=(9999,)),  # nothing is selected; its seeds must be others
        evaluate_every=10,
    )


def ras(records: Sequence[CellRecord], arm: str, seeds: Sequence[int]) -> np.ndarray:
    """(N prompts, R seeds), 1 where the answer beats the reference, 0 where it does not, NaN without a verdict."""
    runs = {record.key.seed: record.outcomes for record in records if record.key.arm == arm and record.outcomes}
    return np.array([wins(runs[seed].after) for seed in seeds], dtype=float).T


def strongest(records: Sequence[CellRecord]) -> str:
    """The fixed arm with the most wins on the seeds that choose; of equals the first."""
    return max(FIXED, key=lambda arm: float(np.nanmean(ras(records, arm, CHOOSING))))


class DeadlineError(Exception):
    """The slice is over."""


class Screen:
    """Prints each run, and ends the slice before one that would begin too late."""

    def __init__(self, until: float) -> None:
        self.until = until

    def say(self, line: str) -> None:
        """As `StudyScreen.say`."""
        print(time.strftime("%H:%M:%S"), line, flush=True)

    def follow(self, recipe: object) -> None:
        """No judge on a server is asked."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Any]:
        """A phase without a bar."""
        yield lambda done, total: None

    @contextmanager
    def cell(self, title: str, left: float | None) -> Iterator[Any]:
        """One run."""
        if time.monotonic() > self.until:
            raise DeadlineError
        yield lambda done, total: None


def run(minutes: float, half: int | None) -> None:
    """Does what is missing, cell by cell."""
    screen = Screen(time.monotonic() + 60 * minutes)
    places = PLACES if half is None else PLACES[half::2]
    try:
        for place in places:
            print(place.name, flush=True)
            (FOLDER / place.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(FOLDER / "work.json", FOLDER / place.name)  # one set of rates for all cells
            run_study(study(place, FIXED, CHOOSING), screen)
            rival = strongest([*read_cells(FOLDER / place.name).values()])
            run_study(study(place, {"auto": {}, rival: FIXED[rival]}, TESTING), screen)
            pack_cells(FOLDER / place.name)
    except DeadlineError:
        print("the slice is over; the same command goes on")


def differences() -> dict[str, tuple[str, np.ndarray]]:
    """Cell -> its comparator, and (N, R) `auto` less it, for the cells that are complete."""
    complete = {}
    for place in PLACES:
        records = [*read_cells(FOLDER / place.name).values()]
        known = {(record.key.arm, record.key.seed) for record in records if record.outcomes}
        if not {(arm, seed) for arm in FIXED for seed in CHOOSING} <= known:
            continue
        rival = strongest(records)
        if {(arm, seed) for arm in ("auto", rival) for seed in TESTING} <= known:
            complete[place.name] = rival, ras(records, "auto", TESTING) - ras(records, rival, TESTING)
    return complete


@dataclass(frozen=True)
class CellResult:
    """`auto` against the comparator of one cell; RAS, and differences of it, as shares."""

    cell: str
    rival: str
    auto: float
    fixed: float
    low: float
    """Ends of the interval of `auto` minus `fixed` that holds for all cells at once."""
    high: float


@dataclass(frozen=True)
class Verdict:
    """Both end points: the mean difference over cells with its 95 % interval, and the cells that lie below `WORST`."""

    cells: list[CellResult]
    mean: float
    low: float
    high: float

    @property
    def below(self) -> list[str]:
        """Cells whose interval lies below `WORST`."""
        return [each.cell for each in self.cells if each.high < WORST]


def verdict() -> Verdict | None:
    """Of the cells that are complete; None while there is none."""
    complete = differences()
    if not complete:
        return None
    means = {name: np.nanmean(table, axis=0) for name, (_, table) in complete.items()}
    count, seeds = len(complete), len(TESTING)
    pooled = math.sqrt(float(np.mean([values.var(ddof=1) for values in means.values()])))  # over seeds, within cells
    free = count * (seeds - 1)
    bound = t.ppf(1 - (1 - LEVEL) / 2 / count, free)  # Bonferroni over the cells
    cells = []
    for name, (rival, table) in complete.items():
        records = [*read_cells(FOLDER / name).values()]
        mine, theirs = (float(np.nanmean(ras(records, arm, TESTING))) for arm in ("auto", rival))
        error = math.sqrt(pooled**2 / seeds + prompt_variance([table]))
        low, high = (mine - theirs + sign * bound * error for sign in (-1, 1))
        cells.append(CellResult(name, rival, mine, theirs, low, high))
    mean = float(np.mean([values.mean() for values in means.values()]))
    error = math.sqrt(pooled**2 / (seeds * count) + mean_variance(complete))
    low, high = (mean + sign * t.ppf((1 + LEVEL) / 2, free) * error for sign in (-1, 1))
    return Verdict(cells, mean, low, high)


def report() -> None:
    """Print every cell, and both end points."""
    result = verdict()
    if result is None:
        sys.exit("no cell is complete; run it first")
    print(f"{'cell':28}{'against':>16}{'auto':>8}{'rival':>8}{'less':>8}   all cells at once")
    for each in result.cells:
        shown = f"{100 * each.auto:8.1f}{100 * each.fixed:8.1f}{100 * (each.auto - each.fixed):+8.1f}"
        print(f"{each.cell:28}{each.rival:>16}{shown}   {100 * each.low:+.1f} to {100 * each.high:+.1f}")
    mean, low, high = (100 * value for value in (result.mean, result.low, result.high))
    print(f"\nmean over {len(result.cells)} of {len(PLACES)} cells: {mean:+.1f} ({low:+.1f} to {high:+.1f}) points")
    if len(result.cells) < len(PLACES):
        print("not complete: no verdict yet")
        return
    first, second = result.low > MARGIN, not result.below
    print(f"first end point, lower bound above {100 * MARGIN:+.0f}: {'reached' if first else 'missed'}")
    print(f"second, no cell below {100 * WORST:+.0f}: {'reached' if second else 'missed: ' + ', '.join(result.below)}")


def prompt_variance(tables: Sequence[np.ndarray]) -> float:
    """Of the mean difference over the prompts of one world, each prompt's mean over its tables and seeds."""
    per_prompt = np.nanmean(np.stack([np.nanmean(table, axis=1) for table in tables]), axis=0)
    return float(np.nanvar(per_prompt, ddof=1) / len(per_prompt))


def mean_variance(found: dict[str, tuple[str, np.ndarray]]) -> float:
    """Over prompts, of the mean over cells; cells of one world share their prompts."""
    worlds = {place.name: str(place.world) for place in PLACES}
    total = 0.0
    for world in set(worlds.values()):
        tables = [table for name, (_, table) in found.items() if worlds[name] == world]
        if tables:
            total += (len(tables) / len(found)) ** 2 * prompt_variance(tables)
    return total


def plan(deviation: float, prompt_error: float, seconds: float) -> None:
    """How likely the first end point is reached by an `auto` that is as good as the comparators, by number of seeds.

    Args:
        deviation: of a difference over seeds, within a cell.
        prompt_error: standard error of the mean over cells that comes of the prompts.
        seconds: of one run.
    """
    for seeds in (2, 3, 4, 6):
        error = math.sqrt(deviation**2 / (seeds * len(PLACES)) + prompt_error**2)
        needed = t.ppf((1 + LEVEL) / 2, len(PLACES) * (seeds - 1)) * error
        power = norm.cdf((-MARGIN - needed) / error)
        runs = len(PLACES) * (len(FIXED) * len(CHOOSING) + 2 * seeds)
        hours = runs * seconds / 3600
        print(f"{seeds} seeds: error {100 * error:.2f} points, power {power:.2f}, {runs} runs, {hours:.1f} core-hours")


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["plan", "run", "report"])
    parser.add_argument("--minutes", type=float, default=math.inf, help="end the slice after so many")
    parser.add_argument(
        "--half", type=int, choices=[0, 1], help="every other cell, so that two processes share the work"
    )
    parser.add_argument("--deviation", type=float, default=0.03, help="plan: of a difference over seeds")
    parser.add_argument("--prompt-error", type=float, default=0.006, help="plan: of the mean over cells, from prompts")
    parser.add_argument("--seconds", type=float, default=25.0, help="plan: of one run")
    told = parser.parse_args()
    if told.what == "plan":
        plan(told.deviation, told.prompt_error, told.seconds)
    elif told.what == "run":
        run(told.minutes, told.half)
    else:
        report()


if __name__ == "__main__":
    main()
