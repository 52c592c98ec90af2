"""The results of a study, computed from the records of its runs: estimates, paired tests, curves, costs and sweeps.

Every number has three intervals: over prompts, for the same trained runs; over seeds, for new training runs; and over
both, which is the headline. The same holds for the tests. The order of the records does not matter.

Left out: smoothing of curves. Curves are based on few prompts and vary by chance, so compare `reached_at` and
`share_falling` only between curves with the same number of evaluations on the same prompts.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, combinations, pairwise
from typing import Any, NamedTuple

import numpy as np

from grao.errors import InputError
from grao.evaluation.clusters import NET, SHARE, Quantity, both_test, difference, over_both, over_prompts, over_seeds
from grao.evaluation.inference import holm, mcnemar, mean, sign_flip
from grao.evaluation.metrics import verdicts, wins
from grao.records import study as records
from grao.records.numbers import Estimate, Measured, Tested
from grao.records.study import BandPoint, CellRecord, Comparison, Letters

Table = np.ndarray
"""(N prompts, R runs)."""
Runs = Sequence[CellRecord]
"""Finished runs of one arm."""
ABILITY, MODEL = "sandbox.ability", "sandbox.seed"
"""Axes that change the base model: its ability, and the seed that distinguishes models of equal ability."""
RESAMPLES = 2_000
"""Bootstrap resamples of a selection; the standard error of a share is at most 1.1 %."""


def arm_result(runs: Runs, confidence: float) -> records.ArmResult:
    """Summarise the runs of one arm.

    Args:
        runs: finished runs of the arm, at least one.
        confidence: nominal coverage of the intervals.

    Raises:
        InputError: if the runs were evaluated on different numbers of prompts.
    """
    runs = sorted(runs, key=lambda run: run.key.seed)
    outcomes = [run.outcomes for run in runs if run.outcomes]
    before, after = _verdicts([each.before for each in outcomes]), _verdicts([each.after for each in outcomes])
    gain, right = _verdicts([each.gain for each in outcomes]), [each.right for each in outcomes]
    band = curve_band(runs, confidence)
    falls = [share_falling([point.ras for point in run.curve]) for run in runs if len(run.curve) > 2]
    return records.ArmResult(
        arm=runs[0].key.arm,
        learning_rate=runs[0].key.learning_rate,
        seeds=[run.key.seed for run in runs],
        before=_measured(_at_least(1, before), SHARE, confidence),
        ras=_measured(_at_least(1, after), SHARE, confidence),
        ras_win_or_tie=_measured(_at_least(0, after), SHARE, confidence),
        nag=_measured(gain, NET, confidence),
        **_means(outcomes, "mean_reward", "mean_tokens", "truncated"),
        cost=_cost([run.cost for run in runs if run.cost]),
        calls_to_best=_to_best(band, [point.reward_calls for point in band.points]),
        steps_to_best=_to_best(band, [point.step for point in band.points]),
        falling=_mean([fall for fall in falls if fall is not None]) if falls else None,
        right=_measured(_at_least(1, _verdicts(right)), SHARE, confidence) if all(right) else None,
    )


def comparisons(arms: Mapping[str, Runs], main: str, confidence: float) -> list[Comparison]:
    """Compare the main arm with each other one; p-values are Holm-adjusted for these comparisons.

    Args:
        arms: name of an arm -> its finished runs.
        main: name of the main arm.
        confidence: nominal coverage of the intervals.
    """
    return _contrasts([(main, other) for other in arms if other != main], arms, confidence)


def pairs(arms: Mapping[str, Runs], confidence: float) -> list[Comparison]:
    """Compare all pairs of arms; p-values are Holm-adjusted for the number of pairs.

    Args:
        arms: name of an arm -> its finished runs.
        confidence: nominal coverage of the intervals.
    """
    return _contrasts(list(combinations(arms, 2)), arms, confidence)


def curve_band(runs: Runs, confidence: float) -> records.Band:
    """Mean curve of an arm with intervals over seeds, up to the last evaluation that all runs have.

    Args:
        runs: finished runs of the arm, at least one.
        confidence: nominal coverage of the intervals.
    """
    points = [
        BandPoint(
            **_means(at, "step", "reward_calls", "seconds", "work"), ras=mean([point.ras for point in at], confidence)
        )
        for at in zip(*(run.curve for run in runs), strict=False)
    ]
    return records.Band(runs[0].key.arm, points)


def sweep_result(
    places: Sequence[records.GridPosition], axes: Sequence[str], runs: Mapping[str, Runs], main: str, confidence: float
) -> records.Sweep:
    """Compare the main arm with the others at every point, and its lead at the last point with that at the first.

    The p-values at the points are Holm-adjusted over all points. A single arm is compared with its best point.

    Args:
        places: all arms with their points, in order.
        axes: names of the axes.
        runs: name of a place -> its finished runs; places without runs may be missing.
        main: the arm that all others are compared with.
        confidence: nominal coverage of the intervals.
    """
    points: dict[tuple[str, ...], dict[str, str]] = {}
    for place in places:
        points.setdefault(tuple(place.point), {})[place.arm] = place.name
    pairs = [(names[main], names[arm]) for names in points.values() for arm in names if arm != main]
    along = list(axes).index(ABILITY) if set(axes) == {ABILITY, MODEL} else 0
    lines: dict[tuple[str, ...], list[dict[str, str]]] = {}  # one line per pretrained model, or a single line
    for point, names in points.items():
        lines.setdefault(point[:along] + point[along + 1 :], []).append(names)
    ends = [(line[0], line[-1]) for line in lines.values()]
    changes = _changes(ends, runs, main, confidence) if len(axes) == 1 or {*axes} == {ABILITY, MODEL} else []
    below = [] if pairs else _below(runs, confidence)
    return records.Sweep(list(axes), list(places), _contrasts(pairs, runs, confidence), changes, below)


def choice_shares(candidates: Sequence[Sequence[Letters]], seed: int = 0) -> list[float]:
    """Share of resamples in which each candidate has the highest RAS, by a crossed bootstrap over prompts and runs.

    Args:
        candidates: for each candidate, the verdicts of its R runs on the same N prompts. Ties go to the first.
        seed: seed of the resampling.
    """
    columns = [letters for runs in candidates for letters in runs]
    table = _at_least(1, _verdicts(columns)).reshape(-1, len(candidates), len(columns) // len(candidates))
    rng, (n, _, r) = np.random.default_rng(seed), table.shape
    prompts, runs = (rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) for size in (n, r))

    def resampled(values: Table) -> Table:
        return np.asarray(np.einsum("bn,ncr,br->bc", prompts, values, runs, optimize=True))

    ras = resampled(np.nan_to_num(table)) / np.maximum(resampled(~np.isnan(table)), 1)
    counts = np.bincount(ras.argmax(axis=1), minlength=len(candidates))
    return [int(count) / RESAMPLES for count in counts]


def selection_interval(runs: Sequence[Letters], confidence: float) -> Estimate:
    """RAS of one candidate on the selection's prompts, with an interval over prompts and, with several runs, seeds."""
    measured = _measured(_at_least(1, _verdicts(runs)), SHARE, confidence)
    return measured.over_both or measured.over_prompts


