"""From the records of a study's runs to its numbers: estimates, paired tests, curves, costs.

Of each number two intervals are given and kept apart: over prompts, for these very runs; and over seeds, for training
again. The tests likewise. The order of records does not matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from grao.errors import InputError
from grao.evaluation.clusters import (
    clustered_net_share,
    clustered_share,
    difference_over_seeds,
    net_share_over_seeds,
    over_seeds,
    paired_difference,
    share_over_seeds,
)
from grao.evaluation.dynamics import reach, share_falling
from grao.evaluation.outcomes import verdicts, wins
from grao.evaluation.significance import holm, mcnemar, sign_flip
from grao.records.cell import CellRecord, Cost, Letters, Outcomes, Point
from grao.records.evaluation import Estimate
from grao.records.study import ArmCost, ArmResult, Band, BandPoint, Comparison, Measured

Table = npt.NDArray[np.float64]
"""(N prompts, R seeds)."""


def arm_result(records: Sequence[CellRecord], confidence: float) -> ArmResult:
    """One arm over its finished runs, at least one."""
    runs = sorted(records, key=lambda record: record.key.seed)
    outcomes = _finished(runs)
    band = curve_band(runs, confidence)
    falls = [share_falling([point.ras for point in run.curve]) for run in runs if len(run.curve) > 2]
    known_falls = [fall for fall in falls if fall is not None]
    return ArmResult(
        arm=runs[0].key.arm,
        learning_rate=runs[0].key.learning_rate,
        seeds=[run.key.seed for run in runs],
        before=_share(_table([one.before for one in outcomes], wins), confidence),
        ras=_share(_table([one.after for one in outcomes], wins), confidence),
        ras_win_or_tie=_share(_table([one.after for one in outcomes], _not_lost), confidence),
        nag=_net(_table([one.gain for one in outcomes], verdicts), confidence),
        mean_reward=_mean([one.mean_reward for one in outcomes]),
        mean_tokens=_mean([one.mean_tokens for one in outcomes]),
        truncated=_mean([one.truncated for one in outcomes]),
        cost=_cost([run.cost for run in runs if run.cost]),
        calls_to_best=_reach(band, lambda point: point.reward_calls),
        steps_to_best=_reach(band, lambda point: point.step),
        falling=_mean(known_falls) if known_falls else None,
    )


def comparisons(arms: Mapping[str, Sequence[CellRecord]], main: str, confidence: float) -> list[Comparison]:
    """The main arm against each other one, with p-values corrected for the number of these.

    Args:
        arms: name -> its finished runs.
        main: one of the names.
        confidence: nominal coverage of the intervals.
    """
    pairs = {other: _paired(arms[main], arms[other]) for other in arms if other != main}
    pairs = {other: pair for other, pair in pairs.items() if pair[0].size}
    p_prompts = {other: _test_prompts(one, two) for other, (one, two, _) in pairs.items()}
    p_seeds = {other: _test_seeds(one, two) for other, (one, two, seeds) in pairs.items() if len(seeds) > 1}
    corrected_prompts, corrected_seeds = holm(p_prompts), holm(p_seeds)
    return [
        Comparison(
            arm=main,
            other=other,
            seeds=seeds,
            difference=_difference(one, two, confidence),
            relative_ras=_relative(one, two),
            p_prompts=p_prompts[other],
            p_prompts_corrected=corrected_prompts[other],
            p_seeds=p_seeds.get(other),
            p_seeds_corrected=corrected_seeds.get(other),
        )
        for other, (one, two, seeds) in pairs.items()
    ]


def curve_band(records: Sequence[CellRecord], confidence: float) -> Band:
    """The mean curve of an arm's runs with its interval over seeds, as far as all runs have been evaluated."""
    together = zip(*(run.curve for run in records), strict=False)
    return Band(records[0].key.arm, [_band_point(points, confidence) for points in together])


