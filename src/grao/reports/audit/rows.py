"""The figures of an audit as rows, for the terminal and for the page; what was not measured has no row."""

from collections.abc import Iterator
from dataclasses import dataclass

from grao.records.audit import Accuracy, Agreement, Forecast, Length, Orders, Policy, RewardFigures, Spread
from grao.records.evaluation import Estimate
from grao.reports.words import NOT_MEASURED, duration, interval, number, percent, share


@dataclass(frozen=True)
class Row:
    """One figure with its interval."""

    label: str
    value: str
    interval: str = ""
    n: str = ""
    """Pairs or prompts behind it."""
    share: Estimate | None = None
    """The figure itself where it lies between 0 and 1, to be drawn on a scale."""


@dataclass(frozen=True)
class Block:
    """Rows that belong together, under a title and with what to make of them, if that needs to be said."""

    title: str
    note: str
    rows: list[Row]


def reward_blocks(reward: RewardFigures) -> list[Block]:
    """All about one reward."""
    blocks = [
        Block(
            "On pairs of reference and rejected answer",
            "A tie is half right. A judge that is asked in both orders ties where they contradict each other.",
            list(_accuracy(reward.accuracy)),
        ),
        Block(
            "As a judge",
            "Without a leaning to a place, the text shown first has half of the wins, and a text is as good as itself.",
            list(_judge(reward)),
        ),
        Block(
            "Length",
            "Where the references are the longer ones, the longer answer should win. Free of that is the difference of "
            "the accuracies where the reference is the longer one and where it is the shorter: 0 without a bias.",
            list(_length(reward.length)),
        ),
        Block(
            "Trivial edits",
            "The reference with a change that says nothing, against itself. What wins here, training will find.",
            list(_edits(reward)),
        ),
        Block(
            "Calibration",
            "Of the probability that one side is the better one. The error is what is left when the part that chance "
            "alone would give is taken off. No rule of the verdict looks at it.",
            list(_calibration(reward)),
        ),
    ]
    return [block for block in blocks if block.rows]


def agreement_block(agreements: list[Agreement]) -> Block:
    """Cohen's kappa of two rewards."""
    rows = []
    for found in agreements:
        for on, kappa in (("pairs", found.pairs), ("samples", found.samples)):
            if kappa:
                names = f"{found.first} and {found.second}, {on}"
                rows.append(_share(f"{names}: same verdict", kappa.agreement))
                rows.append(_coefficient(f"{names}: kappa", kappa.kappa))
    return Block("", "", rows)


def policy_block(policy: Policy) -> Block:
    """What the model makes of the rewards."""
    between = policy.between
    related = policy.length_correlation
    rows = [
        _share("references beaten by the mean sample", policy.mean_beats),
        _share("references beaten by some sample", policy.some_beats),
        _share("samples that beat their reference", policy.wins),
        _share("groups without signal", policy.no_signal),
        _share("groups with too few rewards", policy.dropped),
        Row("samples without a reward", percent(policy.missing, policy.prompts), n=f"{policy.prompts:,}"),
        _share("samples cut at the token limit", policy.truncated),
        *([] if between is None else [Row("variance that lies between prompts", percent(between, policy.prompts))]),
        *([_coefficient("rank correlation of reward and length", related)] if related else []),
        _number("tokens of a sample", policy.tokens),
        Row("tokens of a reference", number(policy.reference_tokens), n=f"{policy.prompts:,}"),
        _spread("mean reward of a group", policy.reward),
        _spread("deviation within a group", policy.deviation),
    ]
    return Block("", "", rows)


