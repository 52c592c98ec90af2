"""Published results of the paper, shown next to a study of the same methods (arXiv 2508.07750).

The paper uses other models (Qwen2.5-7B, Moonlight-16B-A3B), data (Anthropic HH) and judge (DeepSeek-V3) and gives no
intervals, so only the order of the methods can be compared, not the values.
"""

from collections.abc import Sequence

from grao.reports.tables import Table, plain_table

_METHODS = {
    "sft": ("30.95", "0.28", "51.43", "0.61", "43.45", "-1.64", "60.52", "0.34"),
    "dpo": ("57.75", "54.12", "61.86", "25.32", "56.24", "26.20", "62.49", "3.98"),
    "ppo": ("60.87", "60.27", "66.11", "27.79", "64.37", "40.35", "70.97", "20.16"),
    "grpo": ("60.89", "60.74", "65.61", "28.26", "68.89", "50.82", "68.08", "12.11"),
    "grao": ("64.60", "67.98", "68.01", "31.06", "70.84", "55.06", "76.82", "34.85"),
}
"""RAS and NAG in percent: Qwen helpful, Qwen harmless, Moonlight helpful, Moonlight harmless."""
_COLUMNS = [
    f"{model} {criterion} {measure}"
    for model in ("Qwen", "Moonlight")
    for criterion in ("helpful", "harmless")
    for measure in ("RAS", "NAG")
]
_TERMS = {
    "grao": ("67.98", "55.06"),
    "grao-no-imitation": ("63.79", "49.87"),
    "grao-no-exploration": ("64.38", "43.86"),
    "grao-no-regulariser": ("61.18", "46.26"),
}
"""NAG in percent on helpful: Qwen, Moonlight."""
_FEWEST = 3
"""Fewest arms that a study must share with a table of the paper for the table to be shown."""


def paper_tables(arms: Sequence[str]) -> list[Table]:
    """Return the rows of the paper's tables for arms of these names, from tables with enough shared arms."""
    tables = ("Methods", _METHODS, _COLUMNS), ("Ablation", _TERMS, ["Qwen helpful NAG", "Moonlight helpful NAG"])
    shared = [
        (title, columns, [[arm, *numbers[arm]] for arm in arms if arm in numbers]) for title, numbers, columns in tables
    ]
    return [plain_table(title, ["arm", *columns], rows) for title, columns, rows in shared if len(rows) >= _FEWEST]
