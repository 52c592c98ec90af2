"""The report of a reward audit: a self-contained page and terminal tables.

The page is a pure function of the audit. Tables omit what was not measured.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import rich.table
from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from grao.records.audit import Agreement, Audit, Forecast, GroupItem, Orders, PairItem, Policy, RewardFigures, Verdict
from grao.records.files import replace_text
from grao.records.numbers import Estimate
from grao.reports import tables
from grao.reports.figures import Figure, Legend, Style, estimates, series
from grao.reports.parts import Column, Example, ExampleGroup, render_page
from grao.reports.reproduce import template_variables
from grao.reports.tables import Block, Row, Table, duration, estimate_row, number, percent, share, signed
from grao.visible import visible

_BRIEF = 2
"""Blocks that the terminal shows for a reward that training does not follow; the page shows all blocks."""
_MOST = 4
"""Largest number of examples of each kind."""
_WRONG = "The rejected answer wins. Either the label is wrong, or training will reward answers like this one."
_BEATEN = (
    "The mean reward of the samples is above the reference. Training pushes away from these references, unless "
    "method.sign is positive."
)
_NO_SIGNAL = "All samples and the reference have the same reward, so nothing is learned from these prompts."
"""Explanations of wrong pairs, of references that the model already beats, and of prompts without signal."""
_ACCURACY = "Ties count half. A judge that is asked in both orders ties where its two verdicts differ."
_POSITION = "A judge without position bias gives half of its wins to the text shown first, and ties a text with itself."
_LENGTH = (
    "If references are longer than rejected answers, the longer answer should win. A measure without this effect is "
    "the accuracy where the reference is longer minus the accuracy where it is shorter: 0 without length bias."
)
_CONTENT = "Compared with the reference. A reward that depends on the content makes these texts lose."
_EDITS = "The reference with a meaningless edit, compared with the original. Training will exploit edits that win."
_CALIBRATION = (
    "Calibration of the probability that one answer is better. The error is bias-corrected: the part due to chance is "
    "subtracted. The verdict does not depend on it."
)
"""Explanations of the blocks of figures."""


def write_audit_page(folder: Path, audit: Audit) -> Path:
    """Write `audit.html` into an existing folder and return its path."""
    path = folder / "audit.html"
    replace_text(path, render_audit(audit, folder.resolve().name))
    return path


def render_audit(audit: Audit, name: str) -> str:
    """Render the page as HTML.

    Args:
        audit: figures and verdict.
        name: of the audit's folder.
    """
    confidence = audit.confidence
    first, *others = (_reward_table(reward, confidence) for reward in audit.rewards)
    return render_page(
        "audit.html.j2",
        name=name,
        audit=audit,
        headline=headline(audit.verdict),
        sentences=[],
        notices=[f"Not checked: {sentence}" for sentence in audit.verdict.unchecked],
        tiles=list(_tiles(audit)),
        rewards=[first, *(replace(table, blocks=[replace(b, note="") for b in table.blocks]) for table in others)],
        agreements=_agreement_table(audit.agreements, confidence),
        policy=_policy_table(audit.policy, confidence),
        forecast=[(name, ", ".join(filter(None, cells))) for name, *cells in _forecast(audit.forecast)],
        calibrations=list(_calibrations(audit.rewards)),
        groups=list(_groups(audit.groups)),
        examples=_examples(audit),
        most=_MOST,
        **template_variables(audit.manifest),
    )


def audit_tables(audit: Audit) -> Group:
    """Tables for the terminal, 80 columns wide: all figures of the deciding reward, the first ones of the others."""
    level = audit.confidence
    shown = [_reward_table(reward, level, None if reward.role == "deciding" else _BRIEF) for reward in audit.rewards]
    if audit.agreements:
        shown.append(_agreement_table(audit.agreements, level))
    shown.append(_policy_table(audit.policy, level))
    shown.append(tables.plain_table("Forecast", ["Measure", "Value", "", ""], list(_forecast(audit.forecast))))
    return Group(*(Padding(table, (0, 0, 1, 0)) for table in shown))


def verdict_words(verdict: Verdict) -> Group:
    """The verdict for the terminal, with the findings and what could not be checked."""
    findings = rich.table.Table.grid(padding=(0, 1))
    for rank, finding in enumerate(verdict.findings, start=1):
        findings.add_row(f"{rank}.", Text(visible(f"{finding.problem}\n{finding.remedy}")))
    unchecked = (Text(visible(f"Not checked: {sentence}")) for sentence in verdict.unchecked)
    return Group(Text(headline(verdict), style="bold"), findings, *unchecked)


def headline(verdict: Verdict) -> str:
    """Say whether it is safe to train, or how many problems there are."""
    if not verdict.safe:
        count = len(verdict.findings)
        return f"Not safe to train yet: fix {'one problem' if count == 1 else f'{count} problems'} first."
    if verdict.unchecked:
        return "Safe to train, as far as this audit could check."
    return "Safe to train: all checks of this audit passed."


def _deciding(audit: Audit) -> RewardFigures:
    """Figures of the reward that training follows."""
    return next(reward for reward in audit.rewards if reward.role == "deciding")


def _tiles(audit: Audit) -> Iterator[tuple[str, str]]:
    """(value, label) of each key figure."""
    accuracy = _deciding(audit).accuracy
    if accuracy and accuracy.half_ties:
        yield share(accuracy.half_ties), f"accuracy on {accuracy.half_ties.n:,} pairs"
    yield share(audit.policy.mean_beats), "of references already beaten"
    yield share(audit.policy.no_signal), "of groups without signal"
    yield duration(3600 * audit.forecast.hours), "for the whole run on this machine"
    for judge in audit.forecast.judges:
        if judge.cost:
            yield f"{judge.cost:,.2f}", f"estimated maximum cost of judge {judge.name}"


def _calibrations(rewards: Sequence[RewardFigures]) -> Iterator[Figure]:
    """Reliability diagrams: accuracy over confidence, one point with its interval per bin."""
    note = "Accuracy of pairs with similar confidence. A perfectly calibrated reward follows the dashed line."
    shares = {"percent": True}
    for reward in rewards:
        if reward.calibration:
            bins = [(bin.confidence, bin.accuracy) for bin in reward.calibration.bins]
            spoken = "; ".join(
                f"confidence {percent(claimed, 0)}, accuracy {percent(right.value, 0)}" for claimed, right in bins
            )
            drawing = {
                "kind": "points",
                "x": {"label": "confidence (%)", **shares},
                "y": {"label": "accuracy (%)", **shares, "diagonal": True},
                "series": [estimates("accuracy", Style("blue"), bins)],
            }
            yield Figure(reward.name, note, drawing, [Legend("pairs", Style("blue"), spoken)])


def _groups(groups: Sequence[GroupItem]) -> Iterator[Figure]:
    """Lowest, mean and highest reward of each group, sorted by the mean; nothing if no sample has a reward."""
    rows = sorted((_mean(group), min(scored), max(scored)) for group in groups if (scored := _scored(group)))
    if not rows:
        return
    means, lows, highs = zip(*rows, strict=True)
    drawing = {
        "kind": "points",
        "x": {"label": "prompts, sorted by mean reward"},
        "y": {"label": "reward relative to the reference", "zero": True},
        "series": [series("mean", Style("blue"), range(1, len(rows) + 1), means, low=lows, high=highs)],
    }
    beaten = f"{sum(mean > 0 for mean in means)} of {len(rows)} above the reference"
    note = (
        "Each line spans the worst to the best sample of a prompt; the dot is the mean. Values above zero beat the "
        "reference."
    )
    yield Figure("Rewards by prompt", note, drawing, [Legend("mean of a prompt", Style("blue"), beaten)])


def _examples(audit: Audit) -> list[ExampleGroup]:
    """Texts to read before training, chosen by a fixed rule; kinds without examples are omitted.

    Kinds: wrong pairs, pairs on which two rewards disagree, references that the model beats, prompts without signal.
    """
    name = _deciding(audit).name
    by_value = sorted(audit.pairs, key=lambda pair: -_value(pair, name))
    by_mean = sorted(audit.groups, key=lambda group: -_mean(group))
    kinds = [("Wrongly ranked pairs", _WRONG, [_pair(pair, name) for pair in by_value if _value(pair, name) > 0])]
    measured = [each for each in audit.agreements if each.first in {reward.name for reward in audit.rewards}]
    for agreement in measured[:1]:  # with the second judge, or else of the first two rewards of a sum
        first, second = agreement.first, agreement.second
        opposed = [_pair(pair, first, second) for pair in audit.pairs if _value(pair, first) * _value(pair, second) < 0]
        note = f"{first} and {second} prefer different answers. Train on the one that you agree with."
        kinds.append(("Pairs on which two rewards disagree", note, opposed))
    beaten = [_group(group) for group in by_mean if _mean(group) > 0]
    kinds.append(("References that the model already beats", _BEATEN, beaten))
    kinds.append(("Prompts without signal", _NO_SIGNAL, [_group(group) for group in audit.groups if group.no_signal]))
    return [
        ExampleGroup(f"{title} ({len(examples):,})", examples[:_MOST], note=note)
        for title, note, examples in kinds
        if examples
    ]


def _pair(pair: PairItem, *names: str) -> Example:
    footer = ", ".join(f"{name} {_signed(pair.readings[name].value)}" for name in names)
    return _example(pair, Column("rejected", pair.rejected, footer=footer))


def _group(group: GroupItem) -> Example:
    footer = f"reward {_signed(max(_scored(group), default=None))}, mean of the group {_signed(_mean(group))}"
    return _example(group, Column("best sample", group.best, footer=footer))


def _example(item: PairItem | GroupItem, answer: Column) -> Example:
    return Example(item.id, item.prompt, [Column("reference", item.reference), answer])


def _value(pair: PairItem, name: str) -> float:
    return pair.readings[name].value or 0.0


def _scored(group: GroupItem) -> list[float]:
    return [reward for reward in group.rewards if reward is not None]


def _mean(group: GroupItem) -> float:
    rewards = _scored(group)
    return sum(rewards) / len(rewards) if rewards else 0.0


def _signed(value: float | None) -> str:
    return "no verdict" if value is None else signed(value)


def _reward_table(reward: RewardFigures, confidence: float, most: int | None = None) -> Table:
    """Figures of one reward, in the first `most` blocks or in all of them."""
    blocks = [
        Block(list(_accuracy(reward)), "Pairs of reference and rejected answer", _ACCURACY),
        Block(list(_judge(reward)), "Judge", _POSITION),
        Block(list(_length(reward)), "Length", _LENGTH),
        Block(list(_content(reward)), "Wrong answers", _CONTENT),
        Block(list(_edits(reward)), "Trivial edits", _EDITS),
        Block(list(_calibration(reward)), "Calibration", _CALIBRATION),
    ]
    return _table(_reward_title(reward), [block for block in blocks if block.rows][:most], confidence, "Pairs")


def _reward_title(reward: RewardFigures) -> str:
    """A reward with its kind and its role in the run."""
    roles = {"deciding": "training reward", "part": "part of the sum", "second": "for comparison"}
    name = "Sum of the rewards" if reward.kind == "sum" else f"{reward.name} ({reward.kind})"
    return f"{name}, {roles[reward.role]}"


def _agreement_table(agreements: Sequence[Agreement], confidence: float) -> Table:
    """Agreement and Cohen's kappa of two rewards."""
    rows = []
    for agreement in agreements:
        for texts, kappa in (("pairs", agreement.pairs), ("samples", agreement.samples)):
            if kappa:
                names = f"{agreement.first} and {agreement.second}, {texts}"
                rows.append(estimate_row(f"{names}: agreement", kappa.agreement))
                rows.append(_signed_row(f"{names}: Cohen's kappa", kappa.kappa))
    return _table("Agreement of two rewards", [Block(rows)], confidence, "Texts")


