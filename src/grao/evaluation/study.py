"""From the records of a study's runs to its numbers: estimates, paired tests, curves, costs, and what a sweep shows.

Of each number three intervals are given and kept apart: over prompts, for these very runs; over seeds, for training
again; and over both at once, which is the headline. The tests likewise. The order of records does not matter.

Left out: smoothing of curves. They rest on few prompts and waver by chance, so `reach` and `share_falling` are only to
be compared between curves that were evaluated equally often, on the same prompts.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, combinations, pairwise
from typing import Any, NamedTuple

import numpy as np

from grao.errors import InputError
from grao.evaluation.clusters import NET, SHARE, Kind, both_test, difference, over_both, over_prompts, over_seeds
from grao.evaluation.inference import holm, mcnemar, mean, sign_flip
from grao.evaluation.metrics import verdicts, wins
from grao.records import study as records
from grao.records.numbers import Estimate, Measured, Tested
from grao.records.study import BandPoint, CellRecord, Comparison, Letters

Table = np.ndarray
"""(N prompts, R runs)."""
Runs = Sequence[CellRecord]
"""Of one arm, finished."""
ABILITY, MODEL = "sandbox.ability", "sandbox.seed"
"""Axes along which the base model changes: how able it is, and which of several that are equally able."""
RESAMPLES = 2_000
"""Of a selection: the standard error of a share is at most 1.1 %."""


def arm_result(runs: Runs, confidence: float) -> records.ArmResult:
    """One arm over its finished runs, at least one."""
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
    """The main arm against each other one, with p-values corrected for the number of these.

    Args:
        arms: name -> its finished runs.
        main: one of the names.
        confidence: nominal coverage of the intervals.
    """
    return _contrasts([(main, other) for other in arms if other != main], arms, confidence)


def pairs(arms: Mapping[str, Runs], confidence: float) -> list[Comparison]:
    """Every two arms, in their order, with p-values corrected for the number of pairs."""
    return _contrasts(list(combinations(arms, 2)), arms, confidence)


def curve_band(runs: Runs, confidence: float) -> records.Band:
    """The mean curve of an arm's runs with its interval over seeds, as far as all runs have been evaluated."""
    points = [
        BandPoint(
            **_means(at, "step", "reward_calls", "seconds", "work"), ras=mean([point.ras for point in at], confidence)
        )
        for at in zip(*(run.curve for run in runs), strict=False)
    ]
    return records.Band(runs[0].key.arm, points)


def sweep_result(
    places: Sequence[records.Place], axes: Sequence[str], runs: Mapping[str, Runs], main: str, confidence: float
) -> records.Sweep:
    """Contrasts at every point, corrected over all points, and how they change from the first point to the last.

    Args:
        places: of all arms, in order.
        axes: their names.
        runs: name of a place -> its finished runs; some may lack.
        main: the arm that all others are set against.
        confidence: nominal coverage of the intervals.
    """
    points: dict[tuple[str, ...], dict[str, str]] = {}
    for place in places:
        points.setdefault(tuple(place.point), {})[place.arm] = place.name
    pairs = [(names[main], names[arm]) for names in points.values() for arm in names if arm != main]
    at = list(axes).index(ABILITY) if set(axes) == {ABILITY, MODEL} else 0
    lines: dict[tuple[str, ...], list[dict[str, str]]] = {}  # one of each pretrained model, or only one
    for point, names in points.items():
        lines.setdefault(point[:at] + point[at + 1 :], []).append(names)
    ends = [(line[0], line[-1]) for line in lines.values()]
    changes = _changes(ends, runs, main, confidence) if len(axes) == 1 or {*axes} == {ABILITY, MODEL} else []
    below = [] if pairs else _below(runs, confidence)
    return records.Sweep(list(axes), list(places), _contrasts(pairs, runs, confidence), changes, below)


def choices(candidates: Sequence[Sequence[Letters]], seed: int = 0) -> list[float]:
    """How often each candidate would be chosen: crossed bootstrap, prompts and runs drawn again independently.

    Args:
        candidates: of each the verdicts of its R runs on the same N prompts; of equals the first one is chosen.
        seed: of the draws.
    """
    every = [letters for runs in candidates for letters in runs]
    table = _at_least(1, _verdicts(every)).reshape(-1, len(candidates), len(every) // len(candidates))
    rng, (n, _, r) = np.random.default_rng(seed), table.shape
    prompts, runs = (rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) for size in (n, r))

    def drawn(values: Table) -> Table:
        return np.asarray(np.einsum("bn,ncr,br->bc", prompts, values, runs, optimize=True))

    reached = drawn(np.nan_to_num(table)) / np.maximum(drawn(~np.isnan(table)), 1)
    counts = np.bincount(reached.argmax(axis=1), minlength=len(candidates))
    return [int(count) / RESAMPLES for count in counts]


