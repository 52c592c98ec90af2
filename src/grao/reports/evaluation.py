"""Tables of an evaluation; in the terminal they fit 80 columns."""

from collections.abc import Callable, Iterator

from grao.records.numbers import Estimate, RewardAgreement
from grao.records.run import Evaluation, Gain, Scores
from grao.reports.tables import (
    NOT_MEASURED,
    Block,
    Table,
    estimate_row,
    interval,
    level,
    number,
    p_value,
    percent,
    plain_table,
    share,
)

REFERENCE = "reference"
_NARROW = 2
"""Up to this many models, each measure has a row with its interval; more models are shown as a matrix."""


_MODEL_MEASURES = (
    ("ras", "RAS, strict wins", "share of answers that beat the reference", False),
    ("ras_win_or_tie", "RAS, win or tie", "share of answers that beat or tie with the reference", False),
    ("ras_half_tie", "RAS, half ties", "wins plus half of the ties", False),
)
"""Field of `Scores`, title, meaning, and whether it may be negative."""
_PAIR_MEASURES = (
    ("nag", "NAG, net", "wins minus losses of one model's answers against the other's", True),
    ("nag_win", "NAG, wins", "wins only", False),
    ("relative_ras", "Relative RAS gain", "RAS of one model divided by that of the other, minus 1", True),
)
"""The same for fields of `Gain`."""


def headline_table(evaluation: Evaluation) -> Table:
    """All measures of all models and pairs of models, with the measures in the first column."""
    return measures_table(evaluation).labelled()


def measures_table(evaluation: Evaluation) -> Table:
    """All measures of all models and pairs of models, with one block per measure."""
    pairs = {f"{gain.model} vs {gain.baseline}": gain for gain in evaluation.gains}
    blocks = [
        Block([estimate_row(name, getattr(record, field), signed) for name, record in group.items()], title, note)
        for group, measures in ((evaluation.models, _MODEL_MEASURES), (pairs, _PAIR_MEASURES))
        for field, title, note, signed in measures
        if group
    ]
    columns = ["Answers", "Value", f"{level(evaluation.confidence)} interval", "Prompts"]
    title = f"{evaluation.prompts:,} held-out prompts, answers compared with the reference"
    return Table(columns, blocks, title, scale="scale of each measure")


def evaluation_lines(evaluation: Evaluation) -> Iterator[str]:
    """Lines above the tables in the terminal: the judges and the doubts."""
    if evaluation.judges:
        yield f"verdicts by {'; '.join(evaluation.judges)}"
    for doubt in evaluation.doubts:
        yield f"DOUBT  {doubt.words}"


def evaluation_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Tables for the terminal: the headline or, for many models, matrix and ranking; then further measures."""
    if len(evaluation.models) > _NARROW:
        yield from contest_tables(evaluation)
    else:
        yield headline_table(evaluation)
        yield from _further_tables(evaluation)


def contest_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Tables that compare several models: matrix, ranking, win rates, answers and judges."""
    yield matrix_table(evaluation)
    yield ranking_table(evaluation)
    yield from _further_tables(evaluation)


def _further_tables(evaluation: Evaluation) -> Iterator[Table]:
    yield rates_table(evaluation)
    yield answers_table(evaluation)
    if rows := list(_checks(evaluation)):
        yield plain_table("The judge", ["Check", "Value", f"{level(evaluation.confidence)} interval"], rows)


def matrix_table(evaluation: Evaluation) -> Table:
    """Wins minus losses of each row's model against each column's model or the references; * if significant."""
    names, alpha = list(evaluation.models), 1 - evaluation.confidence
    nets = {(gain.model, gain.baseline): gain.nag for gain in evaluation.gains}
    nets |= {(name, REFERENCE): scores.net for name, scores in evaluation.models.items() if scores.net}

    def cell(model: str, other: str) -> str:
        pair, sign = ((model, other), 1) if (model, other) in nets else ((other, model), -1)
        if pair not in nets:
            return ""
        p = evaluation.corrected.get(pair[0] if pair[1] == REFERENCE else "|".join(pair))
        star = "*" if p is not None and p <= alpha else ""
        return percent(sign * nets[pair].value, nets[pair].n, signed=True).removesuffix(" %") + star

    others, numbers = (REFERENCE, *names), [str(index) for index in range(1, len(names) + 1)]
    numbered = zip(numbers, names, strict=True)
    rows = [[f"{index} {name}", *(cell(name, other) for other in others)] for index, name in numbered]
    title = f"{evaluation.prompts:,} held-out prompts: wins minus losses in points, row against column"
    columns = ["Answers", REFERENCE, *numbers]
    return plain_table(f"{title} (* Holm-adjusted p <= {alpha:.2g})", columns, rows, dense=True)