def _band_point(points: Sequence[Point], confidence: float) -> BandPoint:
    return BandPoint(
        step=_mean([point.step for point in points]),
        reward_calls=_mean([point.reward_calls for point in points]),
        seconds=_mean([point.seconds for point in points]),
        ras=over_seeds([point.ras for point in points], confidence),
    )


def _finished(runs: Sequence[CellRecord]) -> list[Outcomes]:
    return [run.outcomes for run in runs if run.outcomes]


def _table(outcomes: Sequence[Letters], values: Callable[[Letters], npt.NDArray[np.float64]]) -> Table:
    """One column a run."""
    if len({len(one) for one in outcomes}) > 1:
        raise InputError("the runs of this study were evaluated on different numbers of prompts; remove cells/")
    return np.stack([values(one) for one in outcomes], axis=1)


def _not_lost(outcomes: Letters) -> npt.NDArray[np.float64]:
    values = verdicts(outcomes)
    return np.where(np.isnan(values), values, values >= 0)


def _share(table: Table, confidence: float) -> Measured:
    return Measured(clustered_share(table, confidence), _seeds(table, share_over_seeds(table, confidence), 0.0))


def _net(table: Table, confidence: float) -> Measured:
    return Measured(
        clustered_net_share(table, confidence), _seeds(table, net_share_over_seeds(table, confidence), -1.0)
    )


def _difference(one: Table, two: Table, confidence: float) -> Measured:
    over_seeds = _seeds(one, difference_over_seeds(one, two, confidence), -1.0)
    return Measured(paired_difference(one, two, confidence), over_seeds)


def _by_seed(table: Table) -> list[float]:
    return [float(value) for value in np.nanmean(table, axis=0)]


def _seeds(table: Table, estimate: Estimate, least: float) -> Estimate | None:
    """The estimate over seeds, cut to the possible values from `least` to 1; None of a single seed."""
    if table.shape[1] < 2:
        return None
    return replace(estimate, low=max(estimate.low, least), high=min(estimate.high, 1.0))


def _paired(main: Sequence[CellRecord], other: Sequence[CellRecord]) -> tuple[Table, Table, list[int]]:
    """Wins of both over the seeds that both have finished."""
    one, two = ({run.key.seed: run.outcomes for run in runs if run.outcomes} for runs in (main, other))
    seeds = sorted(one.keys() & two.keys())
    if not seeds:
        return np.empty((0, 0)), np.empty((0, 0)), []
    tables = _table([side[seed].after for side in (one, two) for seed in seeds], wins)
    return tables[:, : len(seeds)], tables[:, len(seeds) :], seeds


def _test_prompts(one: Table, two: Table) -> float:
    """Exact where each prompt was answered once; otherwise on the prompts' means."""
    known = ~(np.isnan(one) | np.isnan(two))
    if one.shape[1] == 1:
        return mcnemar((one[known] > 0).tolist(), (two[known] > 0).tolist())
    rows = known.any(axis=1)
    return sign_flip(np.nanmean((one - two)[rows], axis=1).tolist())


def _test_seeds(one: Table, two: Table) -> float:
    return sign_flip(_by_seed(one - two))


def _relative(one: Table, two: Table) -> float | None:
    other = float(np.nanmean(two))
    return float(np.nanmean(one)) / other - 1 if other else None


def _cost(costs: Sequence[Cost]) -> ArmCost:
    return ArmCost(
        steps=_mean([cost.steps for cost in costs]),
        reward_calls=_mean([cost.reward_calls for cost in costs]),
        tokens_sampled=_mean([cost.tokens_sampled for cost in costs]),
        tokens_trained=_mean([cost.tokens_trained for cost in costs]),
        seconds={phase: _mean([cost.seconds[phase] for cost in costs]) for phase in costs[0].seconds},
    )


def _reach(band: Band, place: Callable[[BandPoint], float]) -> float | None:
    x, y = [place(point) for point in band.points], [point.ras.value for point in band.points]
    return reach(x, y) if len(x) > 2 and x[-1] > 0 else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