def reached_at(x: Sequence[float], y: Sequence[float], share: float = 0.95, best: float | None = None) -> float | None:
    """Find where a curve first reaches a share of its best value; with x in reward calls, this is sample efficiency.

    Args:
        x: steps, reward calls or seconds at each evaluation, non-decreasing.
        y: score at each evaluation, such as RAS.
        share: share of the best value, above 0 and at most 1.
        best: the best value, such as that of all methods; by default the maximum of the curve.

    Returns:
        Linearly interpolated x; None if the curve never reaches it, or if the best value is not positive.

    Raises:
        ValueError: if x decreases or differs in length from y, or a score is not finite.

    Example: 0, 0.2 and 0.4 at 0, 100 and 200 calls reach 0.95 * 0.4 = 0.38 at 100 + 100 * 0.18 / 0.2 = 190 calls.
    """
    _check_scores(y)
    if len(x) != len(y) or any(after < before for before, after in pairwise(x)):
        raise ValueError(f"x must be non-decreasing and as long as y, got {list(x)} for {len(y)} scores")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    top = max(y) if best is None else best
    highest = list(accumulate(y, max))
    first = bisect_left(highest, share * top)
    if top <= 0 or first == len(y):
        return None
    around = slice(max(first - 1, 0), first + 1)
    return float(np.interp(share * top, y[around], x[around]))


def share_falling(y: Sequence[float]) -> float | None:
    """Share of evaluations after the first that are below the previous one; None for a single evaluation.

    0 is monotonic improvement. Once nothing is learned any more, about half of the evaluations fall by chance.

    Args:
        y: scores in chronological order.

    Raises:
        ValueError: if there are no scores, or one is not finite.
    """
    _check_scores(y)
    return sum(after < before for before, after in pairwise(y)) / (len(y) - 1) if len(y) > 1 else None


