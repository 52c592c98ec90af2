"""Style of the benchmarks' figures: that of the report page in its light color scheme."""

from typing import Any

COLORS = {
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
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": COLORS["ink"],
    "axes.edgecolor": COLORS["rule"],
    "axes.labelcolor": COLORS["muted"],
    "axes.titlecolor": COLORS["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLORS["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
