"""An audit before training: what the rewards of a recipe are worth, and what its model makes of them.

audit.json   all figures with what they rest on, and the verdict
audit.html   the same to look at

Everything is asked as in training: the samples are those of the run's first steps, drawn with the same keys, so that a
judge's ledger has their verdicts when the run begins. No weight moves.
Left out: several processes, and the rewards' behaviour on texts that training has not yet led the model to.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from grao.config import Recipe
from grao.config.fields import ADAPTER
from grao.config.recipe import WatchConfig
from grao.config.reward import RewardConfig
from grao.data import Encoded
from grao.errors import InputError
from grao.evaluation.audit import Subject, agreement, reward_figures
from grao.evaluation.audit_groups import mean_size, policy_figures
from grao.evaluation.edits import edited
from grao.evaluation.forecast import Plan, Timing, forecast
from grao.evaluation.readings import Text, added, combined, read
from grao.records.audit import Audit, EditItem, Forecast, GroupItem, JudgeForecast, PairItem, Reading, write_audit
from grao.records.manifest import Manifest, now
from grao.reports.audit_page import write_audit_page
from grao.rewards import Mix, Reward
from grao.rewards.judge import JudgeTally
from grao.rollouts import draw_key
from grao.studies.audit_verdict import verdict
from grao.studies.prepare import Prepared, claim, prepare
from grao.studies.screen import Screen
from grao.training.experience import shuffled
