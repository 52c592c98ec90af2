"""How the figures of the benchmarks look: as those of the report page, for a light background."""

from typing import Any

COLOURS = {
    "blue": "#0067a8",
    "orange": "#c2500a",
    "teal": "#00806d",
    "purple": "#7d4cc2",
    "ochre": "#a97400",
    "grey": "#858d96",
    "ink": "#30363d",
    "muted": "#5b636d",
    "rule": "#e2e4e8",
    "paper": "#fdfdfc",
}
"""Those of the report page in its light form."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
