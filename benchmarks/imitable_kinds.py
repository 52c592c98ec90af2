"""Is GRAO ahead of GRPO where imitation alone already helps? By kind of task, from the stored runs of five methods.

    python benchmarks/imitable_kinds.py     some seconds; trains nothing

The held-out prompts of `studies/methods-*` are drawn again (their order and kinds follow from the world's seed).
Kinds are ranked by what SFT, which only imitates, gains on the weak base in win or tie; the first five are called
imitable. SFT takes no part in the difference of GRAO and GRPO, so the choice favours neither; but where the line is
drawn is a choice, so lines after three to eight kinds are shown too. On the able base the same five stand. A third
table divides the prompts by what the judge gives their reference, from 0.6 (right and bare, or rambling) to 0.8
(brief, and explained or courteous); only an answer that does both is better. Intervals are a bootstrap over prompts
and seeds at once (crossed). Writes `imitable-kinds.json`, `imitable-lines.json` and `reference-scores.json` of
`benchmarks/records/`.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

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
FIRST, DRAWS = 5, 4000


def table(study: str, arm: str, when: str = "after") -> np.ndarray:
    """(N prompts, R seeds) verdicts of an arm's final runs."""
    cells = [
        cell
        for key, cell in sorted(read_cells(ROOT / "studies" / study).items(), key=lambda item: item[0].seed)
        if (key.arm, key.role, key.learning_rate) == (arm, "final", RATES[study][arm]) and cell.outcomes
    ]
    return np.stack([verdicts(getattr(cell.outcomes, when)) for cell in cells], axis=1)


def crossed(difference: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the mean of (N, R), prompts and seeds both drawn with replacement."""
    prompts, seeds = (rng.integers(size, size=(DRAWS, size)) for size in difference.shape)
    means = [difference[np.ix_(rows, columns)].mean() for rows, columns in zip(prompts, seeds, strict=True)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def lead(study: str, chosen: np.ndarray, least: int) -> str:
    """GRAO less GRPO on the chosen prompts, in points, with its interval; `least` 1 counts wins, 0 ties too."""
    difference = ((table(study, "grao") >= least).astype(float) - (table(study, "grpo") >= least))[chosen]
    low, high = crossed(difference, np.random.default_rng(0))
    return f"{100 * difference.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def shown(study: str, chosen: np.ndarray) -> list[str]:
    """RAS before; of GRAO and of GRPO RAS, then win or tie; and both leads."""
    before = table(study, "grao", "before")[chosen]
    after = [table(study, arm)[chosen] for arm in ("grao", "grpo")]
    both = [f"{100 * (each > 0).mean():.1f}; {100 * (each >= 0).mean():.1f}" for each in after]
    return [f"{100 * (before > 0).mean():.1f}", *both, lead(study, chosen, 1), lead(study, chosen, 0)]


def write(name: str, columns: list[str], lines: list[list[str]]) -> None:
    """A record, and the same to the terminal."""
    record = {
        "page": "docs/results.md",
        "command": "python benchmarks/imitable_kinds.py",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": "any: no run is repeated",
        "from": "written by the command from studies/methods-weak and studies/methods-able",
        "columns": columns,
        "rows": lines,
    }
    path = ROOT / "benchmarks" / "records" / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(" | ".join(line) for line in (columns, *lines)))


def main() -> None:
    """All three tables."""
    prompts = list(rows("test", 300, 0))
    held_out = fingerprint(examples_from_dataset(prompts, DataConfig(path="rows", rejected="rejected")))
    for study in RATES:
        kept = next(iter(read_cells(ROOT / "studies" / study).values())).settings["study.held_out"]
        if not held_out.startswith(kept):
            raise SystemExit(f"the held-out prompts of studies/{study} are other ones")
    kinds = np.array([row["kind"] for row in prompts])
    gained = (table("methods-weak", "sft") >= 0).mean(axis=1) - (table("methods-weak", "sft", "before") >= 0).mean(
        axis=1
    )
    ranked = sorted(USUAL_KINDS, key=lambda kind: -gained[kinds == kind].mean())
    print(", ".join(f"{kind} {100 * gained[kinds == kind].mean():+.1f}" for kind in ranked))
    imitable = np.isin(kinds, ranked[:FIRST])
    write(
        "imitable-kinds",
        ["GRAO less GRPO", "weak: win or tie", "weak: RAS", "able: win or tie", "able: RAS"],
        [
            [title, *(lead(study, chosen, least) for study in RATES for least in (0, 1))]
            for title, chosen in (
                (f"the {FIRST} kinds on which SFT gains most ({', '.join(ranked[:FIRST])})", imitable),
                ("the others", ~imitable),
            )
        ],
    )
    counts = range(3, 9)
    first = [np.isin(kinds, ranked[:count]) for count in counts]
    write(
        "imitable-lines",
        ["kinds called imitable", *map(str, counts)],
        [
            [title, *(lead("methods-weak", side, 0).split(" ")[0] for side in sides)]
            for title, sides in (("on these", first), ("on the others", [~chosen for chosen in first]))
        ],
    )
    facts = ("reference", "kind", "answer", "candidates", "detail")
    scores = np.array([score(*(row[fact] for fact in facts)) for row in prompts])
    write(
        "reference-scores",
        ["the judge gives the reference", "before", "GRAO", "GRPO", "lead in RAS", "lead in win or tie"],
        [
            [f"{study[8:]}, {value:.1f} ({(scores == value).sum()} prompts)", *shown(study, scores == value)]
            for study in RATES
            for value in sorted(set(scores))
        ],
    )


if __name__ == "__main__":
    main()
