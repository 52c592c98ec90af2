"""Every table of README and docs that contains digits.

    TABLES     computed from the records of runs in studies/NAME/cells.jsonl
    RECORDED   copied from benchmarks/records/NAME.json, which stores the results of single runs and measurements
    PLAIN      without measurements: settings, options, formulas, tables of contents

`results.py --check` rejects any other table with a digit. docs/LOG.md is exempt: it is a dated notebook whose entries
are never rewritten.
"""

import json

from pages import auto_tables, claims_tables, horizon_tables, results_tables
from pages.cells import ROOT

TABLES = {**results_tables.TABLES, **claims_tables.TABLES, **auto_tables.TABLES, **horizon_tables.TABLES}
RECORDS: dict[str, dict] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "benchmarks" / "records").glob("*.json"))
}
"""Name -> page, command, date, machine, source (`from`), and either columns and rows or figures quoted in sentences."""
RECORDED = {name: record for name, record in RECORDS.items() if "rows" in record}

PLAIN: set[tuple[str, str]] = {
    ("docs/studies.md", " | would it hold | interval | test"),
    # Pointers and definitions.
    ("CONTRIBUTING.md", "question | answer"),
    ("docs/evaluation.md", "figure | what it says"),
    ("docs/evaluation.md", "doubt | raised where"),
    ("docs/from-trl.md", "TRL, transformers | here"),
    ("docs/method.md", "name | meaning"),
    ("docs/rewards.md", "argument | what it is"),
    ("docs/rewards.md", "rule | r(x) | settings"),
    ("docs/audit.md", "figure | from | to fix if"),
    ("docs/audit.md", "figure | to fix if"),
    ("docs/recipes.md", "recipe | trains | hardware | time"),
    ("docs/recipes.md", "recipe | what | time on two CPU cores | what came out"),
    ("docs/runs.md", "code | means"),
    ("docs/studies.md", "file | holds"),
    ("docs/claims.md", "claim | what we find | on which models | seeds | how sure"),
    ("docs/real-models.md", "what | licence | from"),
    ("docs/studies.md", "recipe in `recipes/studies/` | tests"),
    # Formulas with worked examples, and sources.
    ("docs/method.md", "`method.scope` | mean and deviation over | when all samples lose alike"),
    ("docs/method.md", "scope | mean | deviation | A_i | A_y | w_i | w_y"),
    ("docs/methods.md", "`method.name` | learns from | update of a prompt with samples o_i and reference y | source"),
    ("docs/theory.md", "name | verdict | graded"),
    ("docs/which-method.md", "your situation | run | evidence | how sure"),
    # Settings.
    ("docs/performance.md", "`rollout.engine` | where it runs | what goes into `rollout.vllm`"),
}
"""(page, heading)."""
