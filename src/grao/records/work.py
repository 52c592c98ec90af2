"""By what the work of a study's runs is counted (`work.json`): the same on any machine, once it is measured."""

from pydantic.dataclasses import dataclass

from grao.records.files import Record


@dataclass(frozen=True)
class WorkRates:
    """Seconds that a part of a training takes (`grao.studies.work`)."""

    steps: float
    """Each step of the optimiser."""
    sampled: float
    """Each token drawn."""
    forwarded: float
    """Each token that goes through the model without a gradient."""
    backwarded: float
    """Each token that goes through it forward and backward."""
    measured: str = ""
    """When."""


_WORK = Record("work.json", WorkRates, indent=1)
read_work, write_work = _WORK.read, _WORK.write
