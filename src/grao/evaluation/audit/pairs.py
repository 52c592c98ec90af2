"""What a reward makes of pairs of texts whose better one is known: accuracy, order, length, trivial edits.

Every number is a pure function of readings. All readings of pairs are of the rejected answer against the reference,
so a reward is right where R is below 0.
Left out: whether pairs of one prompt hang together. There is one pair a prompt.
"""

from collections.abc import Sequence

from grao.evaluation.audit.correlation import spearman
from grao.evaluation.intervals import half_tie_share, proportion, share_difference
from grao.records.audit import Accuracy, Edit, Length, Orders, Reading
from grao.records.evaluation import Estimate


def accuracy(values: Sequence[float | None], confidence: float = 0.95) -> Accuracy | None:
    """How often the reference wins.

    Args:
        values: R of the rejected answers, None = missing; below 0 is right.
        confidence: nominal coverage.

    Returns:
        None without pairs. Without a verdict on any of them its estimates are None but for what is missing.
    """
    if not values:
        return None
    known = [value for value in values if value is not None]
    right, ties = sum(value < 0 for value in known), sum(value == 0 for value in known)
    decided = len(known) - ties
    return Accuracy(
        decided=proportion(right, decided, confidence) if decided else None,
        half_ties=half_tie_share(right, ties, len(known), confidence) if known else None,
        ties=proportion(ties, len(known), confidence) if known else None,
        missing=proportion(len(values) - len(known), len(values), confidence),
    )


def orders(readings: Sequence[Reading], confidence: float = 0.95) -> Orders:
    """What the order of the texts does to a judge's verdicts.

    Where both orders are asked, a pair with two winners gives the first place two wins, one or none. A judge without
    bias gives one, so the share is (pairs with two + half of the pairs with one) / pairs, with the interval of such a
    sum. Where one drawn order is asked, it is the share of decided verdicts.
    """
    both = [(one.shown_first, one.shown_second) for one in readings]
    twice = [(first, second) for first, second in both if first is not None and second is not None]
    if twice:
        flips = proportion(sum(first != second for first, second in twice), len(twice), confidence)
        won = [(first > 0) + (second < 0) for first, second in twice if first and second]
        share = half_tie_share(won.count(2), won.count(1), len(won), confidence) if won else None
        return Orders(flips, share)
    once = [first or -(second or 0.0) for first, second in both if first or second]
    return Orders(None, proportion(sum(place > 0 for place in once), len(once), confidence) if once else None)


def length_bias(
    values: Sequence[float | None], lengths: Sequence[tuple[int, int]], confidence: float = 0.95
) -> Length | None:
    """What length does to a reward.

    That the longer answer wins more often than not is no bias where the references are longer. What is free of that is
    the accuracy where the reference is the longer one, minus that where it is the shorter: 0 for a reward that does
    not look at length, however often it errs, and 1 for one that looks at nothing else.

    Args:
        values: R of the rejected answers, None = missing.
        lengths: of reference and rejected answer, in any unit.
        confidence: nominal coverage.

    Returns:
        None where no decided pair differs in length.
    """
    seen = [
        (value, reference - rejected)
        for value, (reference, rejected) in zip(values, lengths, strict=True)
        if value is not None and reference != rejected
    ]
    decided = [(value < 0, gap > 0) for value, gap in seen if value != 0]
    if not decided:
        return None
    n = len(decided)
    longer = [right for right, reference_longer in decided if reference_longer]
    shorter = [right for right, reference_longer in decided if not reference_longer]
    sides = [proportion(sum(side), len(side), confidence) for side in (longer, shorter) if side]
    return Length(
        longer_wins=proportion(sum(right == reference_longer for right, reference_longer in decided), n, confidence),
        longer_is_reference=proportion(len(longer), n, confidence),
        accuracy_gap=share_difference(*sides) if len(sides) == 2 else None,
        correlation=spearman([-value for value, _ in seen], [gap for _, gap in seen], confidence),
    )


def edit(name: str, values: Sequence[float | None], scale: float, confidence: float = 0.95) -> Edit | None:
    """What a reward makes of a text against a trivial variant of itself.

    Args:
        name: of the edit.
        values: R of the edited texts, None = missing.
        scale: mean |R| of the policy's samples.
        confidence: nominal coverage.

    Returns:
        None without values.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    n = len(known)
    return Edit(
        edit=name,
        changed=proportion(sum(value != 0 for value in known), n, confidence),
        wins=proportion(sum(value > 0 for value in known), n, confidence),
        size=sum(map(abs, known)) / n / scale if scale else None,
    )


def sides_taken(readings: Sequence[Reading], confidence: float = 0.95) -> Estimate | None:
    """Share of a judge's single verdicts that name a winner, one question a text: asked about a text and itself, both
    orders are the same question."""
    asked = [one.shown_first if one.shown_first is not None else one.shown_second for one in readings]
    said = [verdict for verdict in asked if verdict is not None]
    return proportion(sum(verdict != 0 for verdict in said), len(said), confidence) if said else None
