"""The verdict of an audit in words: safe to train, or what to fix. All rules and thresholds stand here.

A rule speaks when the whole interval lies beyond its threshold, so that chance seldom makes it speak. Two are the other
way round: the reward has to show that it is better than a coin, and two judges that they may agree.

    what decides        is right on less than 60 % of the pairs (half of the ties), or not clearly on more than 50 %
                        ties on more than 50 % of them
                        leaves more than 5 % of the policy's samples without a reward
                        lets a text beat itself, by more than 5 % of what it gives samples
                        lets a trivial edit beat the reference in more than 10 %, by more than 10 % of the same
                        is right in 20 points more (or fewer) of the pairs whose reference is the longer one
                        follows the length of a prompt's samples with a rank correlation beyond 0.5
    each judge          flips on more than 30 % of the pairs
                        gives the text shown first more than 60 % or less than 40 % of the wins, if one order is asked
                        is unreadable or silent in more than 5 % of its answers
                        will cost more than max_cost, with all others that ask the same model
    the second judge    cannot have a kappa of 0.4 with what decides
    the policy          gets no signal from more than 50 % of the groups
                        loses more than 5 % of the groups to missing rewards
                        beats more than 50 % of the references on average before any training
                        has more than 20 % of its samples cut at the token limit

No rule looks at calibration: a method that compares the members of a group does not read R as a probability.
"""

from collections.abc import Callable, Iterator, Sequence

from grao.records.audit import Agreement, Edit, Finding, Forecast, JudgeForecast, Policy, RewardFigures, Verdict
from grao.records.evaluation import Estimate
from grao.reports.words import interval, share

_COIN, _ACCURATE, _TIES = 0.5, 0.6, 0.5
_FLIPS, _SILENT, _PLACE = 0.3, 0.05, 0.1
_UNSTEADY, _EDITED, _EDIT_SIZE = 0.05, 0.1, 0.1
_LENGTH_GAP, _LENGTH_CORRELATION = 0.2, 0.5
_KAPPA = 0.4
_NO_SIGNAL, _BEATEN, _CUT = 0.5, 0.5, 0.2


def verdict(
    rewards: Sequence[RewardFigures], agreements: Sequence[Agreement], policy: Policy, forecast: Forecast
) -> Verdict:
    """All rules applied."""
    (deciding,) = (one for one in rewards if one.role == "deciding")
    second = next((one.name for one in rewards if one.role == "second"), None)
    own = [one for one in rewards if one.kind == "judge" and one.role != "second"]
    findings = [
        *(finding for rule in _DECIDING for finding in rule(deciding)),
        *_samples(policy),
        *(finding for judge in own for finding in _judge(judge)),
        *(finding for found in agreements if found.second == second for finding in _apart(found)),
        *_policy(policy),
        *_costs(forecast),
    ]
    return Verdict(safe=not findings, findings=findings, unchecked=list(_unchecked(deciding, second)))


def _accuracy(reward: RewardFigures) -> Iterator[Finding]:
    found = reward.accuracy and reward.accuracy.half_ties
    if not found:
        return
    figure = f"{reward.name} is right on {_figure(found)} of {found.n:,} pairs, a tie being half right"
    if found.high < _COIN:
        yield Finding(
            f"It prefers the rejected answers: {figure}.",
            "Turn it round: its sign or weight, or the columns data.reference and data.rejected.",
        )
    elif found.low <= _COIN:
        yield Finding(
            f"It is not shown to be better than a coin: {figure}.",
            "Take another reward, or show it on more pairs (audit.pairs, more rows with a rejected answer).",
        )
    elif found.value < _ACCURATE:
        yield Finding(f"It is hardly better than a coin: {figure}.", "Take a better judge or a sharper criterion.")


def _ties(reward: RewardFigures) -> Iterator[Finding]:
    ties = reward.accuracy and reward.accuracy.ties
    if ties and ties.low > _TIES:
        yield Finding(
            f"It seldom decides: {reward.name} ties on {_figure(ties)} of the pairs.",
            "Make it finer: a smaller tie_band or tie_margin, a judge that flips less, a second reward beside it.",
        )


def _steady(reward: RewardFigures) -> Iterator[Finding]:
    same = reward.itself
    if same and same.wins.low > 0 and _weighty(same, _UNSTEADY):
        yield Finding(
            f"It is noisy: {reward.name} prefers a copy of the reference to the reference in {_figure(same.wins)}.",
            "Make it say the same of the same text: temperature 0 for a judge, no randomness in a function.",
        )


def _edits(reward: RewardFigures) -> Iterator[Finding]:
    for one in reward.edits:
        if one.wins.low > _EDITED and _weighty(one, _EDIT_SIZE):
            yield Finding(
                f"It pays for form: with {one.edit} a reference beats itself in {_figure(one.wins)}.",
                "Training will find this. Unless you want it, add a rule against it, name it in the judge's template, "
                "or take another reward.",
            )


def _length(reward: RewardFigures) -> Iterator[Finding]:
    gap = reward.length and reward.length.accuracy_gap
    if gap and (gap.low > _LENGTH_GAP or gap.high < -_LENGTH_GAP):
        side = "longer" if gap.value > 0 else "shorter"
        yield Finding(
            f"It favours the {side} answer: where that is the reference it is right more often by {_points(gap)}.",
            "Add a length rule as a second reward, or train the reward model on pairs of balanced length.",
        )


