"""Tables of methods at equal work over a long run, from `studies/horizon-weak` and `studies/horizon-able`."""

from collections.abc import Callable

from pages.cells import LEAD_OVER_BOTH, RAS_BOTH, ROOT, TIE, Field, Measure, Spot, cut, share, to_best_of
from pages.grid import Grid, line

from grao.records.study import CellRecord, read_cells

RESULTS = "docs/results.md"
ARMS = {
    "grao": "GRAO",
    "grao-light": "GRAO light (`beta: 0.25`)",
    "grpo": "GRPO",
    "grpo-no-kl": "GRPO without KL",
    "ppo": "PPO",
    "sft": "SFT",
    "dpo": "DPO",
    "sft-grpo": "SFT 200 steps, then GRPO",
    "auto": "`auto`",
}
LOOKS = (45, 135, 270, 450)
"""Seconds of counted work; 450 are about 1,000 steps of GRPO."""


def ras_after(work: float) -> Measure:
    """Mean RAS at the evaluation closest to `work` seconds of counted work."""

    def measure(spot: Spot) -> str:
        return share(min(spot.curve, key=lambda point: abs(point.work - work)).ras.value)

    return measure


def steps(spot: Spot) -> str:
    """Optimiser steps, mean over seeds."""
    return f"{spot.result.cost.steps:,.0f}"


def _horizon(base: str) -> Grid:
    """All arms on one base."""
    return Grid(
        RESULTS,
        base,
        study=f"horizon-{base}",
        columns=[
            line("steps", steps),
            *[line(f"RAS after {work} s", ras_after(work)) for work in LOOKS[:-1]],
            line(f"after {LOOKS[-1]} s", RAS_BOTH),
            line("win or tie", TIE),
            line("right", Field("right")),
            line("cut", cut),
            line("GRAO minus the arm", LEAD_OVER_BOTH),
        ],
        rows=[line(title, arm=arm) for arm, title in ARMS.items()],
    )


def lead_of_seed(seed: int) -> Callable[[], str]:
    """Final RAS of GRAO minus that of GRPO on the weak base with one seed, points without sign."""
    return lambda: share(_run("weak", "grao", seed).curve[-1].ras - _run("weak", "grpo", seed).curve[-1].ras)


def variation(arm: str, seed: int) -> Callable[[], str]:
    """Range of RAS over the mean RAS from the middle of the long run on the able base, percent."""

    def number() -> str:
        late = [point.ras for point in _run("able", arm, seed).curve if point.work >= LOOKS[-1] / 2]
        return f"{100 * (max(late) - min(late)) * len(late) / sum(late):.1f}"

    return number


def _run(base: str, arm: str, seed: int) -> CellRecord:
    records = read_cells(ROOT / "studies" / f"horizon-{base}").values()
    return next(each for each in records if (each.key.arm, each.key.seed) == (arm, seed))


TABLES = {
    "horizon-weak": _horizon("weak"),
    "horizon-able": _horizon("able"),
    "claims-work": Grid(
        "docs/claims.md",
        "counted work of",
        columns=[
            line(f"{base}: to {ARMS[arm]}'s best", to_best_of(arm, "work"), study=f"horizon-{base}")
            for base in ("weak", "able")
            for arm in ("grpo", "ppo", "grao")
        ],
        rows=[line(ARMS[arm], arm=arm) for arm in ("grao", "grao-light", "grpo", "grpo-no-kl", "ppo", "sft-grpo")],
    ),
}