def _policy_table(policy: Policy, confidence: float) -> Table:
    """Rewards and lengths of the model's samples before training."""
    between, correlation, n = policy.between, policy.length_correlation, policy.prompts
    rows = [
        estimate_row("references beaten by the mean sample", policy.mean_beats),
        estimate_row("references beaten by at least one sample", policy.some_beats),
        estimate_row("samples that beat their reference", policy.wins),
        estimate_row("groups without signal", policy.no_signal),
        estimate_row("groups with too few rewards", policy.dropped),
        _row("samples without a reward", percent(policy.missing, n), n=n),
        estimate_row("samples truncated at the token limit", policy.truncated),
        *([] if between is None else [_row("share of variance between prompts", percent(between, n))]),
        *([_signed_row("rank correlation of reward and length", correlation)] if correlation else []),
        _formatted("tokens per sample", policy.tokens, number),
        _row("tokens per reference", number(policy.reference_tokens), n=n),
    ]
    spreads = (("mean reward per group", policy.reward), ("standard deviation within a group", policy.deviation))
    for label, spread in spreads:
        quartiles = f"quartiles {number(spread.quarter)} to {number(spread.three_quarters)}"
        rows.append(_row(f"{label}: median", number(spread.median), quartiles))
    title = f"The model before training: {policy.samples} samples for each of {n:,} training prompts"
    return _table(title, [Block(rows)], confidence, "Prompts")