def ranking_table(evaluation: Evaluation) -> Table:
    """Bradley-Terry strengths as Elo ratings, the strongest first."""
    confidence, rows = level(evaluation.confidence), []
    for rank in evaluation.ranking:
        value, scores = rank.strength, evaluation.models.get(rank.name)
        limits = "" if scores is None else f"{value.low:+.0f} to {value.high:+.0f}"
        rows.append([rank.name, f"{value.value:+.0f}", limits, share(scores.ras_half_tie) if scores else "50 %"])
    columns = ["Answers", "Elo", f"{confidence} interval", "Wins + half ties"]
    return plain_table("Ranking by all comparisons (Bradley-Terry)", columns, rows)


def rates_table(evaluation: Evaluation) -> Table:
    """Variants of the win rate (ties count half); variants that no model has are left out."""
    readings: dict[str, Callable[[Scores], Estimate | None]] = {
        "as judged": lambda scores: scores.ras_half_tie,
        "length-controlled": lambda scores: scores.length_controlled,
        "error-corrected": lambda scores: scores.corrected,
    }
    for reward in dict.fromkeys(name for scores in evaluation.models.values() for name in scores.by_reward):
        readings[reward] = lambda scores, name=reward: scores.by_reward.get(name)  # type: ignore[misc]
    kept = {title: read for title, read in readings.items() if any(map(read, evaluation.models.values()))}
    rows = []
    for name, scores in evaluation.models.items():
        cells = [f"{share(rate)} ({interval(rate)})" if (rate := read(scores)) else "" for read in kept.values()]
        rows.append([name, *cells, p_value(evaluation.corrected.get(name))])
    return plain_table(
        "Win rate against the references, ties count half",
        ["Answers", *kept, "p for 50 % (Holm-adjusted)"],
        rows,
        dense=True,
    )


def answers_table(evaluation: Evaluation) -> Table:
    """Properties of the answers; columns that no model has are left out."""
    columns: dict[str, Callable[[Scores], str]] = {
        "Mean reward": lambda scores: "" if scores.mean_reward is None else number(scores.mean_reward),
        "Tokens": lambda scores: number(scores.mean_tokens),
        "Truncated": lambda scores: percent(scores.truncated, 1),
        "Repetition": lambda scores: "" if scores.repetition is None else percent(scores.repetition, 1),
        "KL, nats": lambda scores: "" if scores.kl is None else f"{scores.kl.value:.2f}",
        "No verdict": lambda scores: f"{scores.missing:,}" if scores.missing else "",
    }
    cells = {title: [write(scores) for scores in evaluation.models.values()] for title, write in columns.items()}
    kept = {title: column for title, column in cells.items() if any(column)}
    rows = [[name, *(column[row] for column in kept.values())] for row, name in enumerate(evaluation.models)]
    return plain_table("The answers", ["Answers", *kept], rows)


def _checks(evaluation: Evaluation) -> Iterator[list[str]]:
    tested: list[Scores | Gain] = [*evaluation.models.values(), *evaluation.gains]
    if tested and (least := tested[-1].detectable) is not None:
        yield ["minimum detectable difference in win rate", percent(least / 2, evaluation.prompts), ""]
    checks = evaluation.checks
    if checks is None:
        return
    if checks.error:
        limits = interval(checks.error) if checks.error.n else "as configured"
        yield ["wrong verdicts", percent(checks.error.value, max(checks.error.n, 100)), limits]
    for agreed in checks.retest:
        yield from _agreement(f"{agreed.reward}, retest", agreed)
    for agreed in checks.labels:
        yield from _agreement(f"{agreed.reward}, human labels", agreed)
        if agreed.calibration:
            error = agreed.calibration.error
            yield [f"{agreed.reward}, calibration error", share(error), interval(error)]
    for asked in checks.asked:
        known = f", {asked.known:,} from the ledger" if asked.known else ""
        lost = f", {asked.unreadable + asked.failed:,} without a verdict" if asked.unreadable + asked.failed else ""
        yield [f"{asked.reward}, questions", f"{asked.requests + asked.known:,}", f"{known}{lost}".removeprefix(", ")]
        if asked.cost:
            yield [f"{asked.reward}, cost", f"{asked.cost:,.2f}", ""]


def _agreement(label: str, agreed: RewardAgreement) -> Iterator[list[str]]:
    if agreed.kappa is None:
        yield [label, NOT_MEASURED, ""]
        return
    yield [f"{label}: agreement", share(agreed.kappa.agreement), interval(agreed.kappa.agreement)]
    if kappa := agreed.kappa.kappa:
        yield [f"{label}: Cohen's kappa", f"{kappa.value:.2f}", f"{kappa.low:.2f} to {kappa.high:.2f}"]
