"""What a study comes to, in words: the best arm, what the main arm beats, and what to know before believing it."""

from collections.abc import Callable, Iterator, Sequence

from grao.records.study import ArmResult, Comparison, StudyResult
from grao.reports import tables
from grao.reports.tables import level, number, share

_BOTH = "new prompts and new trainings at once"
_CLEAR = 0.8
"""Share of resamples in which a learning rate has to be chosen for the choice to count as clear."""


def verdict(result: StudyResult) -> str:
    """One paragraph: what was reached, what holds for new prompts and trainings at once, and what for either."""
    said = (headline(result), separable(result), on_both(result), on_prompts(result), on_seeds(result))
    return " ".join(filter(None, said))


def ranked(result: StudyResult) -> list[ArmResult]:
    """The arms by their RAS, highest first; of equals in the order of the study."""
    return sorted(result.arms, key=lambda arm: -arm.ras.over_prompts.value)


def headline(result: StudyResult) -> str:
    """Which arm reached most."""
    best = ranked(result)[0]
    over = "" if len(best.seeds) == 1 else f", mean over {len(best.seeds)} seeds"
    return (
        f"After {result.budget} {best.arm} beats the reference most often, on {share(best.ras.over_prompts)} of "
        f"{result.prompts:,} held-out prompts{over}; before training: {share(best.before.over_prompts)}. Win or tie: "
        f"{share(best.ras_win_or_tie.over_prompts)}."
    )


def separable(result: StudyResult) -> str:
    """Whether the best arm can be told from the next, for new prompts and trainings; with one seed for new prompts.

    That question needs no correction for the number of arms: the two-sided test of the best against the next errs with
    at most alpha, shown for exponential families (Hung and Fithian, Annals of Statistics 47, 2019). Empty of one arm.
    """
    if len(result.arms) < 2:
        return ""
    best, second = ranked(result)[:2]
    named = f"The next, {second.arm} with {share(second.ras.over_prompts)},"
    both = {best.arm, second.arm}
    pair = next((pair for pair in (*result.pairs, *result.comparisons) if {pair.arm, pair.other} == both), None)
    if pair is None:
        return f"{named} was not tested against it."
    p = pair.both.p if pair.both else pair.p_prompts
    over = f"for {_BOTH}, {len(pair.seeds)} seeds" if pair.both else "over prompts; one seed cannot tell more"
    return f"{named} is {'' if p <= 1 - result.confidence else 'not '}separable from it: p {_equals(p)} {over}."


def on_both(result: StudyResult) -> str:
    """What holds for new prompts and new trainings at once; empty with a single seed."""
    if not result.comparisons or not all(compared.both for compared in result.comparisons):
        return ""
    told = _told(result, lambda compared: compared.both.p_corrected if compared.both else None)
    return f"For {_BOTH}: {result.main} {told}."


def on_prompts(result: StudyResult) -> str:
    """What holds for other prompts, with these very models."""
    if not result.comparisons:
        return ""
    these = "these very models" if len(result.comparisons[0].seeds) > 1 else "these very models, of one seed"
    told = _told(result, lambda compared: compared.p_prompts_corrected)
    return f"On other prompts of the kind, for {these}: {result.main} {told}."


def on_seeds(result: StudyResult) -> str:
    """What holds for training again; or that so few seeds cannot tell."""
    compared = result.comparisons
    if not compared:
        return ""
    fewest = min(len(other.seeds) for other in compared)
    needed = tables.seeds_needed(len(compared), 1 - result.confidence)
    if fewest < needed:
        tests = "a test" if len(compared) == 1 else f"{len(compared)} tests after correction"
        return (
            f"Whether it holds if all is trained again {fewest} seed{'s' * (fewest > 1)} cannot tell: for {tests} "
            f"at {level(1 - result.confidence)} it takes at least {needed}."
        )
    told = _told(result, lambda compared: compared.p_seeds_corrected)
    return f"If all is trained again, on these very prompts: {result.main} {told}."


def notes(result: StudyResult) -> Iterator[str]:
    """What a reader should know before believing the numbers, one sentence each."""
    for failure in result.failures:
        yield f"The run {failure.cell} failed, --retry tries it again: {failure.error}"
    for name in result.absent:
        yield f"{name} is missing: no run of it came to its end."
    for arm in result.arms:
        if len(arm.seeds) < result.seeds:
            yield f"{arm.arm} has {len(arm.seeds)} of {result.seeds} seeds; comparisons use those that both arms have."
    if unclear := [words for arm in result.arms if (words := _unclear(arm, result))]:
        yield f"Which learning rate is best is not clear: {_listed(unclear)} of resamples of the selection."
    for side, end in (("smallest", min), ("largest", max)):
        if at_edge := [f"{arm.arm} ({number(arm.learning_rate)})" for arm in result.arms if _at(arm, result, end)]:
            yield f"The {side} learning rate offered was selected for {_listed(at_edge)}: a better one may lie beyond."
    if len(result.versions) > 1:
        yield "The runs were made with different versions of the libraries; see the end of the page."


def _unclear(arm: ArmResult, result: StudyResult) -> str:
    """`grao 0.001, but 0.003 in 28 %`; empty where nothing was selected, or the choice is clear."""
    offered = [tried for tried in result.candidates if tried.arm == arm.arm]
    chosen = {tried.learning_rate: tried.chosen for tried in offered if tried.chosen is not None}
    if len(chosen) < 2 or chosen.get(arm.learning_rate, 1.0) >= _CLEAR:
        return ""
    other = max((rate for rate in chosen if rate != arm.learning_rate), key=lambda rate: chosen[rate])
    return f"{arm.arm} {number(arm.learning_rate)}, but {number(other)} in {100 * chosen[other]:.0f} %"


def _told(result: StudyResult, p: Callable[[Comparison], float | None]) -> str:
    """`beats a by +3.2 points (...), loses to b by ..., and does not differ significantly from c (...)`."""
    groups: dict[str, list[str]] = {"beats": [], "loses to": [], "does not differ significantly from": []}
    for compared in result.comparisons:
        tested, over = p(compared), compared.difference.over_prompts
        sure = tested is not None and tested <= 1 - result.confidence
        kind = ("beats" if over.value > 0 else "loses to") if sure else "does not differ significantly from"
        ahead = tables.points(over.value, over.n)
        groups[kind].append(f"{compared.other} ({ahead} points, p {_equals(tested)})")
    return _listed([f"{kind} {_listed(arms)}" for kind, arms in groups.items() if arms])


def _at(arm: ArmResult, result: StudyResult, end: Callable[[Sequence[float]], float]) -> bool:
    """Whether an arm's learning rate is one end of its grid."""
    rates = [candidate.learning_rate for candidate in result.candidates if candidate.arm == arm.arm]
    return len(rates) > 1 and arm.learning_rate == end(rates)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _equals(p: float | None) -> str:
    """`= 0.031`, `< 0.001`."""
    shown = tables.p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"
