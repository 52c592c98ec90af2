"""The verdict of an audit in words: safe to train, or what to fix. All rules and thresholds are in this file.

A rule fires when the whole interval is beyond its threshold, so that chance rarely triggers it. Accuracy is the
exception: it must be shown to exceed 50 %, and be at least 60 % itself. Figures without an interval count as they are.

    deciding reward     is right on less than 60 % of the pairs, or not significantly more than 50 % (ties count half)
                        ties on more than 50 % of the pairs
                        leaves more than 5 % of the policy's samples without a reward
                        lets a copy of the reference win, by more than 5 % of the mean |R| of samples
                        rates a wrong text (another prompt's reference, shuffled words, the prompt) as good as the
                        reference in more than 15 % (ties count half)
                        lets a trivial edit beat the reference in more than 10 %, by more than 10 % of that mean
                        has 20 points more (or less) accuracy where the reference is the longer answer
                        correlates with length within a prompt's samples (rank correlation beyond 0.5)
    each judge          flips on more than 30 % of the pairs, or of the wrong texts where there are no pairs
                        is of the same model family as the policy
                        gives the text shown first more than 60 % or less than 40 % of the wins, with one order only
                        gives no answer or an unreadable one to more than 5 % of its questions
                        will cost more than max_cost, together with all others that ask the same model
    second judge        has a kappa below 0.4 with the deciding reward
    policy              gets no signal from more than 50 % of the groups
                        loses more than 5 % of the groups to missing rewards
                        beats more than 50 % of the references on average before any training
                        has more than 20 % of its samples cut at the token limit

No rule concerns calibration: methods that compare the members of a group do not read R as a probability.
"""

from collections.abc import Iterator, Sequence

from grao.records.audit import Agreement, Edit, Finding, Forecast, Policy, RewardFigures, Verdict
from grao.records.numbers import Estimate
from grao.reports.tables import interval, share

BLIND = 0.15
"""Share of wrong texts rated as good as the reference above which a reward may ignore content."""
_CHANCE, _ACCURATE, _TIES = 0.5, 0.6, 0.5
_FLIPS, _SILENT, _FIRST = 0.3, 0.05, 0.1
_UNSTEADY, _EDITED, _EDIT_SIZE = 0.05, 0.1, 0.1
_LENGTH_GAP, _LENGTH_CORRELATION = 0.2, 0.5
_KAPPA = 0.4
_ANOTHER_FAMILY = "Use a judge of another family, or compare with one (audit.second)."
_NO_SIGNAL, _BEATEN, _CUT = 0.5, 0.5, 0.2


def verdict(
    rewards: Sequence[RewardFigures],
    agreements: Sequence[Agreement],
    policy: Policy,
    forecast: Forecast,
    related: Sequence[str] = (),
) -> Verdict:
    """Apply all rules; `related` are problems with judges of the policy's family."""
    (deciding,) = (reward for reward in rewards if reward.role == "deciding")
    second = next((reward.name for reward in rewards if reward.role == "second"), None)
    findings = [
        *_accuracy(deciding),
        *_content(deciding),
        *_bias(deciding),
        *_samples(policy),
        *(finding for reward in rewards if reward.role != "second" for finding in _judge(reward)),
        *(finding for agreement in agreements if agreement.second == second for finding in _disagreement(agreement)),
        *_policy(policy),
        *(Finding(problem, _ANOTHER_FAMILY) for problem in related),
        *_costs(forecast),
    ]
    return Verdict(safe=not findings, findings=findings, unchecked=list(_unchecked(deciding, second)))


