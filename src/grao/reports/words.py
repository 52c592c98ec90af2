"""Numbers and findings in plain words. The one place that decides how a figure is rounded and written.

Everything is plain ASCII, so that it fits any terminal; the page sets true minus signs on top (`typeset`).
"""

import math
import re

from grao.records.evaluation import Estimate, Evaluation, Gain

NOT_MEASURED = "not measured"


def percent(value: float, n: int, signed: bool = False) -> str:
    """A share in percent: one decimal where at least 100 prompts stand behind it, none below.

    Example: percent(0.4133, 300) is `41.3 %`, percent(0.4133, 30) is `41 %`.
    """
    return f"{_rounded(100 * value, n, signed)} %"


def share(estimate: Estimate, signed: bool = False) -> str:
    """The value of an estimate in percent; `not measured` where nothing stands behind it."""
    return percent(estimate.value, estimate.n, signed) if measured(estimate) else NOT_MEASURED


def interval(estimate: Estimate, signed: bool = False) -> str:
    """The interval of an estimate: `36.0 to 47.0 %`; empty where nothing was measured."""
    if not measured(estimate):
        return ""
    return f"{_rounded(100 * estimate.low, estimate.n, signed)} to {percent(estimate.high, estimate.n, signed)}"


def measured(estimate: Estimate) -> bool:
    """Whether the estimate rests on anything."""
    return estimate.n > 0 and all(map(math.isfinite, (estimate.value, estimate.low, estimate.high)))


def level(confidence: float) -> str:
    """`95 %` for 0.95."""
    return f"{100 * confidence:.4g} %"


def number(value: float) -> str:
    """Three significant digits, thousands apart: `0.00123`, `12.3`, `1,234`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 5 s`, `2 h 7 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def typeset(text: str) -> str:
    """True minus signs, and no line break between a number and its percent sign."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text).replace(" %", "\N{NO-BREAK SPACE}%")


def verdict(evaluation: Evaluation | None, steps: int | None) -> str:
    """One sentence: how often the answers beat the reference after training, and before.

    Args:
        evaluation: None where the run has none.
        steps: optimiser steps that were taken, None where that is not known.
    """
    if evaluation is None or not evaluation.models:
        return "This run was not evaluated: its answers have not been compared with the references."
    before, after = evaluation.models.get("before"), evaluation.models.get("after")
    if after is None:
        name, scores = next(iter(evaluation.models.items()))
        start = "Before training" if name == "before" else f"With the model {name!r}"
        return f"{start} {_beats(scores.ras)}; there is no evaluation after training."
    start = "After training" if steps is None else f"After {steps:,} step{'' if steps == 1 else 's'}"
    sentence = f"{start} {_beats(after.ras)}"
    if before is None:
        return f"{sentence}; there is no evaluation before training."
    if not measured(before.ras):
        return f"{sentence}; before: {NOT_MEASURED}."
    prompts = "" if before.ras.n == after.ras.n else f" of {before.ras.n:,} prompts"
    return f"{sentence}; before: {share(before.ras)}{prompts} ({interval(before.ras)})."


def certainty(evaluation: Evaluation | None) -> str:
    """Whether the change from before to after is clear of chance, and by which interval; empty without both.

    The relative RAS gain is measured on the same prompts and decides where it exists; without it (the model
    before never won) the two RAS intervals do, which is the more cautious test.
    """
    if evaluation is None or not {"before", "after"} <= evaluation.models.keys():
        return ""
    before, after = evaluation.models["before"].ras, evaluation.models["after"].ras
    if not (measured(before) and measured(after)):
        return ""
    gain = gain_over(evaluation, "after", "before")
    if gain is not None and gain.relative_ras is not None and measured(gain.relative_ras):
        relative = gain.relative_ras
        outcome = _outcome(relative.low > 0, relative.high < 0)
        zero = "excludes" if relative.low > 0 or relative.high < 0 else "contains"
        return (
            f"{outcome} the {level(evaluation.confidence)} interval of the relative gain, "
            f"{interval(relative, signed=True)}, {zero} zero."
        )
    outcome = _outcome(after.low > before.high, after.high < before.low)
    overlap = "overlap" if after.low <= before.high and after.high >= before.low else "do not overlap"
    return f"{outcome} the two {level(evaluation.confidence)} intervals {overlap}."


def net_gain(evaluation: Evaluation | None) -> str:
    """One sentence on the answers after training against those before; empty where they were not compared."""
    gain = gain_over(evaluation, "after", "before") if evaluation else None
    if gain is None or not measured(gain.nag):
        return ""
    return (
        f"Put side by side on {gain.nag.n:,} prompts, the answers after training win against those before in "
        f"{share(gain.nag_win)}; wins minus losses is {share(gain.nag, signed=True)} "
        f"({interval(gain.nag, signed=True)})."
    )


def gain_over(evaluation: Evaluation, model: str, baseline: str) -> Gain | None:
    """The recorded comparison of two models, None where there is none."""
    return next((gain for gain in evaluation.gains if (gain.model, gain.baseline) == (model, baseline)), None)


def _outcome(more: bool, less: bool) -> str:
    if more:
        return "That is clearly more often than before:"
    return "That is clearly less often than before:" if less else "The change is not clear of chance:"


def _beats(ras: Estimate) -> str:
    if not measured(ras):
        return "no verdict against the reference could be had"
    return f"the answers beat the reference in {share(ras)} of {ras.n:,} prompts ({interval(ras)})"


def _rounded(value: float, n: int, signed: bool) -> str:
    digits = 1 if n >= 100 else 0
    return f"{round(value, digits) + 0.0:{'+' if signed else ''},.{digits}f}"
