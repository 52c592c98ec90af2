"""The two SVG drawings of the documentation, which follow the reader's light or dark color scheme.

    python scripts/drawings.py     write docs/step.svg and docs/layers.svg

`make docs` writes them too, and tests/test_docs.py fails if a stored drawing is out of date. The layers are read from
the import contract in pyproject.toml, so the drawing shows what `make check` enforces.
"""

import tomllib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PROMPT = ("Which is larger,", "59 or 63?")
SAMPLES = ("It is 63.", "I would say 63. Enjoy!", "It is 59.", "Sure! It is 59.")
REFERENCE = "It is 63. I hope this helps."
REWARDS = (0.5, 0.0, -0.5, -0.5)
"""Reward of each sample in examples/larger.py, minus that of the reference."""
ADVANTAGES = (1.60, 0.27, -1.07, -1.07, 0.27)
"""Eq. 4 in scope `joint`; the reference comes last."""
WEIGHTS = (0.64, 0.11, -0.43, -0.43, 0.17)
"""Eq. 3 with beta 0.5 and lambda 0.6; the reference comes last. tests/test_docs.py recomputes all three."""

PURPOSE = {
    "cli": "commands, help and the terminal",
    "studies": "whole jobs: train, evaluate, audit, compare, sweep, export",
    "training": "the trainer, its steps and its checkpoints",
    "evaluation": "metrics, intervals and tests",
    "reports": "pages, tables and charts",
    "sandbox": "the embedded world and its tiny models",
    "groups": "from the sampler to the rewards",
    "rollouts": "sampling engines",
    "rewards": "functions, rules, judges",
    "data": "sources, columns, chat, split",
    "records": "what runs and studies leave on disk",
    "config": "recipes, checked before any work",
    "methods": "how each method weights answers",
    "engine": "from groups to gradients",
    "core": "the paper's equations, torch only",
    "chat": "chat templates: where answers begin and end",
    "types": "the data that flows through a step",
    "lazy": "modules imported at first use",
    "settings": "how strictly settings are read",
    "command": "pasteable commands",
    "files": "safe file access",
    "heartbeat": "repeated actions",
    "visible": "printable text",
    "signals": "Ctrl-C, SIGTERM",
    "errors": "how a run ends early, in one line",
}
"""One phrase per package; a layer without one is an error."""

STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1f2430 }
.title { font-size: 17px; font-weight: 650 }
.note { font-size: 13.5px; fill: #5b6472 }
.body { font-size: 15px }
.number { font-size: 15px; font-variant-numeric: tabular-nums }
.card { fill: #ffffff; stroke: #c9d0da }
.policy { fill: #e8eefc; stroke: #3f66d1 }
.reference { fill: #fdf3e0; stroke: #c98a1b }
.core { fill: #e8eefc; stroke: #3f66d1 }
.disc { fill: #3f66d1 }
.digit { font-size: 14px; font-weight: 650; fill: #ffffff }
.up { fill: #2f9e6d }
.down { fill: #d1495b }
.axis { stroke: #9aa4b2; stroke-width: 1 }
.flow { stroke: #6d7787; stroke-width: 1.8; fill: none }
.head { fill: #6d7787 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ef }
  .note { fill: #a5aebd }
  .card { fill: #2a2f3a; stroke: #4c5563 }
  .policy, .core { fill: #26345c; stroke: #7f9df0 }
  .reference { fill: #453512; stroke: #dfa63f }
  .disc { fill: #5c80e6 }
  .up { fill: #3fb581 }
  .down { fill: #e0697a }
  .axis { stroke: #6d7787 }
  .flow { stroke: #a5aebd }
  .head { fill: #a5aebd }
}
"""


def step() -> str:
    """Return the drawing of a training step on one group, with the numbers of a real example."""
    rows = [112, 168, 224, 280, 354]
    height, center, scale = 42, 800, 90
    parts = [
        *_heading(20, "1", "Sample", "a group per prompt"),
        *_heading(478, "2", "Score", "vs the reference"),
        *_heading(664, "3", "Weigh", "within the group"),
        _box(20, 112, 168, 74, "card"),
        _text(104, 135, "prompt", "note", "middle"),
        *(_text(104, 155 + 20 * line, words, "body", "middle") for line, words in enumerate(PROMPT)),
        _box(20, 250, 168, 72, "policy"),
        _text(104, 280, "policy", "title", "middle"),
        _text(104, 303, "the model in training", "note", "middle"),
        _arrow("M104 186 V244"),
        _arrow("M188 286 C214 286 206 217 232 217"),
        '<path class="flow" d="M250 112 H240 V322 H250"/>',
    ]
    for number, (y, answer) in enumerate(zip(rows, [*SAMPLES, REFERENCE], strict=True)):
        middle, is_reference = y + height / 2 + 5, number == len(SAMPLES)
        reward = 0.0 if is_reference else REWARDS[number]
        weight = WEIGHTS[number]
        bar_end, sign = center + scale * weight, 1 if weight > 0 else -1
        parts += [
            _box(258, y, 212, height, "reference" if is_reference else "card"),
            _text(272, middle, answer, "body"),
            _text(528, middle, _signed(reward, 1), "number", "end"),
            _arrow(f"M546 {middle - 5} H592"),
            _text(654, middle, _signed(ADVANTAGES[number], 2), "number", "end"),
            f'<rect class="{"up" if weight > 0 else "down"}" x="{min(center, bar_end):.1f}" y="{y + 9}" '
            f'width="{abs(bar_end - center):.1f}" height="{height - 18}" rx="3"/>',
            _text(bar_end + 8 * sign, middle, _signed(weight, 2), "number", "start" if sign > 0 else "end"),
        ]
    parts += [
        _text(502, 98, "reward R", "note", "middle"),
        _text(628, 98, "advantage A", "note", "middle"),
        _text(center, 98, "weight w", "note", "middle"),
        _text(104, 372, "reference", "title", "middle"),
        _text(104, 394, "from your data", "note", "middle"),
        _arrow("M154 375 H250"),
        f'<path class="axis" d="M{center} 108 V400"/>',
        *_heading(258, "4", "Update", "", y=450),
        _box(258, 468, 644, 62, "policy"),
        _text(278, 494, "Raise the likelihood of answers with positive weight, lower that of the others:", "body"),
        _text(278, 517, "one gradient of the weighted mean log-likelihood per token, one optimizer step.", "body"),
        _arrow(f"M{center} 404 V462"),
        _arrow("M258 500 H8 V286 H14"),
        _text(104, 490, "next step", "note", "middle"),
    ]
    return _svg(920, 544, parts, "One training step: sample a group, score it against the reference, weigh, update")


def layers() -> str:
    """Return the drawing of the packages, top to bottom, from the import contract in pyproject.toml."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = [
        [name.strip().removeprefix("grao.") for name in layer.split("|")]
        for contract in pyproject["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
        for layer in contract["layers"]
    ]
    return _svg(860, 46 * len(rows) + 36, list(_layers(rows)), "The packages of grao; each imports only those below it")


def _layers(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    left, right, gap = 56, 850, 8
    for row, names in enumerate(rows):
        width = (right - left - gap * (len(names) - 1)) / len(names)
        for column, name in enumerate(names):
            x, y = left + column * (width + gap), 10 + 46 * row
            yield _box(x, y, width, 40, "core" if name == "core" else "card")
            if len(names) < 5:
                yield (
                    f'<text class="body" x="{x + 12:.1f}" y="{y + 25}"><tspan font-weight="650">{name}</tspan>'
                    f'<tspan class="note" dx="9">{escape(PURPOSE[name])}</tspan></text>'
                )
            else:
                yield _text(x + width / 2, y + 17, name, "body", "middle")
                yield _text(x + width / 2, y + 34, PURPOSE[name], "note", "middle")
    bottom = 10 + 46 * len(rows)
    yield _arrow(f"M28 14 V{bottom - 14}")
    yield _text(left, bottom + 16, "Each package imports only packages in the rows below its own.", "note")


def _heading(x: float, digit: str, title: str, note: str, y: float = 44) -> Iterator[str]:
    yield f'<circle class="disc" cx="{x + 13}" cy="{y - 6}" r="13"/>'
    yield _text(x + 13, y - 1, digit, "digit", "middle")
    yield _text(x + 36, y, title, "title")
    if note:
        yield _text(x + 36, y + 20, note, "note")


def _box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7"/>'


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _arrow(path: str) -> str:
    return f'<path class="flow" d="{path}" marker-end="url(#head)"/>'


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    head = '<marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<defs>{head}<path class="head" d="M0 0 L10 5 L0 10 z"/></marker></defs>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


DRAWINGS = {"step.svg": step, "layers.svg": layers}
"""File in docs/ -> function that returns its SVG."""


def write() -> None:
    """Write the drawings whose stored version is missing or out of date."""
    for name, draw in DRAWINGS.items():
        path = ROOT / "docs" / name
        if not path.exists() or path.read_text(encoding="utf-8") != draw():
            path.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    write()
