"""The tables of an evaluation, at 80 columns in the terminal, and who judged."""

from collections.abc import Callable, Iterator

from grao.records.numbers import Agreed, Estimate
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
"""Models up to which each measure has a row with its interval; more stand in a matrix."""


_OF_MODELS = (
    ("ras", "RAS, strict wins", "answers that beat the reference", False),
    ("ras_win_or_tie", "RAS, win or tie", "answers that beat the reference or draw level", False),
    ("ras_half_tie", "RAS, half ties", "wins and half of the ties", False),
)
"""Field of `Scores`, title, meaning, and whether it may be negative."""
_OF_PAIRS = (
    ("nag", "NAG, net", "answers of one model against the other's, wins minus losses", True),
    ("nag_win", "NAG, wins", "the same, wins only", False),
    ("relative_ras", "Relative RAS gain", "RAS of the one divided by RAS of the other, minus 1", True),
)
"""The same of `Gain`."""


def headline_table(evaluation: Evaluation) -> Table:
    """All measures of all models and pairs of models; fits 80 columns."""
    return measures_table(evaluation).labelled()


def measures_table(evaluation: Evaluation) -> Table:
    """The headline in the order of reading; measures that no model has are left out."""
    pairs = {f"{gain.model} vs {gain.baseline}": gain for gain in evaluation.gains}
    blocks = [
        Block([estimate_row(name, getattr(of, field), signed) for name, of in measured.items()], title, note)
        for measured, measures in ((evaluation.models, _OF_MODELS), (pairs, _OF_PAIRS))
        for field, title, note, signed in measures
        if measured
    ]
    columns = ["Answers", "Value", f"{level(evaluation.confidence)} interval", "Prompts"]
    title = f"{evaluation.prompts:,} held-out prompts, answers against the reference"
    return Table(columns, blocks, title, scale="on the scale of each measure")


def evaluation_lines(evaluation: Evaluation) -> Iterator[str]:
    """Who judged, and each doubt: what stands above the tables."""
    if evaluation.judges:
        yield f"judged by {'; '.join(evaluation.judges)}"
    for doubt in evaluation.doubts:
        yield f"DOUBT  {doubt.words}"


def evaluation_tables(evaluation: Evaluation) -> Iterator[Table]:
    """For the terminal: the headline, or of many models the matrix and the ranking; then what else was measured."""
    if len(evaluation.models) > _NARROW:
        yield from contest_tables(evaluation)
    else:
        yield headline_table(evaluation)
        yield from _further_tables(evaluation)


def contest_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Of several models: the matrix, the ranking, the texts, and what was found out about the judges."""
    yield matrix_table(evaluation)
    yield ranking_table(evaluation)
    yield from _further_tables(evaluation)


def _further_tables(evaluation: Evaluation) -> Iterator[Table]:
    yield rates_table(evaluation)
    yield answers_table(evaluation)
    if rows := list(_checks(evaluation)):
        yield plain_table("The judge", ["Check", "Value", f"{level(evaluation.confidence)} interval"], rows)


def matrix_table(evaluation: Evaluation) -> Table:
    """Each model in a row: wins minus losses in percent against each other one and the references, * if significant."""
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
    named = zip(numbers, names, strict=True)
    rows = [[f"{index} {name}", *(cell(name, each) for each in others)] for index, name in named]
    title = f"{evaluation.prompts:,} held-out prompts: wins minus losses in points, row against column"
    columns = ["Answers", REFERENCE, *numbers]
    return plain_table(f"{title} (* p <= {alpha:.2g}, Holm)", columns, rows, dense=True)


def ranking_table(evaluation: Evaluation) -> Table:
    """Bradley and Terry's strengths, the strongest first."""
    sure, rows = level(evaluation.confidence), []
    for rank in evaluation.ranking:
        value, scores = rank.strength, evaluation.models.get(rank.name)
        limits = "" if scores is None else f"{value.low:+.0f} to {value.high:+.0f}"
        rows.append([rank.name, f"{value.value:+.0f}", limits, share(scores.ras_half_tie) if scores else "50 %"])
    return plain_table("Ranking by all comparisons", ["Answers", "Elo", f"{sure} interval", "Wins, half ties"], rows)


def rates_table(evaluation: Evaluation) -> Table:
    """Readings of the share of wins, half of the ties; those that no model has are left out."""
    readings: dict[str, Callable[[Scores], Estimate | None]] = {
        "as judged": lambda scores: scores.ras_half_tie,
        "at equal length": lambda scores: scores.length_controlled,
        "judge corrected": lambda scores: scores.corrected,
    }
    for reward in dict.fromkeys(name for scores in evaluation.models.values() for name in scores.by_reward):
        readings[reward] = lambda scores, name=reward: scores.by_reward.get(name)  # type: ignore[misc]
    kept = {title: read for title, read in readings.items() if any(map(read, evaluation.models.values()))}
    rows = []
    for name, scores in evaluation.models.items():
        cells = [f"{share(rate)} ({interval(rate)})" if (rate := read(scores)) else "" for read in kept.values()]
        rows.append([name, *cells, p_value(evaluation.corrected.get(name))])
    return plain_table(
        "Wins against the references, half of the ties", ["Answers", *kept, "p of 50 % (Holm)"], rows, dense=True
    )


def answers_table(evaluation: Evaluation) -> Table:
    """The answers as texts; what no model has is left out."""
    columns: dict[str, Callable[[Scores], str]] = {
        "Mean reward": lambda scores: "" if scores.mean_reward is None else number(scores.mean_reward),
        "Tokens": lambda scores: number(scores.mean_tokens),
        "Cut": lambda scores: percent(scores.truncated, 1),
        "Repeated": lambda scores: "" if scores.repetition is None else percent(scores.repetition, 1),
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
        yield ["least difference in the win rate that is found", percent(least / 2, evaluation.prompts), ""]
    checks = evaluation.checks
    if checks is None:
        return
    if checks.error:
        known = interval(checks.error) if checks.error.n else "as told"
        yield ["wrong verdicts", percent(checks.error.value, max(checks.error.n, 100)), known]
    for agreed in checks.retest:
        yield from _agreement(f"{agreed.reward}, asked again", agreed)
    for agreed in checks.labels:
        yield from _agreement(f"{agreed.reward}, with people", agreed)
        if agreed.calibration:
            error = agreed.calibration.error
            yield [f"{agreed.reward}, calibration error", share(error), interval(error)]
    for asked in checks.asked:
        known = f", {asked.known:,} known" if asked.known else ""
        lost = f", {asked.unreadable + asked.failed:,} without a verdict" if asked.unreadable + asked.failed else ""
        yield [f"{asked.reward}, questions", f"{asked.requests + asked.known:,}", f"{known}{lost}".removeprefix(", ")]
        if asked.cost:
            yield [f"{asked.reward}, cost", f"{asked.cost:,.2f}", ""]


def _agreement(label: str, agreed: Agreed) -> Iterator[list[str]]:
    if agreed.kappa is None:
        yield [label, NOT_MEASURED, ""]
        return
    yield [f"{label}: same verdict", share(agreed.kappa.agreement), interval(agreed.kappa.agreement)]
    if kappa := agreed.kappa.kappa:
        yield [f"{label}: kappa", f"{kappa.value:.2f}", f"{kappa.low:.2f} to {kappa.high:.2f}"]