def selection_interval(runs: Sequence[Letters], confidence: float) -> Estimate:
    """RAS of one candidate over the selection's prompts, with several runs over prompts and seeds at once."""
    measured = _measured(_at_least(1, _verdicts(runs)), SHARE, confidence)
    return measured.over_both or measured.over_prompts


def reach(x: Sequence[float], y: Sequence[float], share: float = 0.95, best: float | None = None) -> float | None:
    """Where a curve first reaches a share of its best value: sample efficiency, if x counts reward calls.

    Args:
        x: steps, reward calls or seconds at each evaluation, none less than the one before.
        y: the score there, such as RAS.
        share: of the best value, above 0 and at most 1.
        best: the value to reach a share of, such as the best of all methods; by default the curve's own best.

    Returns:
        Linearly interpolated x; None if that score is never reached, or if no score is above 0.

    Example: 0, 0.2 and 0.4 at 0, 100 and 200 calls reach 0.95 * 0.4 = 0.38 at 100 + 100 * 0.18 / 0.2 = 190 calls.
    """
    _check_scores(y)
    if len(x) != len(y) or any(after < before for before, after in pairwise(x)):
        raise ValueError(f"x must not fall and be as long as y, got {list(x)} for {len(y)} scores")
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
    """The share of evaluations, the first left out, that fall below the one before; None if there is only one.

    0 is monotonic improvement. Chance alone makes evaluations fall: about half of them once nothing is learned.

    Args:
        y: the scores, in order of time.
    """
    _check_scores(y)
    return sum(after < before for before, after in pairwise(y)) / (len(y) - 1) if len(y) > 1 else None


def _check_scores(y: Sequence[float]) -> None:
    if not len(y) or not np.isfinite(y).all():
        raise ValueError(f"expected at least one finite score, got {list(y)}")


def _verdicts(outcomes: Sequence[str]) -> Table:
    """One column a run: 1 won, 0 tied, -1 lost, NaN missing."""
    if len(set(map(len, outcomes))) > 1:
        raise InputError("the runs of this study were evaluated on different numbers of prompts; remove cells/")
    return np.stack([verdicts(letters) for letters in outcomes], axis=1)


def _at_least(verdict: int, table: Table) -> Table:
    """1 where the verdict is no worse than this one, 0 where it is, NaN missing."""
    return np.where(np.isnan(table), table, table >= verdict)


def _measured(table: Table, kind: Kind, confidence: float) -> Measured:
    """All estimates; the one over seeds is cut to the possible values, and None of a single seed."""
    prompts = over_prompts(table, kind, confidence)
    if table.shape[1] < 2:
        return Measured(prompts, None)
    seeds = over_seeds(table, kind, confidence)
    seeds = replace(seeds, low=max(seeds.low, float(min(kind.outcomes))), high=min(seeds.high, 1.0))
    return Measured(prompts, seeds, over_both(prompts, seeds, kind))


class _Pair(NamedTuple):
    """Two arms over the seeds that both have finished, at least one."""

    main: str
    other: str
    seeds: list[int]
    first: Table
    """Verdicts of the one."""
    second: Table

    def shares(self, verdict: int) -> tuple[Table, Table]:
        """What is no worse than this verdict, of the one and of the other."""
        return _at_least(verdict, self.first), _at_least(verdict, self.second)


def _pair(main: str, other: str, arms: Mapping[str, Runs]) -> _Pair | None:
    """None without a seed that both have, and where they answered other prompts."""
    first, second = (_by_seed(arms.get(name, ())) for name in (main, other))
    seeds = sorted(first.keys() & second.keys())
    if not seeds or len({run.outcomes.prompts for of in (main, other) for run in arms[of] if run.outcomes}) > 1:
        return None
    verdict = _verdicts([arm[seed] for arm in (first, second) for seed in seeds])
    return _Pair(main, other, seeds, verdict[:, : len(seeds)], verdict[:, len(seeds) :])


