"""Tables of README and docs/results.md, each computed from the records of one or two studies."""

from pages.cells import (
    BEFORE,
    LEAD,
    LEAD_PROMPTS,
    LEAD_SEEDS,
    NAG,
    OVER_PROMPTS,
    OVER_SEEDS,
    RAS,
    RAS_BOTH,
    TIE,
    Field,
    Spot,
    both_p,
    cut,
    kappa,
    kappa_of,
    lead_tests,
    p_prompts,
    percent,
    ras_and_ties,
    rate,
    roughly_cut,
    seconds,
    with_ties,
)
from pages.grid import Grid, line

README, RESULTS = "README.md", "docs/results.md"

_METHODS = [
    line("GRAO (`positive`)", arm="grao"),
    line("GRAO (`signed`, eq. 3 as printed)", arm="grao-signed"),
    line("SFT", arm="sft"),
    line("DPO", arm="dpo"),
    line("PPO", arm="ppo"),
    line("GRPO", arm="grpo"),
]
_SIBLINGS = {
    "GRAO": "grao",
    "GRPO": "grpo",
    "CHORD-phi": "chord-phi",
    "LUFFY": "luffy",
    "HPT": "hpt",
    "CHORD-mu": "chord-mu",
    "SRFT": "srft",
}
LEFT_OUT = [
    line("nothing"),
    line("exploration", variant="-no-exploration"),
    line("imitation", variant="-no-imitation"),
    line("the regulariser", variant="-no-regulariser"),
    line("the reference from its group (scope `samples`)", variant="-scope-samples"),
]
_BASELINES = [
    line("relative to the group's mean alone", arm="mean-only"),
    line("relative to mean and deviation of the step's batch", arm="batch"),
    line("as they are", arm="raw-reward"),
]
_ABILITIES = [
    line("0", point="0"),
    line("0.2 (`weak`)", point="0.2"),
    line("0.5", point="0.5"),
    line("0.95 (`able`)", point="0.95"),
]
_BASE = line("before", BEFORE, arm="grao", plain=True)


def _methods(base: str) -> Grid:
    """Five methods on one base model."""
    return Grid(
        RESULTS,
        f"{base}, before: {{}}",
        study=f"methods-{base}",
        corner_number=(BEFORE, Spot(arm="grao")),
        columns=[
            line("rate", rate),
            line("RAS", RAS_BOTH),
            line("win or tie", TIE),
            line("NAG, net", NAG),
            line("cut", cut),
            line("difference", LEAD),
            line("p", both_p),
            line("seconds", seconds),
        ],
        rows=_METHODS,
        best="RAS",
    )


def _siblings(base: str, order: str) -> Grid:
    """GRAO, GRPO and published mixed methods on one base model."""
    return Grid(
        RESULTS,
        "arm",
        study=f"siblings-{base}",
        columns=[
            line("rate", rate),
            line("RAS", RAS),
            line("over prompts", OVER_PROMPTS),
            line("over seeds", OVER_SEEDS),
            line("win or tie", TIE),
            line("NAG, net", NAG),
            line("difference", LEAD),
            line("p", p_prompts),
        ],
        rows=[line(name, arm=_SIBLINGS[name]) for name in order.split()],
        best="RAS",
    )


def _ablation(base: str, cut_off: bool) -> dict[str, Grid]:
    """Ablations of the terms and of the reward baseline; with the share of completions cut off if `cut_off`."""
    cut_column = [("cut", roughly_cut)] if cut_off else []
    signs = {"`positive`": "grao", "`signed`": "signed"}
    terms = [("kappa", kappa, "grao")] if cut_off else []
    for title, arm in signs.items():
        measures = [(f"{title}: RAS", ras_and_ties), *cut_column, ("difference", LEAD_PROMPTS), ("p", p_prompts)]
        terms += [(name, measure, arm) for name, measure in measures]
    return {
        f"terms-{base}": Grid(
            RESULTS,
            "left out",
            study=f"terms-{base}-ablation",
            columns=[line(name, measure, arm=arm) for name, measure, arm in terms],
            rows=LEFT_OUT,
            best="RAS",
        ),
        f"rewards-{base}": Grid(
            RESULTS,
            "rewards are taken",
            study=f"terms-{base}-ablation",
            columns=[
                line("RAS", ras_and_ties),
                *[line(*column) for column in cut_column],
                line("difference", LEAD_PROMPTS),
                line("p", p_prompts),
            ],
            rows=_BASELINES,
            best="RAS",
        ),
    }


