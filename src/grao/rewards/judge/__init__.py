"""A language model as judge: which of two texts is better, asked on a server or computed here."""

from grao.rewards.judge.comparison import Comparison, JudgeTally, Pair, PairwiseJudge
from grao.rewards.judge.costs import Estimate, Prices
from grao.rewards.judge.endpoint import Endpoint
from grao.rewards.judge.ledger import Ledger
from grao.rewards.judge.local import LocalJudge
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.server import ServerJudge
from grao.rewards.judge.templates import CRITERIA, Template, load_template
from grao.rewards.judge.verdicts import Verdict, parse_verdict

__all__ = [
    "CRITERIA",
    "Comparison",
    "Endpoint",
    "Estimate",
    "JudgeReward",
    "JudgeTally",
    "Ledger",
    "LocalJudge",
    "Pair",
    "PairwiseJudge",
    "Prices",
    "ServerJudge",
    "Template",
    "Verdict",
    "load_template",
    "parse_verdict",
]
