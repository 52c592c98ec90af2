"""What an audit of the rewards leaves behind, as records."""

from grao.records.audit.file import Audit, Finding, Verdict, read_audit, write_audit
from grao.records.audit.items import EditItem, GroupItem, PairItem, Reading
from grao.records.audit.policy import Forecast, JudgeForecast, Policy, Spread
from grao.records.audit.reward import (
    Accuracy,
    Agreement,
    Bin,
    Calibration,
    Edit,
    Kappa,
    Length,
    Orders,
    Questions,
    RewardFigures,
)

__all__ = [
    "Accuracy",
    "Agreement",
    "Audit",
    "Bin",
    "Calibration",
    "Edit",
    "EditItem",
    "Finding",
    "Forecast",
    "GroupItem",
    "JudgeForecast",
    "Kappa",
    "Length",
    "Orders",
    "PairItem",
    "Policy",
    "Questions",
    "Reading",
    "RewardFigures",
    "Spread",
    "Verdict",
    "read_audit",
    "write_audit",
]
