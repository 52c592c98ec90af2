"""`grao ablate`: a study like any other once its arms are known."""

from grao.cli.compare import run

__all__ = ["run"]