_DECIDING: tuple[Callable[[RewardFigures], Iterator[Finding]], ...] = (_accuracy, _ties, _steady, _edits, _length)


def _samples(policy: Policy) -> Iterator[Finding]:
    related = policy.length_correlation
    if related and (related.low > _LENGTH_CORRELATION or related.high < -_LENGTH_CORRELATION):
        side = "longer" if related.value > 0 else "shorter"
        yield Finding(
            f"Among the samples of a prompt it pays for being {side}: rank correlation with length {_plain(related)}.",
            "Look at the best samples; if they are better for another reason all is well, else add a length rule.",
        )
    if policy.missing > _SILENT:
        yield Finding(
            f"{100 * policy.missing:.1f} % of the policy's samples have no reward.",
            "Find out why: unreadable verdicts, a function that returns None, texts that are too long for the judge.",
        )


def _judge(judge: RewardFigures) -> Iterator[Finding]:
    flips, first = (judge.orders.flips, judge.orders.first_wins) if judge.orders else (None, None)
    if flips and flips.low > _FLIPS:
        yield Finding(
            f"{judge.name} does not know its mind: with the texts exchanged {_figure(flips)} of its verdicts differ.",
            "Take a stronger judge or a sharper criterion; each flip is paid for twice and counts as a tie.",
        )
    if first and not flips and (first.low > 0.5 + _PLACE or first.high < 0.5 - _PLACE):
        yield Finding(
            f"{judge.name} favours a place: the text shown first has {_figure(first)} of its wins.", "Set orders: both."
        )
    asked = judge.questions
    for share_of, words in ((asked and asked.unreadable, "hold no verdict"), (asked and asked.failed, "never came")):
        if share_of and share_of.low > _SILENT:
            yield Finding(
                f"{_figure(share_of)} of the answers of {judge.name} {words}.",
                "Raise max_tokens for a judge that reasons, make its template ask for the verdict alone, mend the "
                "server, or take a local judge with room for the question.",
            )


def _apart(found: Agreement) -> Iterator[Finding]:
    measured = {"pairs": found.pairs, "samples": found.samples}
    kappas = {on: kappa.kappa for on, kappa in measured.items() if kappa and kappa.kappa}
    low = [f"on {on} {_plain(kappa)}" for on, kappa in kappas.items() if kappa.high < _KAPPA]
    if low:
        yield Finding(
            f"{found.first} and {found.second} hardly agree: kappa {' and '.join(low)}.",
            "Read some of the pairs that divide them, and train on the one that you would side with.",
        )


def _policy(policy: Policy) -> Iterator[Finding]:
    if policy.no_signal.low > _NO_SIGNAL:
        yield Finding(
            f"There is little to learn: all rewards are equal in {_figure(policy.no_signal)} of the groups.",
            "Raise rollout.temperature or rollout.group_size, take harder prompts, or a reward that ties less.",
        )
    if policy.dropped.low > _SILENT:
        yield Finding(
            f"{_figure(policy.dropped)} of the groups have too few rewards to learn from.",
            "Find out why rewards are missing before training.",
        )
    if policy.mean_beats.low > _BEATEN:
        yield Finding(
            f"The model is past the references already: {_figure(policy.mean_beats)} of them are beaten on average.",
            "Take better references; with these set method.sign: positive, or training pushes them down.",
        )
    if policy.truncated.low > _CUT:
        yield Finding(
            f"{_figure(policy.truncated)} of the samples are cut at the token limit.",
            "Raise rollout.max_new_tokens, or check that the model ends its answers with the end token.",
        )


def _costs(forecast: Forecast) -> Iterator[Finding]:
    for model in dict.fromkeys(judge.model for judge in forecast.judges):
        judges = [judge for judge in forecast.judges if judge.model == model]
        cost, cap = sum(judge.cost for judge in judges), min(_caps(judges), default=None)
        if cap is not None and cost > cap:
            names = " and ".join(judge.name for judge in judges)
            yield Finding(
                f"The money will not do: {names} will cost about {cost:,.2f}, and max_cost is {cap:,.2f}.",
                "Raise max_cost, train fewer steps, or set orders: one.",
            )


def _caps(judges: Sequence[JudgeForecast]) -> list[float]:
    return [judge.max_cost for judge in judges if judge.max_cost is not None]


def _unchecked(deciding: RewardFigures, second: str | None) -> Iterator[str]:
    if not deciding.accuracy:
        yield (
            "No accuracy, length bias or calibration: the data have no rejected answers. Name their column in "
            "data.rejected if there is one."
        )
    elif not deciding.accuracy.half_ties:
        yield f"No accuracy: {deciding.name} says nothing about any pair."
    if not deciding.itself:
        yield "No floor of a text against itself and no trivial edits: audit.edits is 0."
    if second is None:
        yield "No agreement with a second judge: give one as audit.second, or as watch for the whole run."


def _weighty(one: Edit, least: float) -> bool:
    return one.size is None or one.size > least


def _figure(estimate: Estimate) -> str:
    return f"{share(estimate)} ({interval(estimate)})"


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} points ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def _plain(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
