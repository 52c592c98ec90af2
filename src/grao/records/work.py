"""`work.json`: the rates by which a study counts the work of its runs; once measured, the same on any machine."""

from pydantic.dataclasses import dataclass

from grao.records.files import Record


@dataclass(frozen=True)
class WorkRates:
    """Seconds per unit of training work (`grao.studies.work`)."""

    steps: float
    """Per optimizer step."""
    sampled: float
    """Per sampled token."""
    forwarded: float
    """Per token in a forward pass without gradients."""
    backwarded: float
    """Per token in a forward and backward pass."""
    measured: str = ""
    """Time of the measurement."""


_WORK = Record("work.json", WorkRates, indent=1)
read_work, write_work = _WORK.read, _WORK.write
