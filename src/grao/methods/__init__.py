"""One file per alignment method: which sequences it learns from and with what weight."""

from grao.methods.grao import GRAO
from grao.methods.method import Method, Weighted

__all__ = ["GRAO", "Method", "Weighted"]
