"""The verdict of an audit in words: safe to train, or what to fix. All rules and thresholds stand here.

A rule speaks when the whole interval lies beyond its threshold, so that chance seldom makes it speak. Two are the other
way round: the reward has to show that it is better than a coin, and two judges that they may agree.

    what decides        is right on less than 60 % of the pairs (half of the ties), or not clearly on more than 50 %
                        ties on more than 50 % of them
                        leaves more than 5 % of the policy's samples without a reward
                        lets a text beat itself, by more than 5 % of what it gives samples
                        lets a wrong text (another prompt's reference, shuffled words, the prompt) do as well as the
                        reference in more than 15 %, half of the ties
                        lets a trivial edit beat the reference in more than 10 %, by more than 10 % of the same
                        is right in 20 points more (or fewer) of the pairs whose reference is the longer one
                        follows the length of a prompt's samples with a rank correlation beyond 0.5
    each judge          flips on more than 30 % of the pairs, or of the wrong texts where there are no pairs
                        is of the model family of the policy
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

from collections.abc import Iterator, Sequence

from grao.records.audit import Agreement, Edit, Finding, Forecast, Policy, RewardFigures, Verdict
from grao.records.numbers import Estimate
from grao.reports.tables import interval, share

BLIND = 0.15
"""Share of wrong texts that do as well as the reference, from which on a reward may be blind to content."""
_COIN, _ACCURATE, _TIES = 0.5, 0.6, 0.5
_FLIPS, _SILENT, _FIRST = 0.3, 0.05, 0.1
_UNSTEADY, _EDITED, _EDIT_SIZE = 0.05, 0.1, 0.1
_LENGTH_GAP, _LENGTH_CORRELATION = 0.2, 0.5
_KAPPA = 0.4
_ANOTHER_FAMILY = "Take a judge of another family, or compare it with one (audit.second)."
_NO_SIGNAL, _BEATEN, _CUT = 0.5, 0.5, 0.2


def verdict(
    rewards: Sequence[RewardFigures],
    agreements: Sequence[Agreement],
    policy: Policy,
    forecast: Forecast,
    related: Sequence[str] = (),
) -> Verdict:
    """All rules applied; `related` says of judges that they are of the policy's family."""
    (deciding,) = (reward for reward in rewards if reward.role == "deciding")
    second = next((reward.name for reward in rewards if reward.role == "second"), None)
    findings = [
        *_accuracy(deciding),
        *_content(deciding),
        *_bias(deciding),
        *_samples(policy),
        *(finding for reward in rewards if reward.role != "second" for finding in _judge(reward)),
        *(finding for agreement in agreements if agreement.second == second for finding in _apart(agreement)),
        *_policy(policy),
        *(Finding(words, _ANOTHER_FAMILY) for words in related),
        *_costs(forecast),
    ]
    return Verdict(safe=not findings, findings=findings, unchecked=list(_unchecked(deciding, second)))


def _accuracy(reward: RewardFigures) -> Iterator[Finding]:
    right, ties = (reward.accuracy.half_ties, reward.accuracy.ties) if reward.accuracy else (None, None)
    figure = f"{reward.name} is right on {_figure(right)} of {right.n:,} pairs, a tie being half right" if right else ""
    if right and right.high < _COIN:
        problem = f"It prefers the rejected answers: {figure}."
        yield Finding(problem, "Turn it round: its sign or weight, or the columns data.reference and data.rejected.")
    elif right and right.low <= _COIN:
        remedy = "Take another reward, or show it on more pairs (audit.pairs, more rows with a rejected answer)."
        yield Finding(f"It is not shown to be better than a coin: {figure}.", remedy)
    elif right and right.value < _ACCURATE:
        yield Finding(f"It is hardly better than a coin: {figure}.", "Take a better judge or a sharper criterion.")
    if ties and ties.low > _TIES:
        remedy = "Make it finer: a smaller tie_band or tie_margin, a judge that flips less, a second reward beside it."
        yield Finding(f"It seldom decides: {reward.name} ties on {_figure(ties)} of the pairs.", remedy)


def _content(reward: RewardFigures) -> Iterator[Finding]:
    """Texts that no reward of content lets pass."""
    if blind := [wrong for wrong in reward.content if wrong.as_good.low > BLIND]:
        told = "; ".join(f"{wrong.text}: {_figure(wrong.as_good)}" for wrong in blind)
        yield Finding(
            f"It may not look at what a text says: as good as the reference is {told}.",
            "Read such texts with what they got (audit.json, edits). Take a reward that knows right from wrong, or add "
            "one; training finds whatever is paid without being right.",
        )


def _bias(reward: RewardFigures) -> Iterator[Finding]:
    """Towards a text that says the same in another form, or towards a length."""
    same, gap = reward.itself, reward.length and reward.length.accuracy_gap
    if same and same.wins.low > 0 and _weighty(same, _UNSTEADY):
        yield Finding(
            f"It is noisy: {reward.name} prefers a copy of the reference to the reference in {_figure(same.wins)}.",
            "Make it say the same of the same text: temperature 0 for a judge, no randomness in a function.",
        )
    for edit in reward.edits:
        if edit.wins.low > _EDITED and _weighty(edit, _EDIT_SIZE):
            yield Finding(
                f"It pays for form: with {edit.edit} a reference beats itself in {_figure(edit.wins)}.",
                "Training will find this. Unless you want it, add a rule against it, name it in the judge's template, "
                "or take another reward.",
            )
    if gap and _beyond(gap, 0.0, _LENGTH_GAP):
        side = "longer" if gap.value > 0 else "shorter"
        points = f"{100 * gap.value:.0f} points ({100 * gap.low:.0f} to {100 * gap.high:.0f})"
        problem = f"It favours the {side} answer: where that is the reference it is right more often by {points}."
        remedy = "Add a length rule as a second reward, or train the reward model on pairs of balanced length."
        yield Finding(problem, remedy)


