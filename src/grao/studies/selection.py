"""Which of an arm's learning rates counts: the one that does best on training prompts kept away from training."""

from collections.abc import Sequence

from grao.config.arms import Arm
from grao.evaluation.outcomes import verdicts
from grao.records.cell import CellRecord
from grao.records.study import Candidate


def candidates(arm: Arm, records: Sequence[CellRecord]) -> list[Candidate]:
    """The arm's rates with what their runs reached on the selection's prompts, in the order of the study.

    The best one has the most strict wins; of equals, the higher mean reward, then the smaller rate. A rate of which
    a run failed is none.
    """
    found = []
    for rate in arm.learning_rates:
        runs = [record for record in records if record.key.arm == arm.name and record.key.learning_rate == rate]
        results = [record.outcomes for record in runs if record.outcomes]
        if runs and len(results) == len(runs):
            shares = [_win_share(outcomes.after) for outcomes in results]
            reward = sum(outcomes.mean_reward for outcomes in results) / len(results)
            found.append(Candidate(arm.name, rate, sum(shares) / len(shares), reward))
        else:
            found.append(Candidate(arm.name, rate, None, None))
    return found


def best(found: Sequence[Candidate]) -> float | None:
    """The chosen rate, None if no candidate came to its end."""
    finished = [one for one in found if one.ras is not None]
    ranked = sorted(finished, key=lambda one: (-(one.ras or 0.0), -(one.mean_reward or 0.0), one.learning_rate))
    return ranked[0].learning_rate if ranked else None


def _win_share(outcomes: str) -> float:
    known = verdicts(outcomes)
    return float((known[known == known] > 0).mean())