def forecast_block(forecast: Forecast) -> Block:
    """What the whole run will take."""
    update = NOT_MEASURED if forecast.update is None else _seconds(forecast.update)
    rows = [
        Row("steps, prompts each", f"{forecast.steps:,} x {forecast.prompts_per_step:,}"),
        Row("samples to draw", f"{forecast.samples:,}"),
        Row("for each group: sampling", _seconds(forecast.rollout)),
        Row("for each group: rewards", _seconds(forecast.reward)),
        Row("for each group: update", update),
        Row("time of the whole run", duration(3600 * forecast.hours)),
        *(
            Row(
                f"judge {judge.name}",
                f"about {judge.cost:,.2f}" if judge.cost else "no price given",
                f"{judge.questions:,} questions, {judge.tokens / 1e6:,.1f} million tokens",
            )
            for judge in forecast.judges
        ),
    ]
    return Block("", "", rows)


def _accuracy(found: Accuracy | None) -> Iterator[Row]:
    if found:
        rows = {"right": found.half_ties, "right where it decides": found.decided, "ties": found.ties}
        yield from (_share(label, estimate) for label, estimate in rows.items() if estimate)
        yield _share("no verdict", found.missing)


def _judge(reward: RewardFigures) -> Iterator[Row]:
    asked, orders = reward.questions, reward.orders or Orders(None, None)
    rows = {
        "verdict changes with the order": orders.flips,
        "wins that go to the text shown first": orders.first_wins,
        "prefers a side of a text and itself": reward.itself_asked,
        "answers without a verdict": asked and asked.unreadable,
        "questions without an answer": asked and asked.failed,
    }
    yield from (_share(label, estimate) for label, estimate in rows.items() if estimate)
    if asked and asked.asked:
        yield Row("questions of this audit", f"{asked.asked:,}", f"{asked.known:,} known before")
        if asked.cost:
            yield Row("paid for them", f"{asked.cost:,.2f}")


def _length(found: Length | None) -> Iterator[Row]:
    if found:
        yield _share("the longer answer wins", found.longer_wins)
        yield _share("the longer answer is the reference", found.longer_is_reference)
        if found.accuracy_gap:
            yield _points("more accurate where it is, by", found.accuracy_gap)
        if found.correlation:
            yield _coefficient("rank correlation with the difference in length", found.correlation)


def _edits(reward: RewardFigures) -> Iterator[Row]:
    if reward.itself and reward.kind != "judge":
        yield _share("as it is: not a tie", reward.itself.changed)
    for one in reward.edits:
        yield _share(f"with {one.edit}: wins", one.wins)
        if one.size is not None and one.wins.value:
            yield Row("its mean |R|, that of samples being 1", number(one.size), n=f"{one.wins.n:,}")


def _calibration(reward: RewardFigures) -> Iterator[Row]:
    if found := reward.calibration:
        n = f"{found.error.n:,}"
        yield _share("expected calibration error", found.error)
        yield Row("the same with what chance adds", percent(found.plain_error, found.error.n), n=n)
        yield Row("mean confidence", percent(found.confidence, found.error.n), n=n)
        yield Row("mean accuracy", percent(found.accuracy, found.error.n), n=n)


def _share(label: str, estimate: Estimate) -> Row:
    return Row(label, share(estimate), interval(estimate), f"{estimate.n:,}", estimate)


def _points(label: str, estimate: Estimate) -> Row:
    low, value, high = (f"{100 * one:+.0f}" for one in (estimate.low, estimate.value, estimate.high))
    return Row(label, f"{value} points", f"{low} to {high}", f"{estimate.n:,}")


def _coefficient(label: str, estimate: Estimate | None) -> Row:
    if estimate is None:
        return Row(label, NOT_MEASURED)
    return Row(label, f"{estimate.value:+.2f}", f"{estimate.low:+.2f} to {estimate.high:+.2f}", f"{estimate.n:,}")


def _number(label: str, estimate: Estimate) -> Row:
    return Row(label, number(estimate.value), f"{number(estimate.low)} to {number(estimate.high)}", f"{estimate.n:,}")


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{number(seconds)} s"


def _spread(label: str, found: Spread) -> Row:
    half = f"half within {number(found.quarter)} to {number(found.three_quarters)}"
    return Row(f"{label}: median", number(found.median), half)
