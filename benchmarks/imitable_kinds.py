"""Measures GRAO's lead over GRPO by kind of task: is it ahead where imitation alone already helps?

    python benchmarks/imitable_kinds.py     some seconds; uses the stored runs of `studies/methods-*`, trains nothing

The held-out prompts of these studies are regenerated; their order and kinds follow from the world's seed. Kinds are
ranked by how much SFT, which only imitates, improves win or tie on the weak base; the first five are called imitable,
on the able base too. SFT does not enter the difference of GRAO and GRPO, so the ranking favors neither. Because the
cutoff is arbitrary, a second table shows cutoffs after three to eight kinds. A third table groups the prompts by the
judge's score of their reference, from 0.6 (right but bare, or rambling) to 0.8 (brief, and explained or courteous); a
better answer must be all of these. Intervals are from a crossed bootstrap over prompts and seeds. Writes
`imitable-kinds.json`, `imitable-lines.json` and `reference-scores.json` in `benchmarks/records/`.
"""

from pathlib import Path

import numpy as np
from common import write_record

from grao.config.recipe import DataConfig
from grao.data.load import examples_from_dataset, fingerprint
from grao.evaluation.metrics import verdicts
from grao.records.study import read_cells
from grao.sandbox.judge import score
from grao.sandbox.tasks import USUAL_KINDS
from grao.sandbox.world import rows

ROOT = Path(__file__).resolve().parents[1]
RATES = {
    "methods-weak": dict.fromkeys(("grao", "grpo", "sft"), 1e-3),
    "methods-able": dict.fromkeys(("grao", "grpo"), 3e-4),
}
IMITABLE, RESAMPLES = 5, 4000


def outcomes(study: str, arm: str, when: str = "after") -> np.ndarray:
    """Return the verdicts (N prompts, R seeds) of an arm's final runs."""
    cells = [
        cell
        for key, cell in sorted(read_cells(ROOT / "studies" / study).items(), key=lambda item: item[0].seed)
        if (key.arm, key.role, key.learning_rate) == (arm, "final", RATES[study][arm]) and cell.outcomes
    ]
    return np.stack([verdicts(getattr(cell.outcomes, when)) for cell in cells], axis=1)


def crossed_bootstrap(difference: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % interval of the mean of (N, R), resampling prompts and seeds independently."""
    prompts, seeds = (rng.integers(size, size=(RESAMPLES, size)) for size in difference.shape)
    means = [difference[np.ix_(rows, columns)].mean() for rows, columns in zip(prompts, seeds, strict=True)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def lead(study: str, chosen: np.ndarray, least: int) -> str:
    """Return GRAO minus GRPO on the chosen prompts, in points, with its interval; `least` 1 is RAS, 0 win or tie."""
    difference = ((outcomes(study, "grao") >= least).astype(float) - (outcomes(study, "grpo") >= least))[chosen]
    low, high = crossed_bootstrap(difference, np.random.default_rng(0))
    return f"{100 * difference.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def score_row(study: str, chosen: np.ndarray) -> list[str]:
    """Return RAS before training, RAS and win or tie of GRAO and of GRPO, and GRAO's lead in both."""
    before = outcomes(study, "grao", "before")[chosen]
    after = [outcomes(study, arm)[chosen] for arm in ("grao", "grpo")]
    rates = [f"{100 * (arm > 0).mean():.1f}; {100 * (arm >= 0).mean():.1f}" for arm in after]
    return [f"{100 * (before > 0).mean():.1f}", *rates, lead(study, chosen, 1), lead(study, chosen, 0)]


def write(name: str, columns: list[str], body: list[list[str]]) -> None:
    """Write a table as a record, and print it."""
    source = "written by the command from studies/methods-weak and studies/methods-able"
    command = "python benchmarks/imitable_kinds.py"
    write_record(name, "docs/results.md", command, "any: no run is repeated", source, columns, body)
    print("\n".join(" | ".join(row) for row in (columns, *body)))


def main() -> None:
    """Write the three tables."""
    prompts = list(rows("test", 300, 0))
    held_out = fingerprint(examples_from_dataset(prompts, DataConfig(path="rows", rejected="rejected")))
    for study in RATES:
        stored = next(iter(read_cells(ROOT / "studies" / study).values())).settings["study.held_out"]
        if not held_out.startswith(stored):
            raise SystemExit(f"the regenerated held-out prompts are not those of studies/{study}")
    kinds = np.array([row["kind"] for row in prompts])
    before, after = ((outcomes("methods-weak", "sft", when) >= 0).mean(axis=1) for when in ("before", "after"))
    gain = {kind: (after - before)[kinds == kind].mean() for kind in USUAL_KINDS}
    ranked = sorted(USUAL_KINDS, key=lambda kind: -gain[kind])
    print(", ".join(f"{kind} {100 * gain[kind]:+.1f}" for kind in ranked))
    imitable = np.isin(kinds, ranked[:IMITABLE])
    write(
        "imitable-kinds",
        ["GRAO minus GRPO", "weak: win or tie", "weak: RAS", "able: win or tie", "able: RAS"],
        [
            [title, *(lead(study, chosen, least) for study in RATES for least in (0, 1))]
            for title, chosen in (
                (f"the {IMITABLE} kinds on which SFT gains most ({', '.join(ranked[:IMITABLE])})", imitable),
                ("the others", ~imitable),
            )
        ],
    )
    counts = range(3, 9)
    by_count = [np.isin(kinds, ranked[:count]) for count in counts]
    write(
        "imitable-lines",
        ["kinds called imitable", *map(str, counts)],
        [
            [title, *(lead("methods-weak", chosen, 0).split(" ")[0] for chosen in choices)]
            for title, choices in (("on these", by_count), ("on the others", [~chosen for chosen in by_count]))
        ],
    )
    columns = ("reference", "kind", "answer", "candidates", "detail")
    scores = np.array([score(*(row[column] for column in columns)) for row in prompts])
    write(
        "reference-scores",
        ["judge's score of the reference", "before", "GRAO", "GRPO", "lead in RAS", "lead in win or tie"],
        [
            [f"{study[8:]}, {value:.1f} ({(scores == value).sum()} prompts)", *score_row(study, scores == value)]
            for study in RATES
            for value in sorted(set(scores))
        ],
    )


if __name__ == "__main__":
    main()
