"""Tables of docs/claims.md, the paper's results next to ours, and of docs/method.md, the two signs."""

from pages.cells import LEAD_OVER_SEEDS, RAS, Field, cut, p_seeds, relative_ras, to_best_of
from pages.grid import Grid, line
from pages.results_tables import LEFT_OUT

from grao.reports.paper import paper_tables

CLAIMS, METHOD = "docs/claims.md", "docs/method.md"
_PAPER_GAINS = {
    "sft": ("+57.70", "+57.73"),
    "dpo": ("+17.65", "+17.67"),
    "ppo": ("+7.95", "+6.82"),
    "grpo": ("+5.18", "+6.35"),
}
_PAPER_TERMS = {
    row.cells[0]: row.cells[1:]
    for row in paper_tables(["grao", *(f"grao{row.spot.variant}" for row in LEFT_OUT[1:4])])[-1].rows
}
"""NAG values of the paper's ablation."""

TABLES: dict[str, Grid] = {
    "claims-gains": Grid(
        CLAIMS,
        "RAS of GRAO over that of",
        rows=[line(name.upper(), arm=name) for name in _PAPER_GAINS],
        columns=[
            line("paper, %", lambda spot: _PAPER_GAINS[spot.arm][0]),
            line("recomputed from its table, %", lambda spot: _PAPER_GAINS[spot.arm][1]),
            line("weak, %", relative_ras, study="methods-weak"),
            line("points", LEAD_OVER_SEEDS, study="methods-weak"),
            line("able, %", relative_ras, study="methods-able"),
            line("points", LEAD_OVER_SEEDS, study="methods-able"),
        ],
    ),
    "claims-steps": Grid(
        CLAIMS,
        "steps of",
        rows=[
            line("GRAO", arm="grao"),
            line("GRAO, `signed`", arm="grao-signed"),
            line("GRPO", arm="grpo"),
            line("PPO", arm="ppo"),
        ],
        columns=[
            line(f"{base}: to {name}'s end", to_best_of(arm), study=f"methods-{base}")
            for base in ("weak", "able")
            for name, arm in (("GRAO", "grao"), ("GRPO", "grpo"), ("PPO", "ppo"))
        ],
    ),
    "claims-terms": Grid(
        CLAIMS,
        "left out",
        rows=LEFT_OUT[:4],
        columns=[
            line("paper: Qwen", lambda spot: _PAPER_TERMS[spot.name][0], arm="grao"),
            line("paper: Moonlight", lambda spot: _PAPER_TERMS[spot.name][1], arm="grao"),
            *[
                line(f"{base}, `{sign}`", Field("nag", "{value} ({prompts})"), study=f"terms-{base}-ablation", arm=arm)
                for base in ("weak", "able")
                for sign, arm in (("positive", "grao"), ("signed", "signed"))
            ],
        ],
        study="terms-weak-ablation",
    ),
    "method-sign": Grid(
        METHOD,
        "base",
        rows=[line("weak", study="sign-weak"), line("able", study="methods-able")],
        columns=[
            line("RAS of `positive`, %", RAS, arm="grao"),
            line("RAS of `signed`, %", RAS, arm="grao-signed"),
            line("difference, points (over seeds)", LEAD_OVER_SEEDS, arm="grao-signed"),
            line("p over seeds, Holm-adjusted", p_seeds, arm="grao-signed"),
            line("answers at the token limit, %: `positive`", cut, arm="grao"),
            line("`signed`", cut, arm="grao-signed"),
        ],
    ),
}