def _forecast(forecast: Forecast) -> Iterator[Sequence[str]]:
    """Rows with the forecast of the whole run: name, value and two more cells."""
    rows = {
        "steps x prompts per step": f"{forecast.steps:,} x {forecast.prompts_per_step:,}",
        "samples to draw": f"{forecast.samples:,}",
        "sampling, per group": _seconds(forecast.rollout),
        "rewards, per group": _seconds(forecast.reward),
        "update, per group": tables.NOT_MEASURED if forecast.update is None else _seconds(forecast.update),
        "total time": duration(3600 * forecast.hours),
    }
    yield from ([name, value, "", ""] for name, value in rows.items())
    for judge in forecast.judges:
        price = f"about {judge.cost:,.2f}" if judge.cost else "no price given"
        questions = f"{judge.questions:,} questions, {judge.tokens / 1e6:,.1f} million tokens"
        yield [f"judge {judge.name}", price, questions, ""]


def _table(title: str, blocks: Sequence[Block], confidence: float, counted: str) -> Table:
    columns = ["Measure", "Value", f"{tables.level(confidence)} interval", counted]
    return Table(columns, blocks, title, scale="scale of each block")


def _accuracy(reward: RewardFigures) -> Iterator[Row]:
    if accuracy := reward.accuracy:
        shares = {"accuracy": accuracy.half_ties, "accuracy without ties": accuracy.decided, "ties": accuracy.ties}
        yield from _shares({**shares, "no verdict": accuracy.missing})


