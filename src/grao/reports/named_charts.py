"""Charts whose curves the recipe names: rewards, judges, constraints. To add one, add a line to `_FAMILIES`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from grao.records.metrics import Step
from grao.reports.charts import EARNED, HACKED, Chart, Series

_COLOURS = ("blue", "orange", "teal", "purple", "ochre", "grey")


@dataclass(frozen=True)
class _Family:
    """A chart of all metrics `<begin><name><end>`."""

    key: str
    begin: str
    end: str
    title: str
    note: str
    axis: str
    section: str = EARNED
    percent: bool = True
    least: int = 1
    """Fewer curves are no chart."""


_FAMILIES = (
    _Family(
        "components",
        "reward_",
        "/mean",
        "The reward in its parts",
        "Each reward by itself, before it is weighted and added up.",
        "mean reward",
        percent=False,
        least=2,
    ),
    _Family(
        "flips",
        "judge_",
        "/flip",
        "Judges that contradict themselves",
        "Pairs on which the verdict changes when the two texts are exchanged. They count as ties. A rising share says "
        "that the answers have come to where the judge cannot tell.",
        "share of pairs (%)",
        section=HACKED,
    ),
    _Family(
        "violated",
        "reward_",
        "/violated",
        "Constraints that are broken",
        "Samples that lose to the reference by a reward that must not lose.",
        "share of samples (%)",
    ),
)


def named_charts(section: str, metrics: Sequence[Step]) -> list[Chart]:
    """Those of a section that have something to show."""
    families = (family for family in _FAMILIES if family.section == section)
    return [chart for family in families if (chart := _chart(family, metrics))]


def _chart(family: _Family, metrics: Sequence[Step]) -> Chart | None:
    logged = dict.fromkeys(name for step in metrics for name in step)
    names = [name for name in logged if name.startswith(family.begin) and name.endswith(family.end)]
    if len(names) < family.least:
        return None
    series = tuple(
        Series(name, name.removeprefix(family.begin).removesuffix(family.end), colour)
        for name, colour in zip(names, cycle(_COLOURS), strict=False)
    )
    return Chart(family.key, family.title, family.note, family.axis, series, percent=family.percent, optional=True)
