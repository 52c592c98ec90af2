"""What a study comes to, in words: which arm beats which, by how much, and how far that can be told."""

from collections.abc import Callable, Iterator, Sequence

from grao.records.study import ArmResult, Comparison, StudyResult
from grao.reports.words import level, number, percent, share


def verdict(result: StudyResult) -> str:
    """One paragraph: what was reached, what holds for other prompts, what for training again."""
    return " ".join(sentence for sentence in (headline(result), on_prompts(result), on_seeds(result)) if sentence)


def headline(result: StudyResult) -> str:
    """What the main arm reached."""
    main = next((arm for arm in result.arms if arm.arm == result.main), None)
    if main is None:
        return f"No run of {result.main} came to its end, so nothing is compared with it."
    over = "" if len(main.seeds) == 1 else f", mean over {len(main.seeds)} seeds"
    return (
        f"After {result.budget} {main.arm} beats the reference on {share(main.ras.over_prompts)} of {result.prompts:,} "
        f"held-out prompts{over}; before training it was {share(main.before.over_prompts)}."
    )


def on_prompts(result: StudyResult) -> str:
    """What holds for other prompts, with these very models."""
    if not result.comparisons:
        return ""
    seeds = len(result.comparisons[0].seeds)
    these = "these very models" if seeds > 1 else "these very models, of one seed"
    found = _findings(result, lambda one: one.p_prompts_corrected)
    return f"On other prompts of the kind, for {these}: {result.main} {found}."


def on_seeds(result: StudyResult) -> str:
    """What holds for training again; or that so few seeds cannot tell."""
    compared = result.comparisons
    if not compared:
        return ""
    fewest, needed = min(len(one.seeds) for one in compared), seeds_needed(len(compared), 1 - result.confidence)
    if fewest < needed:
        tests = "a test" if len(compared) == 1 else f"{len(compared)} tests after correction"
        return (
            f"Whether it holds if all is trained again {fewest} seed{'s' * (fewest > 1)} cannot tell: for {tests} "
            f"at {level(1 - result.confidence)} it takes at least {needed}."
        )
    found = _findings(result, lambda one: one.p_seeds_corrected)
    return f"If all is trained again, on these very prompts: {result.main} {found}."


def seeds_needed(comparisons: int, alpha: float) -> int:
    """Fewest seeds with which a test over seeds can pass after Holm's correction.

    The least p-value of flipping the signs of n differences is 2 / 2^n, and the correction multiplies it by the
    number of comparisons: 8 seeds for four at 5 %.
    """
    seeds = 2
    while comparisons * 2 / 2**seeds > alpha:
        seeds += 1
    return seeds


def notes(result: StudyResult) -> list[str]:
    """What a reader should know before believing the numbers, one sentence each."""
    return list(_notes(result))


def spread(result: StudyResult) -> str:
    """How the two kinds of interval are to be read."""
    sure = level(result.confidence)
    return (
        f"Two {sure} intervals stand beside each value. Over prompts: would it hold on other prompts, for these very "
        "models? Over seeds: would it hold if all were trained again, on these very prompts?"
    )


def relative(one: Comparison) -> str:
    """RAS of the one divided by RAS of the other, less 1."""
    return "" if one.relative_ras is None else percent(one.relative_ras, one.difference.over_prompts.n, signed=True)


def points(value: float, prompts: int) -> str:
    """A difference of two shares: `+3.2 points`."""
    return f"{percent(value, prompts, signed=True).removesuffix(' %')} points"


def p_value(p: float | None) -> str:
    """`0.031`, `< 0.001`; empty where there was no test."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def _findings(result: StudyResult, p: Callable[[Comparison], float | None]) -> str:
    """`beats a by +3.2 points (...), loses to b by ..., and does not differ significantly from c (...)`."""
    alpha = 1 - result.confidence
    groups: dict[str, list[str]] = {"beats": [], "loses to": [], "does not differ significantly from": []}
    for one in result.comparisons:
        found, value = p(one), one.difference.over_prompts.value
        sure = found is not None and found <= alpha
        kind = ("beats" if value > 0 else "loses to") if sure else "does not differ significantly from"
        gained = points(value, one.difference.over_prompts.n)
        shown = p_value(found)
        groups[kind].append(f"{one.other} ({gained}, p {shown if shown.startswith('<') else f'= {shown}'})")
    return _listed([f"{kind} {_listed(found)}" for kind, found in groups.items() if found])


def _notes(result: StudyResult) -> Iterator[str]:
    for failure in result.failures:
        yield f"The run {failure.cell} failed, --retry tries it again: {failure.error}"
    for name in result.absent:
        yield f"{name} is missing: no run of it came to its end."
    for arm in result.arms:
        if len(arm.seeds) < result.seeds:
            yield f"{arm.arm} has {len(arm.seeds)} of {result.seeds} seeds; comparisons use those that both arms have."
    for side, pick in (("smallest", min), ("largest", max)):
        if at_edge := [f"{arm.arm} ({number(arm.learning_rate)})" for arm in result.arms if _at(arm, result, pick)]:
            yield f"The {side} learning rate offered was selected for {_listed(at_edge)}: a better one may lie beyond."
    if len(result.versions) > 1:
        yield "The runs were made with different versions of the libraries; see the end of the page."


def _at(arm: ArmResult, result: StudyResult, end: Callable[[Sequence[float]], float]) -> bool:
    """Whether an arm's learning rate is one end of its grid."""
    rates = [one.learning_rate for one in result.candidates if one.arm == arm.arm]
    return len(rates) > 1 and arm.learning_rate == end(rates)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
