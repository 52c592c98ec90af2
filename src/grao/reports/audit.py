"""An audit as one self-contained page and as terminal tables. The same audit gives the same page.

What was not measured has no row in a table.
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
from grao.reports.reproduce import origin
from grao.reports.tables import Block, Row, Table, duration, estimate_row, number, percent, share, signed
from grao.visible import visible

_BRIEF = 2
"""Blocks that the terminal shows of a reward that training does not follow; the page has all."""
_MOST = 4
"""Examples of each kind."""
_WRONG = "The rejected answer wins. Either the label is wrong, or this is what training will go for."
_BEATEN = (
    "The mean of its samples is above the reference. There training pushes away from the reference, unless "
    "method.sign is positive."
)
_SILENT = "All samples and the reference have the same reward: nothing is learned here."
"""What to make of wrong pairs, of references that the model beats already, and of prompts without signal."""
_ACCURACY = "A tie is half right. A judge that is asked in both orders ties where they contradict each other."
_PLACES = "Without a leaning to a place, the text shown first has half of the wins, and a text is as good as itself."
_LENGTH = (
    "Where the references are the longer ones, the longer answer should win. Free of that is the difference of the "
    "accuracies where the reference is the longer one and where it is the shorter: 0 without a bias."
)
_CONTENT = "Against the reference. A reward that looks at what a text says lets them lose."
_EDITS = "The reference with a change that says nothing, against itself. What wins here, training will find."
_CALIBRATION = (
    "Of the probability that one side is the better one. The error is what is left when the part that chance alone "
    "would give is taken off. No rule of the verdict looks at it."
)
"""What to make of the figures of a reward, one note a block."""


def write_audit_page(folder: Path, audit: Audit) -> Path:
    """Writes `audit.html` into a folder that is there, and returns its path."""
    path = folder / "audit.html"
    replace_text(path, render_audit(audit, folder.resolve().name))
    return path


def render_audit(audit: Audit, name: str) -> str:
    """The page as HTML."""
    confidence = audit.confidence
    first, *others = (_reward_table(reward, confidence) for reward in audit.rewards)
    return render_page(
        "audit.html.j2",
        name=name,
        audit=audit,
        headline=headline(audit.verdict),
        sentences=[],
        notices=[f"Not checked. {sentence}" for sentence in audit.verdict.unchecked],
        tiles=list(_tiles(audit)),
        rewards=[first, *(replace(table, blocks=[replace(b, note="") for b in table.blocks]) for table in others)],
        agreements=_agreement_table(audit.agreements, confidence),
        policy=_policy_table(audit.policy, confidence),
        forecast=[(name, ", ".join(filter(None, said))) for name, *said in _forecast(audit.forecast)],
        calibrations=list(_calibrations(audit.rewards)),
        groups=list(_groups(audit.groups)),
        examples=_examples(audit),
        most=_MOST,
        **origin(audit.manifest),
    )


def audit_tables(audit: Audit) -> Group:
    """All figures of what decides, the first ones of the other rewards; fits 80 columns."""
    sure = audit.confidence
    shown = [_reward_table(reward, sure, None if reward.role == "deciding" else _BRIEF) for reward in audit.rewards]
    if audit.agreements:
        shown.append(_agreement_table(audit.agreements, sure))
    shown.append(_policy_table(audit.policy, sure))
    shown.append(tables.plain_table("The whole run", ["Measure", "Value", "", ""], list(_forecast(audit.forecast))))
    return Group(*(Padding(table, (0, 0, 1, 0)) for table in shown))


def verdict_words(verdict: Verdict) -> Group:
    """The verdict, what to fix, and what could not be looked at."""
    findings = rich.table.Table.grid(padding=(0, 1))
    for rank, finding in enumerate(verdict.findings, start=1):
        findings.add_row(f"{rank}.", Text(visible(f"{finding.problem}\n{finding.remedy}")))
    unchecked = (Text(visible(f"Not checked. {sentence}")) for sentence in verdict.unchecked)
    return Group(Text(headline(verdict), style="bold"), findings, *unchecked)


def headline(verdict: Verdict) -> str:
    """Safe to train, or how much there is to fix."""
    if not verdict.safe:
        count = len(verdict.findings)
        return f"Not yet: {'one thing' if count == 1 else f'{count} things'} to fix before you train."
    if verdict.unchecked:
        return "Safe to train, as far as this audit could look."
    return "Safe to train: nothing that this audit looks at speaks against it."


def _deciding(audit: Audit) -> RewardFigures:
    """What training follows."""
    return next(reward for reward in audit.rewards if reward.role == "deciding")


def _tiles(audit: Audit) -> Iterator[tuple[str, str]]:
    accuracy = _deciding(audit).accuracy
    if accuracy and accuracy.half_ties:
        yield share(accuracy.half_ties), f"right on {accuracy.half_ties.n:,} pairs"
    yield share(audit.policy.mean_beats), "of the references beaten already"
    yield share(audit.policy.no_signal), "of the groups without signal"
    yield duration(3600 * audit.forecast.hours), "for the whole run, here"
    for judge in audit.forecast.judges:
        if judge.cost:
            yield f"{judge.cost:,.2f}", f"for judge {judge.name}, at most about"


def _calibrations(rewards: Sequence[RewardFigures]) -> Iterator[Figure]:
    """Accuracy over confidence, a point and its interval for each bin; the diagonal is a judge that knows itself."""
    note = (
        "Pairs of similar confidence, and how many of them are right. On the dashed line a probability is what it says."
    )
    shares = {"percent": True}
    for reward in rewards:
        if reward.calibration:
            bins = [(bin.confidence, bin.accuracy) for bin in reward.calibration.bins]
            spoken = "; ".join(f"{percent(sure, 0)} sure, {percent(right.value, 0)} right" for sure, right in bins)
            drawing = {
                "kind": "points",
                "x": {"label": "confidence (%)", **shares},
                "y": {"label": "accuracy (%)", **shares, "diagonal": True},
                "series": [estimates("accuracy", Style("blue"), bins)],
            }
            yield Figure(reward.name, note, drawing, [Legend("pairs", Style("blue"), spoken)])


def _groups(groups: Sequence[GroupItem]) -> Iterator[Figure]:
    """From lowest to highest reward of each group with its mean, prompts in the order of the means; none if none."""
    rows = sorted((_mean(group), min(scored), max(scored)) for group in groups if (scored := _scored(group)))
    if not rows:
        return
    means, lows, highs = zip(*rows, strict=True)
    drawing = {
        "kind": "points",
        "x": {"label": "prompts, by their mean"},
        "y": {"label": "reward minus the reference's", "zero": True},
        "series": [series("mean", Style("blue"), range(1, len(rows) + 1), means, low=lows, high=highs)],
    }
    beaten = f"{sum(mean > 0 for mean in means)} of {len(rows)} above the reference"
    note = (
        "A line from the worst to the best sample of each prompt, a dot for their mean. Above zero beats the reference."
    )
    yield Figure("Rewards prompt by prompt", note, drawing, [Legend("mean of a prompt", Style("blue"), beaten)])


def _examples(audit: Audit) -> list[ExampleGroup]:
    """Wrong pairs, pairs that divide two rewards, beaten references, prompts without signal; kinds that occur.

    The texts that a user should read before training, chosen by a fixed rule.
    """
    name = _deciding(audit).name
    by_value = sorted(audit.pairs, key=lambda pair: -_value(pair, name))
    by_mean = sorted(audit.groups, key=lambda group: -_mean(group))
    kinds = [("Pairs it gets wrong", _WRONG, [_pair(pair, name) for pair in by_value if _value(pair, name) > 0])]
    asked = [each for each in audit.agreements if each.first in {reward.name for reward in audit.rewards}]
    for agreement in asked[:1]:  # of the second reward, or else of the first two of a sum
        first, second = agreement.first, agreement.second
        divided = [_pair(pair, first, second) for pair in audit.pairs if _value(pair, first) * _value(pair, second) < 0]
        note = f"{first} and {second} take different sides. Train on the one that you would side with."
        kinds.append(("Pairs that divide two rewards", note, divided))
    beaten = [_group(group) for group in by_mean if _mean(group) > 0]
    kinds.append(("References that the model beats already", _BEATEN, beaten))
    kinds.append(("Prompts without signal", _SILENT, [_group(group) for group in audit.groups if group.no_signal]))
    return [
        ExampleGroup(f"{title} ({len(examples):,})", examples[:_MOST], note=note)
        for title, note, examples in kinds
        if examples
    ]


def _pair(pair: PairItem, *names: str) -> Example:
    said = ", ".join(f"{name} {_signed(pair.readings[name].value)}" for name in names)
    return _example(pair, Column("rejected", pair.rejected, footer=said))


def _group(group: GroupItem) -> Example:
    said = f"reward {_signed(max(_scored(group), default=None))}, mean of the group {_signed(_mean(group))}"
    return _example(group, Column("best sample", group.best, footer=said))


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
    """The first `most` figures of one reward, or all, with a block for each kind of question."""
    blocks = [
        Block(list(_accuracy(reward)), "On pairs of reference and rejected answer", _ACCURACY),
        Block(list(_judge(reward)), "As a judge", _PLACES),
        Block(list(_length(reward)), "Length", _LENGTH),
        Block(list(_content(reward)), "Texts that are plainly wrong", _CONTENT),
        Block(list(_edits(reward)), "Trivial edits", _EDITS),
        Block(list(_calibration(reward)), "Calibration", _CALIBRATION),
    ]
    return _table(_reward_title(reward), [block for block in blocks if block.rows][:most], confidence, "Pairs")


def _reward_title(reward: RewardFigures) -> str:
    """A reward with its part in the run."""
    parts = {"deciding": "which training follows", "part": "part of the sum", "second": "to compare with"}
    name = "The sum of the rewards" if reward.kind == "sum" else f"{reward.name}, a {reward.kind}"
    return f"{name}, {parts[reward.role]}"


def _agreement_table(agreements: Sequence[Agreement], confidence: float) -> Table:
    """How often two rewards agree, and Cohen's kappa."""
    rows = []
    for agreement in agreements:
        for texts, kappa in (("pairs", agreement.pairs), ("samples", agreement.samples)):
            if kappa:
                names = f"{agreement.first} and {agreement.second}, {texts}"
                rows.append(estimate_row(f"{names}: same verdict", kappa.agreement))
                rows.append(_signed_row(f"{names}: kappa", kappa.kappa))
    return _table("Agreement of two rewards", [Block(rows)], confidence, "Texts")