def _accuracy(reward: RewardFigures) -> Iterator[Finding]:
    right, ties = (reward.accuracy.half_ties, reward.accuracy.ties) if reward.accuracy else (None, None)
    figure = f"{reward.name} is right on {_figure(right)} of {right.n:,} pairs (ties count half)" if right else ""
    if right and right.high < _CHANCE:
        problem = f"It prefers the rejected answers: {figure}."
        yield Finding(problem, "Flip its sign or weight, or exchange data.reference and data.rejected.")
    elif right and right.low <= _CHANCE:
        remedy = "Use another reward, or test it on more pairs (audit.pairs, more rows with a rejected answer)."
        yield Finding(f"It is not significantly better than chance: {figure}.", remedy)
    elif right and right.value < _ACCURATE:
        yield Finding(f"It is hardly better than chance: {figure}.", "Use a better judge or a sharper criterion.")
    if ties and ties.low > _TIES:
        remedy = "Make it finer: a smaller tie_band or tie_margin, a judge that flips less, or a second reward."
        yield Finding(f"It rarely decides: {reward.name} ties on {_figure(ties)} of the pairs.", remedy)


def _content(reward: RewardFigures) -> Iterator[Finding]:
    """Yield a finding if too many wrong texts are rated as good as the reference."""
    if blind := [wrong for wrong in reward.content if wrong.as_good.low > BLIND]:
        figures = "; ".join(f"{wrong.text}: {_figure(wrong.as_good)}" for wrong in blind)
        yield Finding(
            f"It may ignore content; rated as good as the reference: {figures}.",
            "Read these texts and their rewards (audit.json, edits). Use or add a reward that tells right from wrong; "
            "training finds whatever is rewarded without being right.",
        )


def _bias(reward: RewardFigures) -> Iterator[Finding]:
    """Yield findings of noise, and of bias toward the form of texts that say the same or toward length."""
    same, gap = reward.itself, reward.length and reward.length.accuracy_gap
    if same and same.wins.low > 0 and _exceeds(same, _UNSTEADY):
        yield Finding(
            f"It is noisy: {reward.name} prefers a copy of the reference to the original in {_figure(same.wins)}.",
            "Make it deterministic: temperature 0 for a judge, no randomness in a function.",
        )
    for edit in reward.edits:
        if edit.wins.low > _EDITED and _exceeds(edit, _EDIT_SIZE):
            yield Finding(
                f"It rewards form: with {edit.edit} a reference beats itself in {_figure(edit.wins)}.",
                "Training will exploit this. If unwanted, add a rule against it, name it in the judge's template, or "
                "use another reward.",
            )
    if gap and _beyond(gap, 0.0, _LENGTH_GAP):
        side = "longer" if gap.value > 0 else "shorter"
        points = f"{100 * gap.value:.0f} points ({100 * gap.low:.0f} to {100 * gap.high:.0f})"
        problem = f"It favors the {side} answer: where that is the reference, its accuracy is higher by {points}."
        remedy = "Add a length rule as a second reward, or train the reward model on pairs of balanced length."
        yield Finding(problem, remedy)


def _samples(policy: Policy) -> Iterator[Finding]:
    related = policy.length_correlation
    if related and _beyond(related, 0.0, _LENGTH_CORRELATION):
        side = "longer" if related.value > 0 else "shorter"
        yield Finding(
            f"Among samples of one prompt it rewards the {side} ones: rank correlation with length {_plain(related)}.",
            "Read the best samples; unless they are better for another reason, add a length rule.",
        )
    if policy.missing > _SILENT:
        yield Finding(
            f"{100 * policy.missing:.1f} % of the policy's samples have no reward.",
            "Find out why: unreadable verdicts, a function that returns None, texts too long for the judge.",
        )


def _judge(reward: RewardFigures) -> Iterator[Finding]:
    """Yield findings of flips, position bias and missing verdicts, which only a judge has."""
    name, orders, replies = reward.name, reward.orders, reward.questions
    if orders and orders.flips and orders.flips.low > _FLIPS:
        yield Finding(
            f"{name} contradicts itself: {_figure(orders.flips)} of its verdicts change when the texts are swapped.",
            "Use a stronger judge or a sharper criterion; each flip costs two questions and counts as a tie.",
        )
    if orders and orders.first_wins and not orders.flips and _beyond(orders.first_wins, 0.5, _FIRST):
        figure = _figure(orders.first_wins)
        yield Finding(f"{name} has position bias: the text shown first gets {figure} of its wins.", "Set orders: both.")
    for rate, flaw in ((replies and replies.unreadable, "hold no verdict"), (replies and replies.failed, "never came")):
        if rate and rate.low > _SILENT:
            yield Finding(
                f"{_figure(rate)} of the answers of {name} {flaw}.",
                "Raise max_tokens for a judge that reasons, make its template ask for the verdict alone, fix the "
                "server, or use a local judge with enough context.",
            )


