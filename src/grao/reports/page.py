"""One run as one self-contained page, made from the records in its folder and from nothing else.

No script, no outside file, no date of its own: the same records give the same page, byte for byte.
"""

from pathlib import Path

from pydantic import ValidationError

from grao.errors import InputError
from grao.records.evaluation import read_evaluation, read_items
from grao.records.metrics import read_metrics
from grao.reports.blocks import Records, bar, figures, notices, shown_model, tiles
from grao.reports.curves import MOST_POINTS, window
from grao.reports.examples import PER_OUTCOME, choose
from grao.reports.provenance import Manifest, flat, read_manifest, recipe_text, settings
from grao.reports.tables import measures
from grao.reports.template import render_template
from grao.reports.words import certainty, net_gain, verdict


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    Raises:
        InputError: the folder holds no records, or one that cannot be read.
    """
    path = folder / "report.html"
    path.write_text(render(_read(folder)), encoding="utf-8")
    return path


def render(records: Records) -> str:
    """The page as HTML. All text is escaped; control characters are made visible."""
    manifest = records.manifest or Manifest()
    sections, unlogged = figures(records.metrics)
    model = shown_model(records.evaluation, records.items)
    return render_template(
        "page.html.j2",
        records=records,
        evaluation=records.evaluation,
        verdict=verdict(records.evaluation, records.steps),
        certainty=certainty(records.evaluation),
        net_gain=net_gain(records.evaluation),
        notices=notices(records),
        measures=measures(records.evaluation) if records.evaluation else [],
        bar=bar,
        tiles=tiles(records),
        sections=sections,
        unlogged=unlogged,
        window=window(len(records.metrics)),
        thinned=len(records.metrics) > MOST_POINTS,
        examples=choose(records.items, model),
        per_outcome=PER_OUTCOME,
        model=model,
        manifest=manifest,
        settings=settings(manifest.config),
        command=manifest.command,
        recipe=recipe_text(manifest.config) if manifest.config else "",
        facts={
            "Data": flat(manifest.data),
            "Run": flat(manifest.provenance),
            "Versions": flat(manifest.versions),
        },
    )


def _read(folder: Path) -> Records:
    try:
        records = Records(
            name=folder.resolve().name,
            manifest=read_manifest(folder),
            metrics=read_metrics(folder),
            evaluation=read_evaluation(folder),
            items=read_items(folder),
        )
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "whole line"
        raise InputError(
            f"{folder}: unreadable {error.title.lower()} record, {field}: {problem['msg']}; evaluate the run again"
        ) from error
    if records.manifest is None and records.evaluation is None and not records.metrics:
        raise InputError(f"{folder}: no manifest.json, metrics.jsonl or evaluation.json here; give the folder of a run")
    return records