def _policy_table(policy: Policy, confidence: float) -> Table:
    """What the model makes of the rewards."""
    between, related, n = policy.between, policy.length_correlation, policy.prompts
    rows = [
        estimate_row("references beaten by the mean sample", policy.mean_beats),
        estimate_row("references beaten by some sample", policy.some_beats),
        estimate_row("samples that beat their reference", policy.wins),
        estimate_row("groups without signal", policy.no_signal),
        estimate_row("groups with too few rewards", policy.dropped),
        _row("samples without a reward", percent(policy.missing, n), n=n),
        estimate_row("samples cut at the token limit", policy.truncated),
        *([] if between is None else [_row("variance that lies between prompts", percent(between, n))]),
        *([_signed_row("rank correlation of reward and length", related)] if related else []),
        _written("tokens of a sample", policy.tokens, number),
        _row("tokens of a reference", number(policy.reference_tokens), n=n),
    ]
    for label, spread in (("mean reward of a group", policy.reward), ("deviation within a group", policy.deviation)):
        half = f"half within {number(spread.quarter)} to {number(spread.three_quarters)}"
        rows.append(_row(f"{label}: median", number(spread.median), half))
    title = f"The model before training: {policy.samples} samples of each of {n:,} training prompts"
    return _table(title, [Block(rows)], confidence, "Prompts")