def _check_scores(y: Sequence[float]) -> None:
    if not len(y) or not np.isfinite(y).all():
        raise ValueError(f"expected at least one finite score, got {list(y)}")


def _verdicts(outcomes: Sequence[str]) -> Table:
    """Verdicts with one column per run: 1 win, 0 tie, -1 loss, NaN missing."""
    if len(set(map(len, outcomes))) > 1:
        raise InputError(
            "the runs of this study were evaluated on different numbers of prompts; delete cells/ to run them again"
        )
    return np.stack([verdicts(letters) for letters in outcomes], axis=1)


def _at_least(verdict: int, table: Table) -> Table:
    """1 where the verdict is at least this one, 0 where it is worse, NaN where it is missing."""
    return np.where(np.isnan(table), table, table >= verdict)


def _measured(table: Table, kind: Quantity, confidence: float) -> Measured:
    """All estimates of a table; the interval over seeds is limited to possible values, and None for a single seed."""
    prompts = over_prompts(table, kind, confidence)
    if table.shape[1] < 2:
        return Measured(prompts, None)
    seeds = over_seeds(table, kind, confidence)
    seeds = replace(seeds, low=max(seeds.low, float(min(kind.outcomes))), high=min(seeds.high, 1.0))
    return Measured(prompts, seeds, over_both(prompts, seeds, kind))


class _Pair(NamedTuple):
    """Two arms with the finished seeds that they share, at least one."""

    main: str
    other: str
    seeds: list[int]
    first: Table
    """Verdicts of the main arm."""
    second: Table
    """Verdicts of the other arm."""

    def shares(self, verdict: int) -> tuple[Table, Table]:
        """For both arms, 1 where the verdict is at least this one, else 0."""
        return _at_least(verdict, self.first), _at_least(verdict, self.second)


def _pair(main: str, other: str, arms: Mapping[str, Runs]) -> _Pair | None:
    """The pair of two arms; None if they share no seed or were evaluated on different prompts."""
    first, second = (_by_seed(arms.get(name, ())) for name in (main, other))
    seeds = sorted(first.keys() & second.keys())
    if not seeds or len({run.outcomes.prompts for arm in (main, other) for run in arms[arm] if run.outcomes}) > 1:
        return None
    verdict = _verdicts([arm[seed] for arm in (first, second) for seed in seeds])
    return _Pair(main, other, seeds, verdict[:, : len(seeds)], verdict[:, len(seeds) :])


def _contrasts(pairs: Sequence[tuple[str, str]], arms: Mapping[str, Runs], confidence: float) -> list[Comparison]:
    """Compare each pair of arms that shares a finished seed; p-values are Holm-adjusted for the number of pairs."""
    tables = {f"{main} {other}": pair for main, other in pairs if (pair := _pair(main, other, arms))}
    named = {name: _contrast(pair, confidence) for name, pair in tables.items()}
    prompts = holm({name: contrast.p_prompts for name, contrast in named.items()})
    seeds = holm({name: contrast.p_seeds for name, contrast in named.items() if contrast.p_seeds is not None})
    both, ties = (_tested({name: pair.shares(least) for name, pair in tables.items()}, confidence) for least in (1, 0))
    return [
        replace(
            contrast,
            p_prompts_corrected=prompts[name],
            p_seeds_corrected=seeds.get(name),
            both=both.get(name),
            win_or_tie=ties.get(name),
        )
        for name, contrast in named.items()
    ]


def _contrast(pair: _Pair, confidence: float) -> Comparison:
    """Compare one pair of arms; its p-values are not yet adjusted."""
    tables = pair.shares(1)
    share, baseline = (float(np.nanmean(table)) for table in tables)
    p_prompts = _test_prompts(*tables)
    return Comparison(
        arm=pair.main,
        other=pair.other,
        seeds=pair.seeds,
        difference=_measured(difference(*tables), NET, confidence),
        relative_ras=share / baseline - 1 if baseline else None,
        p_prompts=p_prompts,
        p_prompts_corrected=p_prompts,
        p_seeds=sign_flip(np.nanmean(tables[0] - tables[1], axis=0).tolist()) if len(pair.seeds) > 1 else None,
        p_seeds_corrected=None,
    )