def _coefficient(name: str, study: str, values: str, best: str = "") -> Grid:
    """Sweep of beta or lambda, for both sign policies."""
    return Grid(
        RESULTS,
        name,
        study=study,
        columns=[line(value.replace("*", " (default)"), point=value.rstrip("*")) for value in values.split()],
        rows=[
            line("kappa", kappa_of({"lambda": "lambda_"}.get(name, name)), plain=True),
            line("`positive`", ras_and_ties, arm="grao"),
            line("`signed`", ras_and_ties, arm="grao-signed"),
        ],
        best=best,
    )


TABLES: dict[str, Grid] = {
    "readme-methods": Grid(
        README,
        "base model",
        rows=[
            line("right one time in ten; 100 steps", study="methods-weak"),
            line("the same; long run", study="horizon-weak"),
            line("right half the time; 100 steps", study="methods-able"),
            line("the same; long run", study="horizon-able"),
        ],
        columns=[
            _BASE,
            *[line(name.upper(), ras_and_ties, arm=name) for name in ("grao", "grpo", "ppo", "sft", "dpo")],
        ],
        best="rows",
    ),
    "methods-weak": _methods("weak"),
    "methods-able": _methods("able"),
    **_ablation("weak", cut_off=True),
    **_ablation("able", cut_off=False),
    "group-size": Grid(
        RESULTS,
        "samples per prompt",
        study="group-size",
        columns=[line(size, point=size) for size in ("2", "4", "8", "16")],
        rows=[
            line("GRAO", ras_and_ties, arm="grao"),
            line(
                "GRAO, beta 0.85, 0.66, 0.5, 0.37, so that kappa * sqrt(G) is as with 8",
                ras_and_ties,
                study="group-size-kappa",
                arm="grao",
            ),
            line("GRPO", ras_and_ties, arm="grpo"),
            line("GRAO minus GRPO", LEAD_PROMPTS, arm="grpo"),
            line("p", p_prompts, arm="grpo"),
        ],
    ),
    "beta": _coefficient("beta", "beta", "0 0.25 0.5* 1 2", best="table"),
    "lambda": _coefficient("lambda", "lambda", "0 0.3 0.6* 1.2"),
    "beta-able": _coefficient("beta", "beta-able", "0 0.05 0.1 0.25 0.5*", best="rows"),
    "temperature": Grid(
        RESULTS,
        "temperature of the samples (evaluated at 0.7)",
        study="temperature",
        columns=[line(t.replace("*", " (default)"), point=t.rstrip("*")) for t in ("0.4", "0.7*", "1", "1.4")],
        rows=[line("GRAO", ras_and_ties, arm="grao"), line("GRPO", ras_and_ties, arm="grpo")],
    ),
    "kappa": Grid(
        RESULTS,
        "kappa (beta, lambda 0), learning rate, two seeds",
        study="kappa",
        columns=[line(name, point=point) for name, point in (("3e-4", "0.0003"), ("1e-3", "0.001"), ("3e-3", "0.003"))],
        rows=[line(value, ras_and_ties, arm="grao", point=value) for value in ("0.05", "0.18", "0.36", "0.72", "1.44")],
        best="table",
    ),
    "light": Grid(
        RESULTS,
        "",
        rows=[line("weak", study="light-weak"), line("able", study="light-able")],
        columns=[
            _BASE,
            line("`light`", RAS_BOTH, arm="grao-light"),
            line("`grao`", RAS_BOTH, arm="grao"),
            line("GRPO", RAS_BOTH, arm="grpo"),
            line("`light` minus `grao`: over prompts, p; over seeds, p", lead_tests, arm="grao", plain=True),
            line("`light` minus GRPO", lead_tests, arm="grpo", plain=True),
        ],
        best="rows",
    ),
    "light-ties": Grid(
        RESULTS,
        "win or tie",
        rows=[line("weak", study="light-weak"), line("able", study="light-able")],
        columns=[
            line("`light`", TIE, arm="grao-light"),
            line("`grao`", TIE, arm="grao"),
            line("GRPO", TIE, arm="grpo"),
        ],
    ),
    "reference-noise": Grid(
        RESULTS,
        "references replaced",
        study="reference-noise",
        rows=[line("0", point="0"), line("a quarter", point="0.25"), line("half", point="0.5")],
        columns=[
            line("GRAO", ras_and_ties, arm="grao"),
            line("GRPO", ras_and_ties, arm="grpo"),
            line("SFT", ras_and_ties, arm="sft"),
            line("DPO", ras_and_ties, arm="dpo"),
            line("GRAO minus GRPO", LEAD_PROMPTS, arm="grpo"),
            line("GRAO minus SFT", LEAD_PROMPTS, arm="sft"),
        ],
    ),
    "experts": Grid(
        RESULTS,
        "",
        study="experts",
        rows=[line("dense", point="dense"), line("experts", point="moe")],
        columns=[
            _BASE,
            line("GRAO", with_ties, arm="grao"),
            line("GRPO", with_ties, arm="grpo"),
            line(
                "GRAO minus GRPO: over prompts, p", Field("difference", "{value} ({prompts}), {p_prompts}"), arm="grpo"
            ),
            line("over seeds, p", Field("difference", "{seeds}, {p_seeds}"), arm="grpo"),
        ],
    ),
    "siblings-weak": _siblings("weak", "GRAO GRPO CHORD-phi HPT CHORD-mu LUFFY SRFT"),
    "siblings-able": _siblings("able", "GRAO GRPO CHORD-phi LUFFY HPT CHORD-mu SRFT"),
    "ability": Grid(
        RESULTS,
        "share of right answers in pretraining",
        study="ability",
        rows=_ABILITIES,
        columns=[
            _BASE,
            line("GRAO", with_ties, arm="grao"),
            line("GRAO `signed`", with_ties, arm="grao-signed"),
            line("GRPO", with_ties, arm="grpo"),
            line("SFT", with_ties, arm="sft"),
        ],
        best="rows",
    ),
    "ability-leads": Grid(
        RESULTS,
        "GRAO minus the arm, over seeds; p",
        study="ability",
        rows=[line(point, point=point) for point in ("0", "0.2", "0.5", "0.95")],
        columns=[
            line("`signed`", LEAD_SEEDS, arm="grao-signed"),
            line("GRPO", LEAD_SEEDS, arm="grpo"),
            line("SFT", LEAD_SEEDS, arm="sft"),
        ],
    ),
    "ability-unseen": Grid(
        RESULTS,
        "ability",
        study="ability-unseen",
        rows=[line(point, point=point) for point in ("0", "0.2", "0.95")],
        columns=[
            line("GRAO", with_ties, arm="grao"),
            line("GRPO", with_ties, arm="grpo"),
            line("SFT", with_ties, arm="sft"),
        ],
        best="rows",
    ),
    "judge-noise": Grid(
        RESULTS,
        "verdicts reversed",
        study="judge-noise",
        rows=[line(point, point=point) for point in ("0", "0.1", "0.2", "0.35")],
        columns=[
            line("GRAO", with_ties, arm="grao"),
            line("GRPO", with_ties, arm="grpo"),
            line("GRAO minus GRPO", LEAD_PROMPTS, arm="grpo", plain=True),
            line("p", p_prompts, arm="grpo", plain=True),
        ],
        best="rows",
    ),
    "stories": Grid(
        RESULTS,
        "353 test prompts, three seeds, before: {}",
        study="stories",
        corner_number=(Field("before", "{value} % ({prompts}; {seeds})"), Spot(arm="grao")),
        columns=[
            line("RAS", percent(RAS)),
            line("over prompts", OVER_PROMPTS),
            line("over seeds", OVER_SEEDS),
            line("NAG, net", percent(NAG)),
            line("over prompts", Field("nag", "{prompts}")),
            line("over seeds", Field("nag", "{seeds}")),
            line("RAS of `grao` minus that of the arm", LEAD_PROMPTS),
            line("p", p_prompts),
        ],
        rows=[line(arm, arm=arm) for arm in ("grao", "grao-signed", "sft", "dpo", "grpo", "ppo")],
        best="RAS",
    ),
}