def _forecast(forecast: Forecast) -> Iterator[Sequence[str]]:
    """What the whole run will take: name, value and two more cells each."""
    rows = {
        "steps, prompts each": f"{forecast.steps:,} x {forecast.prompts_per_step:,}",
        "samples to draw": f"{forecast.samples:,}",
        "for each group: sampling": _seconds(forecast.rollout),
        "for each group: rewards": _seconds(forecast.reward),
        "for each group: update": tables.NOT_MEASURED if forecast.update is None else _seconds(forecast.update),
        "time of the whole run": duration(3600 * forecast.hours),
    }
    yield from ([name, value, "", ""] for name, value in rows.items())
    for judge in forecast.judges:
        price = f"about {judge.cost:,.2f}" if judge.cost else "no price given"
        asked = f"{judge.questions:,} questions, {judge.tokens / 1e6:,.1f} million tokens"
        yield [f"judge {judge.name}", price, asked, ""]


def _table(title: str, blocks: Sequence[Block], confidence: float, counted: str) -> Table:
    columns = ["Measure", "Value", f"{tables.level(confidence)} interval", counted]
    return Table(columns, blocks, title, scale="on the scale of each block")


def _accuracy(reward: RewardFigures) -> Iterator[Row]:
    if accuracy := reward.accuracy:
        shares = {"right": accuracy.half_ties, "right where it decides": accuracy.decided, "ties": accuracy.ties}
        yield from _shares({**shares, "no verdict": accuracy.missing})