def _tested(pairs: Mapping[str, tuple[Table, Table]], confidence: float) -> dict[str, Tested]:
    """Test the difference of the two tables of each pair with several seeds, adjusted for the number of these pairs."""
    tables = {name: difference(*pair) for name, pair in pairs.items() if pair[0].shape[1] > 1}
    levels = confidence, 1 - (1 - confidence) / max(len(tables), 1)  # the second is Bonferroni's
    intervals = {name: [_over_both(table, level) for level in levels] for name, table in tables.items()}
    ps = {name: both_test(table, intervals[name][0], confidence) for name, table in tables.items()}
    adjusted = holm(ps)
    return {name: Tested(single, wide, ps[name], adjusted[name]) for name, (single, wide) in intervals.items()}


def _over_both(differences: Table, confidence: float) -> Estimate:
    return over_both(over_prompts(differences, NET, confidence), over_seeds(differences, NET, confidence), NET)


def _below(arms: Mapping[str, Runs], confidence: float) -> list[records.BelowBest]:
    """Compare every other place with the one of the highest RAS, adjusted for all pairs of places."""
    reached = {
        name: np.mean([np.nanmean(wins(after)) for after in _by_seed(runs).values()]) for name, runs in arms.items()
    }
    best = max(reached, key=lambda name: reached[name])
    order = [*(name for name in arms if name != best), best]
    pairs = {f"{left} {right}": pair for left, right in combinations(order, 2) if (pair := _pair(left, right, arms))}
    tested = _tested({names: pair.shares(1) for names, pair in pairs.items()}, confidence)
    below = ((name, tested.get(f"{name} {best}")) for name in order)
    return [records.BelowBest(name, best, ras) for name, ras in below if ras]


def _test_prompts(main: Table, other: Table) -> float:
    """p-value over prompts: McNemar's exact test for a single run, otherwise the sign-flip test on prompt means."""
    known = ~(np.isnan(main) | np.isnan(other))
    if main.shape[1] == 1:
        return mcnemar((main[known] > 0).tolist(), (other[known] > 0).tolist())
    return sign_flip(np.nanmean((main - other)[known.any(axis=1)], axis=1).tolist())


def _changes(
    lines: Sequence[tuple[Mapping[str, str], Mapping[str, str]]], runs: Mapping[str, Runs], main: str, confidence: float
) -> list[records.Change]:
    """Return how the main arm's lead over each other arm changes from the first to the last point of the lines.

    With a single line, the units of the test are its seeds; with several, the lines, each a mean over seeds.

    Args:
        lines: first and last point of each line, as arm -> name of the place.
        runs: name of a place -> its finished runs.
        main: the main arm.
        confidence: nominal coverage of the intervals.
    """
    changes = []
    for other in [arm for arm in lines[0][0] if arm != main]:
        by_line = []
        for line in lines:
            begin, end = (_leads(names[main], names[other], runs) for names in line)
            by_line.append([end[seed] - begin[seed] for seed in sorted(begin.keys() & end.keys())])
        units = by_line[0] if len(lines) == 1 else [_mean(of_seeds) for of_seeds in by_line if of_seeds]
        if len(units) > 1:
            change = records.Change(other, mean(units, confidence), sign_flip(units))
            changes.append(change if len(lines) == 1 else replace(change, over="models"))
    corrected = holm({change.other: change.p_seeds for change in changes})
    return [replace(change, p_seeds=corrected[change.other]) for change in changes]


def _leads(main: str, other: str, runs: Mapping[str, Runs]) -> dict[int, float]:
    """Seed -> RAS of the main arm minus that of the other, at one point."""
    first, second = _by_seed(runs.get(main, ())), _by_seed(runs.get(other, ()))
    shared = first.keys() & second.keys()
    return {seed: float(np.nanmean(wins(first[seed])) - np.nanmean(wins(second[seed]))) for seed in shared}


def _by_seed(runs: Runs) -> dict[int, Letters]:
    """Seed -> the verdicts after training."""
    return {run.key.seed: run.outcomes.after for run in runs if run.outcomes}


def _cost(costs: Sequence[records.Cost]) -> records.Cost:
    seconds = {phase: _mean([cost.seconds[phase] for cost in costs]) for phase in costs[0].seconds}
    means = _means(costs, "steps", "reward_calls", "tokens_sampled", "tokens_trained", "work")
    return replace(costs[0], **means, seconds=seconds, stages=[])


def _to_best(band: records.Band, x: Sequence[float]) -> float | None:
    """Where the mean curve reaches 95 % of its best; None for a short curve, or if x stays 0, as without rewards."""
    return reached_at(x, [point.ras.value for point in band.points]) if len(x) > 2 and x[-1] > 0 else None


def _means(rows: Sequence[Any], *fields: str) -> dict[str, float]:
    """Field -> mean over the rows."""
    return {field: _mean([getattr(row, field) for row in rows]) for field in fields}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