def _disagreement(agreement: Agreement) -> Iterator[Finding]:
    measured = {"pairs": agreement.pairs, "samples": agreement.samples}
    kappas = {texts: each.kappa for texts, each in measured.items() if each and each.kappa}
    low = [f"on {texts} {_plain(kappa)}" for texts, kappa in kappas.items() if kappa.high < _KAPPA]
    if low:
        remedy = "Read some pairs on which they disagree, and train on the one you agree with."
        yield Finding(f"{agreement.first} and {agreement.second} hardly agree: kappa {' and '.join(low)}.", remedy)


def _policy(policy: Policy) -> Iterator[Finding]:
    if policy.no_signal.low > _NO_SIGNAL:
        problem = f"There is little to learn: all rewards are equal in {_figure(policy.no_signal)} of the groups."
        remedy = "Raise rollout.temperature or rollout.group_size, or use harder prompts or a reward that ties less."
        yield Finding(problem, remedy)
    if policy.dropped.low > _SILENT:
        problem = f"{_figure(policy.dropped)} of the groups have too few rewards to learn from."
        yield Finding(problem, "Find out why rewards are missing before training.")
    if policy.mean_beats.low > _BEATEN:
        yield Finding(
            f"The model is already better than the references: on average it beats {_figure(policy.mean_beats)}.",
            "Use better references; with these, set method.sign: positive, or training makes them less likely.",
        )
    if policy.truncated.low > _CUT:
        remedy = "Raise rollout.max_new_tokens, or check that the model ends its answers with the end token."
        yield Finding(f"{_figure(policy.truncated)} of the samples are cut at the token limit.", remedy)


def _costs(forecast: Forecast) -> Iterator[Finding]:
    """Yield findings of costs above the limit; judges that ask the same model share the smallest of their limits."""
    for model in dict.fromkeys(judge.model for judge in forecast.judges):
        judges = [judge for judge in forecast.judges if judge.model == model]
        cost = sum(judge.cost for judge in judges)
        cap = min((judge.max_cost for judge in judges if judge.max_cost is not None), default=None)
        if cap is not None and cost > cap:
            names = " and ".join(judge.name for judge in judges)
            problem = f"Estimated judge cost ({cost:,.2f}) exceeds max_cost ({cap:,.2f}): {names}."
            yield Finding(problem, "Raise max_cost, train fewer steps, or set orders: one.")


def _unchecked(deciding: RewardFigures, second: str | None) -> Iterator[str]:
    if not deciding.accuracy:
        remedy = "Name their column in data.rejected if there is one."
        yield f"No accuracy, length bias or calibration: the data has no rejected answers. {remedy}"
    elif not deciding.accuracy.half_ties:
        yield f"No accuracy: {deciding.name} gave no reward for any pair."
    if not deciding.itself:
        yield "No test on copies of references or trivial edits: audit.edits is 0."
    if second is None:
        yield "No agreement with a second judge: set audit.second, or watch for the whole run."


def _beyond(estimate: Estimate, center: float, distance: float) -> bool:
    """Whether the whole interval is farther than `distance` from the center, on either side."""
    return estimate.low > center + distance or estimate.high < center - distance


def _exceeds(edit: Edit, least: float) -> bool:
    return edit.size is None or edit.size > least


def _figure(estimate: Estimate) -> str:
    return f"{share(estimate)} ({interval(estimate)})"


def _plain(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