def _judge(reward: RewardFigures) -> Iterator[Row]:
    asked, orders = reward.questions, reward.orders or Orders(None, None)
    yield from _shares(
        {
            "verdict changes with the order": orders.flips,
            "wins that go to the text shown first": orders.first_wins,
            "prefers a side of a text and itself": reward.itself_asked,
            "answers without a verdict": asked.unreadable if asked else None,
            "questions without an answer": asked.failed if asked else None,
        }
    )
    if asked and asked.asked:
        yield _row("questions of this audit", f"{asked.asked:,}", f"{asked.known:,} known before")
        if asked.cost:
            yield _row("paid for them", f"{asked.cost:,.2f}")


def _length(reward: RewardFigures) -> Iterator[Row]:
    if length := reward.length:
        yield estimate_row("the longer answer wins", length.longer_wins)
        yield estimate_row("the longer answer is the reference", length.longer_is_reference)
        if gap := length.accuracy_gap:
            low, value, high = (f"{100 * share:+.0f}" for share in (gap.low, gap.value, gap.high))
            yield _row("more accurate where it is, by", f"{value} points", f"{low} to {high}", gap.n)
        if length.correlation:
            yield _signed_row("rank correlation with the difference in length", length.correlation)


def _content(reward: RewardFigures) -> Iterator[Row]:
    for wrong in reward.content:
        yield estimate_row(f"{wrong.text}: as good, ties half", wrong.as_good)


def _edits(reward: RewardFigures) -> Iterator[Row]:
    if reward.itself and reward.kind != "judge":
        yield estimate_row("as it is: not a tie", reward.itself.changed)
    for edit in reward.edits:
        yield estimate_row(f"with {edit.edit}: wins", edit.wins)
        if edit.size is not None and edit.wins.value:
            yield _row("its mean |R|, that of samples being 1", number(edit.size), n=edit.wins.n)


def _calibration(reward: RewardFigures) -> Iterator[Row]:
    if calibration := reward.calibration:
        n = calibration.error.n
        yield estimate_row("expected calibration error", calibration.error)
        yield _row("the same with what chance adds", percent(calibration.plain_error, n), n=n)
        yield _row("mean confidence", percent(calibration.confidence, n), n=n)
        yield _row("mean accuracy", percent(calibration.accuracy, n), n=n)


def _row(label: str, value: str, interval: str = "", n: int | None = None) -> Row:
    return Row([label, value, interval, "" if n is None else f"{n:,}"])


def _shares(estimates: dict[str, Estimate | None]) -> Iterator[Row]:
    return (estimate_row(label, estimate) for label, estimate in estimates.items() if estimate)


def _signed_row(label: str, estimate: Estimate | None) -> Row:
    return _written(label, estimate, "{:+.2f}".format) if estimate else estimate_row(label, None)


def _written(label: str, estimate: Estimate, write: Callable[[float], str]) -> Row:
    low, value, high = map(write, (estimate.low, estimate.value, estimate.high))
    return _row(label, value, f"{low} to {high}", estimate.n)


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{number(seconds)} s"