def _contrasts(pairs: Sequence[tuple[str, str]], arms: Mapping[str, Runs], confidence: float) -> list[Comparison]:
    """The first less the second of each pair that shares a finished seed, p-values corrected for their number."""
    found = {f"{main} {other}": pair for main, other in pairs if (pair := _pair(main, other, arms))}
    named = {name: _contrast(pair, confidence) for name, pair in found.items()}
    prompts = holm({name: contrast.p_prompts for name, contrast in named.items()})
    seeds = holm({name: contrast.p_seeds for name, contrast in named.items() if contrast.p_seeds is not None})
    both, ties = (_tested({name: pair.shares(least) for name, pair in found.items()}, confidence) for least in (1, 0))
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
    """P-values not yet corrected."""
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
    """The first less the second table of each pair with several seeds, corrected for the number of these."""
    tables = {name: difference(*pair) for name, pair in pairs.items() if pair[0].shape[1] > 1}
    at_once = 1 - (1 - confidence) / max(len(tables), 1)
    found = {name: [_over_both(table, level) for level in (confidence, at_once)] for name, table in tables.items()}
    ps = {name: both_test(table, found[name][0], confidence) for name, table in tables.items()}
    corrected = holm(ps)
    return {name: Tested(own, wide, ps[name], corrected[name]) for name, (own, wide) in found.items()}


def _over_both(differences: Table, confidence: float) -> Estimate:
    return over_both(over_prompts(differences, NET, confidence), over_seeds(differences, NET, confidence), NET)


def _below(arms: Mapping[str, Runs], confidence: float) -> list[records.Below]:
    """Every other place less the one with the highest RAS, corrected for every two places."""
    reached = {
        name: np.mean([np.nanmean(wins(after)) for after in _by_seed(runs).values()]) for name, runs in arms.items()
    }
    best = max(reached, key=lambda name: reached[name])
    order = [*(name for name in arms if name != best), best]
    pairs = {(one, other): pair for one, other in combinations(order, 2) if (pair := _pair(one, other, arms))}
    tested = _tested({f"{one} {other}": pair.shares(1) for (one, other), pair in pairs.items()}, confidence)
    below = ((name, tested.get(f"{name} {best}")) for name in order)
    return [records.Below(name, best, ras) for name, ras in below if ras]


def _test_prompts(main: Table, other: Table) -> float:
    """Exact where each prompt was answered once; otherwise on the prompts' means."""
    known = ~(np.isnan(main) | np.isnan(other))
    if main.shape[1] == 1:
        return mcnemar((main[known] > 0).tolist(), (other[known] > 0).tolist())
    return sign_flip(np.nanmean((main - other)[known.any(axis=1)], axis=1).tolist())


def _changes(
    lines: Sequence[tuple[Mapping[str, str], Mapping[str, str]]], runs: Mapping[str, Runs], main: str, confidence: float
) -> list[records.Change]:
    """How the main arm's lead over each other one moves along the lines: over seeds of a single line, or over lines.

    A line is its first and its last point, each as arm -> name.
    """
    changes = []
    for other in [arm for arm in lines[0][0] if arm != main]:
        moved = []
        for line in lines:
            begin, end = (_leads(names[main], names[other], runs) for names in line)
            moved.append([end[seed] - begin[seed] for seed in sorted(begin.keys() & end.keys())])
        units = moved[0] if len(lines) == 1 else [_mean(of_model) for of_model in moved if of_model]
        if len(units) > 1:
            change = records.Change(other, mean(units, confidence), sign_flip(units))
            changes.append(change if len(lines) == 1 else replace(change, over="models"))
    corrected = holm({change.other: change.p_seeds for change in changes})
    return [replace(change, p_seeds=corrected[change.other]) for change in changes]


def _leads(main: str, other: str, runs: Mapping[str, Runs]) -> dict[int, float]:
    """Seed -> RAS of the main arm less that of the other, at one point."""
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
    """Where the mean curve reaches 95 % of its best; None of a short one, and where x stays 0, as without rewards."""
    return reach(x, [point.ras.value for point in band.points]) if len(x) > 2 and x[-1] > 0 else None


def _means(rows: Sequence[Any], *fields: str) -> dict[str, float]:
    """The mean of each of these fields."""
    return {field: _mean([getattr(row, field) for row in rows]) for field in fields}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