def _judge(reward: RewardFigures) -> Iterator[Row]:
    questions, orders = reward.questions, reward.orders or Orders(None, None)
    yield from _shares(
        {
            "verdict flips with the order": orders.flips,
            "wins of the text shown first": orders.first_wins,
            "text compared with itself: not a tie": reward.itself_asked,
            "replies without a verdict": questions.unreadable if questions else None,
            "questions without a reply": questions.failed if questions else None,
        }
    )
    if questions and questions.asked:
        yield _row("questions of this audit", f"{questions.asked:,}", f"{questions.known:,} from the ledger")
        if questions.cost:
            yield _row("cost of these questions", f"{questions.cost:,.2f}")


def _length(reward: RewardFigures) -> Iterator[Row]:
    if length := reward.length:
        yield estimate_row("the longer answer wins", length.longer_wins)
        yield estimate_row("the longer answer is the reference", length.longer_is_reference)
        if gap := length.accuracy_gap:
            low, value, high = (f"{100 * share:+.0f}" for share in (gap.low, gap.value, gap.high))
            yield _row("accuracy, reference longer minus shorter", f"{value} points", f"{low} to {high}", gap.n)
        if length.correlation:
            yield _signed_row("rank correlation with the length difference", length.correlation)


def _content(reward: RewardFigures) -> Iterator[Row]:
    for wrong in reward.content:
        yield estimate_row(f"{wrong.text}: wins + half ties", wrong.as_good)


def _edits(reward: RewardFigures) -> Iterator[Row]:
    if reward.itself and reward.kind != "judge":
        yield estimate_row("unchanged: not a tie", reward.itself.changed)
    for edit in reward.edits:
        yield estimate_row(f"with {edit.edit}: wins", edit.wins)
        if edit.size is not None and edit.wins.value:
            yield _row("mean |R|, relative to that of the samples", number(edit.size), n=edit.wins.n)


def _calibration(reward: RewardFigures) -> Iterator[Row]:
    if calibration := reward.calibration:
        n = calibration.error.n
        yield estimate_row("expected calibration error", calibration.error)
        yield _row("without bias correction", percent(calibration.plain_error, n), n=n)
        yield _row("mean confidence", percent(calibration.confidence, n), n=n)
        yield _row("mean accuracy", percent(calibration.accuracy, n), n=n)


def _row(label: str, value: str, interval: str = "", n: int | None = None) -> Row:
    return Row([label, value, interval, "" if n is None else f"{n:,}"])


def _shares(estimates: dict[str, Estimate | None]) -> Iterator[Row]:
    return (estimate_row(label, estimate) for label, estimate in estimates.items() if estimate)


def _signed_row(label: str, estimate: Estimate | None) -> Row:
    return _formatted(label, estimate, "{:+.2f}".format) if estimate else estimate_row(label, None)


def _formatted(label: str, estimate: Estimate, form: Callable[[float], str]) -> Row:
    low, value, high = map(form, (estimate.low, estimate.value, estimate.high))
    return _row(label, value, f"{low} to {high}", estimate.n)


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{number(seconds)} s"
