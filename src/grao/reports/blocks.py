"""The parts of the page, each a pure function of the records of one run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from grao.records.evaluation import Estimate, Evaluation, Item
from grao.records.metrics import Step
from grao.reports.charts import SECTIONS, Chart
from grao.reports.curves import Curve, curves
from grao.reports.figures import draw
from grao.reports.named_charts import named_charts
from grao.reports.provenance import Manifest
from grao.reports.words import duration, measured, number, percent


@dataclass(frozen=True)
class Records:
    """What a run folder holds; None or empty where a part is missing."""

    name: str
    """Of the folder."""
    manifest: Manifest | None
    metrics: list[Step]
    evaluation: Evaluation | None
    items: list[Item]

    @property
    def steps(self) -> int | None:
        """Optimiser steps that were logged, None where none was."""
        return round(self.metrics[-1].get("step", len(self.metrics))) if self.metrics else None


@dataclass(frozen=True)
class Tile:
    """One small number under the headline."""

    value: str
    label: str


@dataclass(frozen=True)
class Legend:
    """One entry of a legend, with the moving average at both ends of the run."""

    label: str
    colour: str
    change: str


@dataclass(frozen=True)
class Figure:
    """One chart with its words."""

    title: str
    note: str
    legend: list[Legend]
    zero: str | None
    """What the dashed line at 0 stands for."""
    svg: Markup


_HACKED = 2
"""Value of `watch/alarm`."""


@dataclass(frozen=True)
class Bar:
    """An interval and its value on a scale, in percent of the scale's width."""

    low: float
    width: float
    value: float


def notices(records: Records) -> list[str]:
    """What is missing from the run, one sentence each."""
    return list(_notices(records))


def tiles(records: Records) -> list[Tile]:
    """The small numbers that are known."""
    return list(_tiles(records))


def figures(metrics: Sequence[Step]) -> tuple[list[tuple[str, list[Figure]]], list[str]]:
    """The charts by section, and the titles of those that should be there and were not logged."""
    sections, missing = [], []
    for heading, charts in SECTIONS:
        drawn = []
        for chart in (*charts, *named_charts(heading, metrics)):
            if found := curves(chart, metrics):
                drawn.append(_figure(chart, found))
            elif not chart.optional:
                missing.append(chart.title)
        if drawn:
            sections.append((heading, drawn))
    return sections, missing


def shown_model(evaluation: Evaluation | None, items: Sequence[Item]) -> str:
    """The model whose outcomes order the examples: `after`, or the last one evaluated."""
    names = list(evaluation.models) if evaluation else [name for item in items[:1] for name in item.answers]
    return "after" if "after" in names else names[-1] if names else ""


def bar(estimate: Estimate | None, signed: bool) -> Bar | None:
    """Where an estimate lies on 0 to 100 %, or on -100 to 100 % where it is signed; None off the scale."""
    lowest = -1.0 if signed else 0.0
    if estimate is None or not measured(estimate) or estimate.low < lowest or estimate.high > 1:
        return None
    low, value, high = (
        100 * (point - lowest) / (1 - lowest) for point in (estimate.low, estimate.value, estimate.high)
    )
    return Bar(low, high - low, value)


def _notices(records: Records) -> Iterator[str]:
    manifest, evaluation = records.manifest, records.evaluation
    if manifest is None:
        yield "There is no manifest.json in this folder: settings and origin of the run are not known."
    elif not manifest.complete:
        status = f" (status: {manifest.status})" if manifest.status else ""
        planned = manifest.setting("training", "steps")
        reach = f" It reached step {records.steps or 0:,} of {planned:,}." if isinstance(planned, int) else ""
        yield f"This run has not come to its end{status}; the page shows what it has recorded so far.{reach}"
    if not records.metrics:
        yield "No training step has been logged, so there are no curves."
    hacked = [step for step in records.metrics if step.get("watch/alarm") == _HACKED]
    if hacked:
        yield (
            f"The reward was probably being hacked from step {hacked[0].get('step', 0):,.0f} on: the second reward "
            "fell while the one that is trained on did not."
        )
    if evaluation is None:
        return
    if not records.items:
        yield "There is no items.jsonl in this folder, so no answers can be shown."
    for name, scores in evaluation.models.items():
        if scores.missing:
            yield (
                f"No verdict could be had on the {name!r} answers to {scores.missing:,} of {evaluation.prompts:,} "
                "prompts; they are in no estimate."
            )


def _tiles(records: Records) -> Iterator[Tile]:
    manifest, metrics = records.manifest or Manifest(), records.metrics
    if records.steps is not None:
        yield Tile(f"{records.steps:,}", "optimiser steps")
    seconds = manifest.seconds or (metrics[-1].get("seconds") if metrics else None)
    if seconds:
        yield Tile(duration(seconds), "wall time")
    if (prompts := _count(manifest.data.get("prompts"))) is not None:
        yield Tile(prompts, "training prompts")
    held_out = records.evaluation.prompts if records.evaluation else manifest.data.get("held_out")
    if (prompts := _count(held_out)) is not None:
        yield Tile(prompts, "held-out prompts")
    tokens = sum(step.get("tokens/sampled", 0.0) for step in metrics)
    group = _count(manifest.setting("rollout", "group_size"))
    if group is not None and (tokens or not metrics):  # not every method samples
        yield Tile(group, "samples per prompt")
    if tokens:
        yield Tile(_short(tokens), "tokens sampled")


def _figure(chart: Chart, found: list[Curve]) -> Figure:
    legend = [Legend(curve.series.label, curve.series.colour, _change(chart, curve)) for curve in found]
    spoken = "; ".join(f"{entry.label} {entry.change}" for entry in legend)
    return Figure(chart.title, chart.note, legend, chart.zero, draw(chart, found, f"{chart.title}: {spoken}."))


def _change(chart: Chart, curve: Curve) -> str:
    ends = [curve.smooth[0], curve.smooth[-1]] if len(curve.smooth) > 1 else [curve.smooth[0]]
    return " to ".join(percent(end, 0) if chart.percent else number(end) for end in ends)


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _short(value: float) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:,.0f}"
