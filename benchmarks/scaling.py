"""What a step costs against G, prompt length, completion length and model size, beside what it should cost.

    python benchmarks/scaling.py                               the table and scaling.json, about five minutes
    python benchmarks/scaling.py --quick                       a smaller model and fewer points, about a minute
    python benchmarks/scaling.py --plot docs/scaling.png       the figure too

One axis is varied at a time. The update (forward and backward over G samples and the reference of every prompt) and
the rollout are timed apart, in an order that is shuffled anew in every repetition; medians are shown. Expected is
operations (`grao.engine.flops`) times one constant plus passes through the model times another. The two are fitted for
each phase, over all axes but the model's size, which has its own: a curve that departs does not cost its operations.
`repeated` is the same with the prompt counted for every sample, and `PaddedEngine` is measured on the same work. Peak
memory is what is resident at most during the update above what is resident before it, weights and gradients; its bound
should be the token budget. The optimiser's own update is left out: it depends on the model alone.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin slow down all on a shared machine

import numpy as np
import torch
from common import forget_peak, random_model, resident
from scaling_figure import Curve, Peaks, figure
from scipy.optimize import nnls

from grao.engine.flops import Cost, Work, matmul_peak
from grao.engine.interface import Engine
from grao.engine.padded import PaddedEngine
from grao.engine.select import engine_for
from grao.rollouts.base import Sampling
from grao.rollouts.transformers import TransformersGenerator
from grao.types import Answer, Batch, Encoded, Example, Group

TOKEN_BUDGET, ROWS = 16384, 64
"""Defaults of `training.token_budget` and `rollout.batch_size`."""
PADDED_UP_TO = 16
"""Samples up to which the padded engine is measured: it takes many times as long."""

AXES = {"samples": "G", "prompt": "prompt", "completion": "completion", "hidden": "weights"}


@dataclass(frozen=True)
class Setting:
    """One step; lengths in tokens."""

    prompts: int = 2
    samples: int = 8
    prompt: int = 256
    completion: int = 64
    hidden: int = 256
    layers: int = 6
    vocabulary: int = 4096


QUICK = Setting(prompt=128, completion=32, hidden=128, layers=4)
Phase = Callable[[Setting], None]
Task = tuple[Phase, Setting]


@cache
def model_of(hidden: int, layers: int, vocabulary: int):
    """A random model with heads of 32, its engine and the operations that it costs."""
    heads = max(1, hidden // 32)
    shape = {
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4),
        "max_position_embeddings": 1 << 15,
    }
    model = random_model(hidden, layers, vocabulary, **shape)
    return model, engine_for(model, 0), Cost.of(model)


def model_for(setting: Setting):
    """See `model_of`."""
    return model_of(setting.hidden, setting.layers, setting.vocabulary)


@cache
def batch_of(setting: Setting) -> Batch:
    """The samples and the reference of every prompt, random tokens."""
    draw, group = random.Random(0), setting.samples + 1

    def some(count: int, length: int) -> list[tuple[int, ...]]:
        return [tuple(draw.randrange(setting.vocabulary) for _ in range(length)) for _ in range(count)]

    example = Example("", "", None, {}, 0)
    prompts = [Encoded(example, "", ids, "", ()) for ids in some(setting.prompts, setting.prompt)]
    answers = [Answer(ids, weight=1.0) for ids in some(len(prompts) * group, setting.completion)]
    return Batch(
        tuple(
            Group(prompt, tuple(answers[number * group : (number + 1) * group]), number)
            for number, prompt in enumerate(prompts)
        )
    )


def update(setting: Setting, token_budget: int = TOKEN_BUDGET) -> None:
    """Forward and backward of a step."""
    model, engine, _ = model_for(setting)
    run_through(model, engine, batch_of(setting), token_budget)


def padded(setting: Setting) -> None:
    """The same through the padded engine."""
    run_through(model_for(setting)[0], PaddedEngine(), batch_of(setting), TOKEN_BUDGET)


def run_through(model: torch.nn.Module, engine: Engine, batch: Batch, token_budget: int) -> None:
    """Micro-batch by micro-batch, as in training; gradients stay where they are and add up."""
    model.train()
    for rows in engine.plan(batch, token_budget):
        engine.run(model, batch.select(rows)).loss.backward()


def rollout(setting: Setting) -> None:
    """G samples of every prompt; none ends early."""
    generator = TransformersGenerator(model_for(setting)[0], [setting.vocabulary], batch_size=ROWS)
    prompts = [group.item.prompt_ids for group in batch_of(setting).groups]
    sampling = Sampling(setting.samples, temperature=1.0, max_new_tokens=setting.completion)
    list(generator.generate(prompts, range(len(prompts)), sampling))


PHASES = (update, rollout)


def operations(phase: str, setting: Setting, repeated: bool = False) -> float:
    """That a step needs; `repeated` counts the prompt for every sample."""
    cost, answers = model_for(setting)[2], setting.samples + (phase == "update")
    group = [(setting.prompt, [setting.completion] * answers)]
    work = Work.of((group if not repeated else [(setting.prompt, [setting.completion])] * answers) * setting.prompts)
    return cost.update(work) if phase == "update" else cost.forward(work)


def passes(phase: str, setting: Setting) -> int:
    """Calls of the model's forward in a step."""
    if phase == "update":
        return len(model_for(setting)[1].plan(batch_of(setting), TOKEN_BUDGET))
    return math.ceil(setting.prompts / max(1, ROWS // setting.samples)) * setting.completion


def axes_of(base: Setting, quick: bool) -> dict[str, list[Setting]]:
    """Name of a field of `Setting` -> settings that differ in it."""
    step = 2 if quick else 1
    return {
        "samples": [replace(base, samples=samples) for samples in (2, 4, 8, 16, 32)[::step]],
        "prompt": [replace(base, prompt=base.prompt * factor // 4) for factor in (1, 2, 4, 8, 16)[::step]],
        "completion": [replace(base, completion=base.completion * factor // 4) for factor in (1, 2, 4, 8, 16)[::step]],
        "hidden": [replace(base, hidden=base.hidden * factor // 4) for factor in (1, 2, 4, 8)],
    }


def time_all(tasks: Sequence[Task], repetitions: int) -> dict[Task, float]:
    """Median seconds of each task; every repetition does all of them, in an order of its own."""
    seen: dict[Task, list[float]] = {task: [] for task in tasks}
    for repetition in range(repetitions):
        for task in random.Random(repetition).sample(list(seen), len(seen)):
            begin = time.perf_counter()
            task[0](task[1])
            seen[task].append(time.perf_counter() - begin)
    return {task: statistics.median(times) for task, times in seen.items()}


def curves_of(axes: dict[str, list[Setting]], repetitions: int) -> list[Curve]:
    """Measures all of them."""
    for setting in axes["hidden"]:  # a first call costs more
        update(setting)
        rollout(setting)
    tasks: list[Task] = [(phase, setting) for settings in axes.values() for setting in settings for phase in PHASES]
    tasks += [(padded, setting) for setting in axes["samples"] if setting.samples <= PADDED_UP_TO]
    seconds = time_all(tasks, repetitions)
    same_model = [setting for axis, settings in axes.items() for setting in settings if axis != "hidden"]
    curves = []
    for phase in PHASES:
        shared = constants_of(phase, same_model, seconds)
        for axis, settings in axes.items():
            constants = constants_of(phase, settings, seconds) if axis == "hidden" else shared
            curves.append(curve_of(axis, phase, settings, seconds, constants))
    return curves


def counts_of(phase: Phase, settings: Sequence[Setting], repeated: bool = False) -> np.ndarray:
    """(settings, 2), operations and passes."""
    name = phase.__name__
    return np.array([(operations(name, setting, repeated), passes(name, setting)) for setting in settings], dtype=float)


def constants_of(phase: Phase, settings: Sequence[Setting], seconds: dict[Task, float]) -> np.ndarray:
    """(2,), seconds of an operation and of a pass that come nearest to what was measured, in relative terms."""
    measured = np.array([seconds[phase, setting] for setting in settings])
    return nnls(counts_of(phase, settings) / measured[:, None], np.ones(len(measured)))[0]


def curve_of(
    axis: str, phase: Phase, settings: Sequence[Setting], seconds: dict[Task, float], constants: np.ndarray
) -> Curve:
    """One curve beside what the constants give for it."""
    along_samples = axis == "samples"
    with_padding = [(padded, setting) for setting in settings if along_samples and phase is update]
    return Curve(
        axis=AXES[axis],
        phase=phase.__name__,
        x=[model_for(setting)[2].token / 2 if axis == "hidden" else getattr(setting, axis) for setting in settings],
        seconds=[seconds[phase, setting] for setting in settings],
        expected=(counts_of(phase, settings) @ constants).tolist(),
        per_operation=constants[0],
        per_pass=constants[1],
        repeated=(counts_of(phase, settings, repeated=True) @ constants).tolist() if along_samples else [],
        padded=[seconds[task] for task in with_padding if task in seconds],
    )


def peaks_of(settings: Sequence[Setting], budgets: Sequence[int], repetitions: int) -> Peaks:
    """MiB that an update needs at most above what is resident before it, for each budget and number of samples."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: None)
    update(settings[0])
    seen: dict[tuple[int, int], list[float]] = {}
    jobs = [(row, column) for row in range(len(budgets)) for column in range(len(settings))] * repetitions
    for row, column in random.Random(0).sample(jobs, len(jobs)):
        gc.collect()
        trim(0)
        before = resident(peak=False)
        forget_peak()
        update(settings[column], budgets[row])
        seen.setdefault((row, column), []).append(resident(peak=True) - before)
    rows = range(len(budgets))
    return Peaks(
        budgets=list(budgets),
        samples=[setting.samples for setting in settings],
        tokens=[[longest_row(setting, budget) for setting in settings] for budget in budgets],
        mebibytes=[[statistics.median(seen[row, column]) for column in range(len(settings))] for row in rows],
        repeated=[s.prompts * (s.samples + 1) * (s.prompt + s.completion) for s in settings],
    )


def longest_row(setting: Setting, token_budget: int) -> int:
    """Tokens of the longest micro-batch."""
    batch, engine = batch_of(setting), model_for(setting)[1]
    plan = engine.plan(batch, token_budget)
    groups = [{batch.numbers[index] for index in rows} for rows in plan]
    return max(len(g) * setting.prompt + len(rows) * setting.completion for g, rows in zip(groups, plan, strict=True))


def show(curves: Sequence[Curve], peaks: Peaks, base: Setting) -> None:
    """Prints the tables."""
    print(f"At the base: {', '.join(f'{name} {value}' for name, value in asdict(base).items())}")
    print(f"{torch.get_num_threads()} threads; a matrix product does {machine() / 1e9:.0f} GFLOP/s\n")
    for curve in curves:
        print(
            f"{curve.phase} against {curve.axis}: slope {curve.slope(curve.seconds):.2f}, expected"
            f" {curve.slope(curve.expected):.2f}; fitted {1e-9 / curve.per_operation:.0f} GFLOP/s and"
            f" {1e3 * curve.per_pass:.1f} ms a pass"
        )
        print(f"{curve.axis:>12} {'seconds':>9} {'expected':>9} {'ratio':>6}", end="")
        print(f" {'repeated':>9} {'padded':>9}" if curve.padded else "")
        for place, x in enumerate(curve.x):
            measured, expected = curve.seconds[place], curve.expected[place]
            print(f"{x:12,.0f} {measured:9.3f} {expected:9.3f} {measured / expected:6.2f}", end="")
            others = [values[place] for values in (curve.repeated, curve.padded) if place < len(values)]
            print("".join(f" {value:9.3f}" for value in others) if curve.padded else "")
        print()
    show_marginal(curves[0], base)
    print(f"{'MiB at most':>16}" + "".join(f" {f'G {samples}':>7}" for samples in peaks.samples) + "   tokens at most")
    for budget, row, tokens in zip(peaks.budgets, peaks.mebibytes, peaks.tokens, strict=True):
        print(f"{f'budget {budget:,}':>16}" + "".join(f" {value:7.0f}" for value in row) + f"   {max(tokens):,}")
    print(f"{'repeated, whole':>16}" + "".join(f" {value:7.0f}" for value in peaks.unbounded()) + "   (computed)")


def show_marginal(curve: Curve, base: Setting) -> None:
    """Prints what a further sample costs."""
    cost, more = model_for(base)[2], replace(base, samples=base.samples + 1)
    own = (operations("update", more) - operations("update", base)) / base.prompts
    whole = cost.update(Work.of([(base.prompt, [base.completion])]))
    measured = np.polyfit(curve.x, curve.seconds, 1)[0] / base.prompts
    by_padding = np.polyfit(curve.x[: len(curve.padded)], curve.padded, 1)[0] / base.prompts
    expected, repeated = own * curve.per_operation, whole * curve.per_operation
    print(f"One sample more, in the update: {1e3 * measured:.1f} ms measured; by operations {1e3 * expected:.1f} ms")
    print(f"for its own tokens, {1e3 * repeated:.1f} ms with its prompt; padded engine {1e3 * by_padding:.1f} ms\n")


def machine() -> float:
    """Operations a second at best."""
    return matmul_peak(torch.device("cpu"), torch.float32)


def main() -> None:
    """Prints the tables, writes the JSON and, if asked for, the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    for field in fields(Setting):
        parser.add_argument(f"--{field.name}", type=int, help=f"of the base, {field.default} by default")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--output", type=Path, default=Path("scaling.json"))
    parser.add_argument("--plot", type=Path, help="PNG or SVG")
    options = parser.parse_args()
    given = {field.name: getattr(options, field.name) for field in fields(Setting)}
    base = replace(QUICK if options.quick else Setting(), **{name: value for name, value in given.items() if value})
    repetitions = options.repetitions or (3 if options.quick else 5)
    axes = axes_of(base, options.quick)
    budgets = [*(base.prompts * base.prompt * factor for factor in (1, 2, 4)), TOKEN_BUDGET]
    peaks = peaks_of(axes["samples"], budgets, 1 if options.quick else 2)
    curves = curves_of(axes, repetitions)
    show(curves, peaks, base)
    record = {
        "base": asdict(base), "repetitions": repetitions, "threads": torch.get_num_threads(), "peak": machine(),
        "curves": [asdict(curve) for curve in curves], "memory": asdict(peaks),
    }  # fmt: skip
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    if options.plot:
        figure(curves, peaks).savefig(options.plot)


if __name__ == "__main__":
    main()