def _samples(policy: Policy) -> Iterator[Finding]:
    related = policy.length_correlation
    if related and _beyond(related, 0.0, _LENGTH_CORRELATION):
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


def _judge(reward: RewardFigures) -> Iterator[Finding]:
    """Its orders and questions, which only a judge has."""
    name, orders, asked = reward.name, reward.orders, reward.questions
    if orders and orders.flips and orders.flips.low > _FLIPS:
        yield Finding(
            f"{name} does not know its mind: with the texts exchanged {_figure(orders.flips)} of its verdicts differ.",
            "Take a stronger judge or a sharper criterion; each flip is paid for twice and counts as a tie.",
        )
    if orders and orders.first_wins and not orders.flips and _beyond(orders.first_wins, 0.5, _FIRST):
        figure = _figure(orders.first_wins)
        yield Finding(f"{name} favours a place: the text shown first has {figure} of its wins.", "Set orders: both.")
    for silent, words in ((asked and asked.unreadable, "hold no verdict"), (asked and asked.failed, "never came")):
        if silent and silent.low > _SILENT:
            yield Finding(
                f"{_figure(silent)} of the answers of {name} {words}.",
                "Raise max_tokens for a judge that reasons, make its template ask for the verdict alone, mend the "
                "server, or take a local judge with room for the question.",
            )


def _apart(agreement: Agreement) -> Iterator[Finding]:
    measured = {"pairs": agreement.pairs, "samples": agreement.samples}
    kappas = {on: both.kappa for on, both in measured.items() if both and both.kappa}
    low = [f"on {on} {_plain(kappa)}" for on, kappa in kappas.items() if kappa.high < _KAPPA]
    if low:
        remedy = "Read some of the pairs that divide them, and train on the one that you would side with."
        yield Finding(f"{agreement.first} and {agreement.second} hardly agree: kappa {' and '.join(low)}.", remedy)


def _policy(policy: Policy) -> Iterator[Finding]:
    if policy.no_signal.low > _NO_SIGNAL:
        problem = f"There is little to learn: all rewards are equal in {_figure(policy.no_signal)} of the groups."
        remedy = "Raise rollout.temperature or rollout.group_size, take harder prompts, or a reward that ties less."
        yield Finding(problem, remedy)
    if policy.dropped.low > _SILENT:
        problem = f"{_figure(policy.dropped)} of the groups have too few rewards to learn from."
        yield Finding(problem, "Find out why rewards are missing before training.")
    if policy.mean_beats.low > _BEATEN:
        yield Finding(
            f"The model is past the references already: {_figure(policy.mean_beats)} of them are beaten on average.",
            "Take better references; with these set method.sign: positive, or training pushes them down.",
        )
    if policy.truncated.low > _CUT:
        remedy = "Raise rollout.max_new_tokens, or check that the model ends its answers with the end token."
        yield Finding(f"{_figure(policy.truncated)} of the samples are cut at the token limit.", remedy)


def _costs(forecast: Forecast) -> Iterator[Finding]:
    """Judges of one model on the server share its smallest limit."""
    for model in dict.fromkeys(judge.model for judge in forecast.judges):
        judges = [judge for judge in forecast.judges if judge.model == model]
        cost = sum(judge.cost for judge in judges)
        cap = min((judge.max_cost for judge in judges if judge.max_cost is not None), default=None)
        if cap is not None and cost > cap:
            names = " and ".join(judge.name for judge in judges)
            problem = f"The money will not do: {names} will cost about {cost:,.2f}, and max_cost is {cap:,.2f}."
            yield Finding(problem, "Raise max_cost, train fewer steps, or set orders: one.")


def _unchecked(deciding: RewardFigures, second: str | None) -> Iterator[str]:
    if not deciding.accuracy:
        remedy = "Name their column in data.rejected if there is one."
        yield f"No accuracy, length bias or calibration: the data have no rejected answers. {remedy}"
    elif not deciding.accuracy.half_ties:
        yield f"No accuracy: {deciding.name} says nothing about any pair."
    if not deciding.itself:
        yield "No floor of a text against itself and no trivial edits: audit.edits is 0."
    if second is None:
        yield "No agreement with a second judge: give one as audit.second, or as watch for the whole run."


def _beyond(estimate: Estimate, centre: float, distance: float) -> bool:
    """Whether the whole interval lies further from the centre, on either side."""
    return estimate.low > centre + distance or estimate.high < centre - distance


def _weighty(edit: Edit, least: float) -> bool:
    return edit.size is None or edit.size > least


def _figure(estimate: Estimate) -> str:
    return f"{share(estimate)} ({interval(estimate)})"


def _plain(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
