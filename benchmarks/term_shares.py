"""Measures how large each of eq. 3's three terms is before and after step 200, as in the paper's figure on dynamics.

    python benchmarks/term_shares.py      300 steps on the weak base; two minutes on an idle core

Trains GRAO with eq. 3 as printed (`signed`) in the embedded world, with the learning rate of `positive` in
`studies/methods-weak`. Averages `terms_share/...`, each term's share in the sum of their magnitudes, over the steps up
to 200 and over those after it. Writes `benchmarks/records/term-shares.json`; its table is in docs/claims.md.
"""

import os
import tempfile
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads slow down a shared machine

from common import write_record

from grao.cli.screen import TerminalScreen, open_console, quiet_libraries
from grao.config.load import load_recipe
from grao.records.run import read_metrics
from grao.sandbox.world import Sandbox, prepare
from grao.studies.train import start_run

BASE, SIGN, RATE = "weak", "signed", "1e-3"
STEPS, TURN = 300, 200
TERMS = ("exploration", "imitation", "regulariser")


def shares(world: Sandbox, folder: Path, screen: TerminalScreen) -> list[str]:
    """Train, and return the three shares in percent up to step `TURN`, and after it."""
    recipe = load_recipe(
        None,
        [
            ("model.path", str(world.model)),
            ("data.path", str(world.train)),
            ("data.test_path", str(world.test)),
            ("rewards.0.function", "grao.sandbox.judge:gold"),
            ("method.sign", SIGN),
            ("rollout.max_new_tokens", "40"),
            ("training.prompts_per_step", "16"),
            ("training.learning_rate", RATE),
            ("training.steps", str(STEPS)),
            ("training.trainer", "{logging_steps: 1}"),
            ("evaluation.enabled", "false"),
            ("output", str(folder / "run")),
        ],
    )
    lines = [line for line in read_metrics(start_run(recipe, screen).folder) if "terms_share/exploration" in line]
    halves = [[line for line in lines if (line["step"] <= TURN) is early] for early in (True, False)]
    return [f"{100 * mean(line[f'terms_share/{term}'] for line in half):.0f}" for half in halves for term in TERMS]


def main() -> None:
    """Train and write the record."""
    with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
        row = shares(prepare(ability=BASE), Path(folder), TerminalScreen(open_console()))
    write_record(
        "term-shares",
        "docs/claims.md",
        "python benchmarks/term_shares.py",
        machine="two CPU cores, shared with other work",
        source="written by the command",
        columns=["base, sign", *(f"{term}, {when}" for when in (f"to step {TURN}", "after") for term in TERMS)],
        rows=[[f"{BASE}, `{SIGN}`", *row]],
    )


if __name__ == "__main__":
    main()
