"""One run as one self-contained page, made from the records in its folder and from nothing else.

No script, no outside file, no date of its own: the same records give the same page, byte for byte.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from pydantic import ValidationError

from grao.errors import InputError
from grao.records.evaluation import read_evaluation, read_items
from grao.records.metrics import read_metrics
from grao.reports.blocks import Records, bar, figures, notices, shown_model, tiles
from grao.reports.curves import MOST_POINTS, window
from grao.reports.examples import PER_OUTCOME, choose
from grao.reports.provenance import Manifest, flat, read_manifest, recipe_text, settings
from grao.reports.tables import measures
from grao.reports.words import certainty, level, net_gain, number, percent, typeset, verdict

_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_UNPRINTABLE = re.compile("[\x80-\x9f\ud800-\udfff\ufffe\uffff]")


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
    return load_template("page.html.j2").render(
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


def load_template(name: str) -> Template:
    """A template of this package, with the style of all pages and the ways of writing numbers."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    environment.filters.update(typeset=typeset, number=number, percent=percent, level=level)
    source = files(__package__)
    environment.globals.update(style=Markup(source.joinpath("style.css").read_text(encoding="utf-8")))
    return environment.from_string(source.joinpath(name).read_text(encoding="utf-8"))


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


def _printable(value: Any) -> Any:
    """Text without characters that HTML forbids: controls become their pictures, the rest a replacement mark."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value.replace("\r\n", "\n").translate(_CONTROLS))
