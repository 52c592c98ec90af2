"""The results of a study in words: the best arm, how the main arm compares with the others, and caveats."""

from collections.abc import Callable, Iterator, Sequence

from grao.records.study import ArmResult, Comparison, StudyResult
from grao.reports import tables
from grao.reports.tables import level, number, share

_BOTH = "new prompts and new training runs"
_ADJUSTED = "(Holm-adjusted p-values)"
_CLEAR = 0.8
"""Share of bootstrap resamples that must choose the same learning rate for the choice to count as clear."""


def verdict(result: StudyResult) -> str:
    """One paragraph: the best arm, then the comparisons over prompts and seeds, over prompts, and over seeds."""
    sentences = (headline(result), separable(result), on_both(result), on_prompts(result), on_seeds(result))
    return " ".join(filter(None, sentences))


def ranked(result: StudyResult) -> list[ArmResult]:
    """The arms sorted by RAS, highest first; ties keep the order of the study."""
    return sorted(result.arms, key=lambda arm: -arm.ras.over_prompts.value)


def headline(result: StudyResult) -> str:
    """Name the arm with the highest RAS, with its win rates before and after training."""
    best = ranked(result)[0]
    over = "" if len(best.seeds) == 1 else f", mean over {len(best.seeds)} seeds"
    return (
        f"After {result.budget}, {best.arm} beats the reference most often, on {share(best.ras.over_prompts)} of "
        f"{result.prompts:,} held-out prompts{over} (before training: {share(best.before.over_prompts)}; win-or-tie "
        f"rate: {share(best.ras_win_or_tie.over_prompts)})."
    )


def separable(result: StudyResult) -> str:
    """Say whether the best arm is significantly ahead of the second; empty for a single arm.

    The test is over prompts and seeds, with one seed over prompts. It needs no correction for the number of arms: the
    two-sided test of the best arm against the runner-up has size at most alpha, shown for exponential families (Hung
    and Fithian, Annals of Statistics 47, 2019).
    """
    if len(result.arms) < 2:
        return ""
    best, second = ranked(result)[:2]
    runner_up = f"the runner-up, {second.arm} with {share(second.ras.over_prompts)},"
    names = {best.arm, second.arm}
    pair = next((pair for pair in (*result.pairs, *result.comparisons) if {pair.arm, pair.other} == names), None)
    if pair is None:
        return f"Its lead over {runner_up} was not tested."
    p = pair.both.p if pair.both else pair.p_prompts
    over = f"for {_BOTH}, {len(pair.seeds)} seeds" if pair.both else "over prompts; a single seed cannot show more"
    negated = "" if p <= 1 - result.confidence else "not "
    return f"Its lead over {runner_up} is {negated}significant: p {_equals(p)} {over}."


def on_both(result: StudyResult) -> str:
    """Compare the main arm with the others for new prompts and new training runs; empty with a single seed."""
    if not result.comparisons or not all(compared.both for compared in result.comparisons):
        return ""
    outcome = _outcomes(result, lambda compared: compared.both.p_corrected if compared.both else None)
    return f"For {_BOTH} {_ADJUSTED}: {result.main} {outcome}."


def on_prompts(result: StudyResult) -> str:
    """State how the main arm compares with the others on new prompts, if the trained models stay the same."""
    if not result.comparisons:
        return ""
    models = "the same trained models" if len(result.comparisons[0].seeds) > 1 else "the same models of one seed"
    outcome = _outcomes(result, lambda compared: compared.p_prompts_corrected)
    return f"For new prompts and {models} {_ADJUSTED}: {result.main} {outcome}."


def on_seeds(result: StudyResult) -> str:
    """Compare the main arm with the others for new training runs, or say that there are too few seeds to test."""
    comparisons = result.comparisons
    if not comparisons:
        return ""
    fewest = min(len(compared.seeds) for compared in comparisons)
    needed = tables.seeds_needed(len(comparisons), 1 - result.confidence)
    if fewest < needed:
        tests = "a test" if len(comparisons) == 1 else f"{len(comparisons)} Holm-adjusted tests"
        return (
            f"{fewest} seed{'s' * (fewest > 1)} cannot show whether this holds for new training runs on the same "
            f"prompts: for {tests} at {level(1 - result.confidence)} it takes at least {needed}."
        )
    outcome = _outcomes(result, lambda compared: compared.p_seeds_corrected)
    return f"For new training runs on the same prompts {_ADJUSTED}: {result.main} {outcome}."


def notes(result: StudyResult) -> Iterator[str]:
    """Caveats about the numbers, one sentence each."""
    for failure in result.failures:
        yield f"Run {failure.cell} failed; use --retry to run it again. Error: {failure.error}"
    for name in result.absent:
        yield f"{name} is missing: none of its runs finished."
    for arm in result.arms:
        if len(arm.seeds) < result.seeds:
            yield f"{arm.arm} has {len(arm.seeds)} of {result.seeds} seeds; comparisons use only shared seeds."
    if unclear := [words for arm in result.arms if (words := _unclear(arm, result))]:
        yield f"The choice of learning rate is uncertain: bootstrap resamples also choose {_listed(unclear)}."
    for end, beyond, pick in (("smallest", "smaller", min), ("largest", "larger", max)):
        if at_edge := [f"{arm.arm} ({number(arm.learning_rate)})" for arm in result.arms if _at(arm, result, pick)]:
            yield f"The {end} candidate learning rate was selected for {_listed(at_edge)}; try {beyond} ones."
    if len(result.versions) > 1:
        yield "The runs used different library versions; see the end of the page."


def _unclear(arm: ArmResult, result: StudyResult) -> str:
    """`0.003 instead of 0.001 for grao (28 %)`; empty if there was no selection or the choice is clear."""
    offered = [tried for tried in result.candidates if tried.arm == arm.arm]
    chosen = {tried.learning_rate: tried.chosen for tried in offered if tried.chosen is not None}
    if len(chosen) < 2 or chosen.get(arm.learning_rate, 1.0) >= _CLEAR:
        return ""
    other = max((rate for rate in chosen if rate != arm.learning_rate), key=lambda rate: chosen[rate])
    return f"{number(other)} instead of {number(arm.learning_rate)} for {arm.arm} ({100 * chosen[other]:.0f} %)"


def _outcomes(result: StudyResult, p: Callable[[Comparison], float | None]) -> str:
    """`beats a (+3.2 points, p = 0.01), loses to b (...) and does not differ significantly from c (...)`."""
    groups: dict[str, list[str]] = {"beats": [], "loses to": [], "does not differ significantly from": []}
    for compared in result.comparisons:
        adjusted, over = p(compared), compared.difference.over_prompts
        significant = adjusted is not None and adjusted <= 1 - result.confidence
        kind = ("beats" if over.value > 0 else "loses to") if significant else "does not differ significantly from"
        lead = tables.points(over.value, over.n)
        groups[kind].append(f"{compared.other} ({lead} points, p {_equals(adjusted)})")
    return _listed([f"{kind} {_listed(arms)}" for kind, arms in groups.items() if arms])


def _at(arm: ArmResult, result: StudyResult, end: Callable[[Sequence[float]], float]) -> bool:
    """Whether the arm's learning rate is this end (min or max) of its candidates."""
    rates = [candidate.learning_rate for candidate in result.candidates if candidate.arm == arm.arm]
    return len(rates) > 1 and arm.learning_rate == end(rates)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _equals(p: float | None) -> str:
    """`= 0.031`, `< 0.001`."""
    shown = tables.p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"
