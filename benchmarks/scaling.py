"""Measures the cost of a step against G, prompt length, completion length and model size, and compares it with theory.

    python benchmarks/scaling.py                               the table and scaling.json, about five minutes
    python benchmarks/scaling.py --quick                       a smaller model and fewer points, about a minute
    python benchmarks/scaling.py --plot docs/scaling.png       the figure too

One axis is varied at a time. The update (forward and backward over G samples and the reference of every prompt) and
the rollout are timed separately, in a new random order in every repetition; medians are shown. The expected time is
`per_operation` * operations (`grao.engine.flops`) + `per_pass` * forward passes. The two constants are fitted for each
phase over all axes except model size, which has its own; a curve that deviates costs more or less than its operations.
`repeated` is the expected time with the prompt counted for every sample; `PaddedEngine` is measured on the same work.
Peak memory is the peak during the update above what is resident before it (weights and gradients); the token budget
should bound it. The optimizer step is not timed, because it depends on the model alone.
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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads slow down a shared machine

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
"""Largest G with which the padded engine, which is many times slower, is measured."""

AXES = {"samples": "G", "prompt": "prompt", "completion": "completion", "hidden": "weights"}


@dataclass(frozen=True)
class Setting:
    """The work of one step and the model; lengths in tokens."""

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
    """Return a random model with heads of size 32, its engine, and its cost in operations."""
    heads = max(1, hidden // 32)
    shape = {
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4),
        "max_position_embeddings": 1 << 15,
    }
    model = random_model(hidden, layers, vocabulary, **shape)
    return model, engine_for(model, 0), Cost.of(model)


def model_for(setting: Setting):
    """Return `model_of` for a setting."""
    return model_of(setting.hidden, setting.layers, setting.vocabulary)


@cache
def batch_of(setting: Setting) -> Batch:
    """Return the samples and the reference of every prompt, as random tokens."""
    draw, group = random.Random(0), setting.samples + 1

    def texts(count: int, length: int) -> list[tuple[int, ...]]:
        return [tuple(draw.randrange(setting.vocabulary) for _ in range(length)) for _ in range(count)]

    example = Example("", "", None, {}, 0)
    prompts = [Encoded(example, "", ids, "", ()) for ids in texts(setting.prompts, setting.prompt)]
    answers = [Answer(ids, weight=1.0) for ids in texts(len(prompts) * group, setting.completion)]
    return Batch(
        tuple(
            Group(prompt, tuple(answers[number * group : (number + 1) * group]), number)
            for number, prompt in enumerate(prompts)
        )
    )


def update(setting: Setting, token_budget: int = TOKEN_BUDGET) -> None:
    """Run forward and backward of a step."""
    model, engine, _ = model_for(setting)
    run_through(model, engine, batch_of(setting), token_budget)


def padded(setting: Setting) -> None:
    """Do the same as `update` with the padded engine."""
    run_through(model_for(setting)[0], PaddedEngine(), batch_of(setting), TOKEN_BUDGET)


def run_through(model: torch.nn.Module, engine: Engine, batch: Batch, token_budget: int) -> None:
    """Run forward and backward by micro-batches, as in training; gradients accumulate."""
    model.train()
    for rows in engine.plan(batch, token_budget):
        engine.run(model, batch.select(rows)).loss.backward()


def rollout(setting: Setting) -> None:
    """Sample G completions of every prompt; none ends early."""
    generator = TransformersGenerator(model_for(setting)[0], [setting.vocabulary], batch_size=ROWS)
    prompts = [group.item.prompt_ids for group in batch_of(setting).groups]
    sampling = Sampling(setting.samples, temperature=1.0, max_new_tokens=setting.completion)
    list(generator.generate(prompts, range(len(prompts)), sampling))


PHASES = (update, rollout)


def operations(phase: str, setting: Setting, repeated: bool = False) -> float:
    """Return the operations of a step; `repeated` counts the prompt for every sample."""
    cost, answers = model_for(setting)[2], setting.samples + (phase == "update")
    group = [(setting.prompt, [setting.completion] * answers)]
    work = Work.of((group if not repeated else [(setting.prompt, [setting.completion])] * answers) * setting.prompts)
    return cost.update(work) if phase == "update" else cost.forward(work)


def passes(phase: str, setting: Setting) -> int:
    """Return the number of forward passes of a step."""
    if phase == "update":
        return len(model_for(setting)[1].plan(batch_of(setting), TOKEN_BUDGET))
    return math.ceil(setting.prompts / max(1, ROWS // setting.samples)) * setting.completion


def axes_of(base: Setting, quick: bool) -> dict[str, list[Setting]]:
    """Return name of a field of `Setting` -> settings that vary it."""
    step = 2 if quick else 1
    return {
        "samples": [replace(base, samples=samples) for samples in (2, 4, 8, 16, 32)[::step]],
        "prompt": [replace(base, prompt=base.prompt * factor // 4) for factor in (1, 2, 4, 8, 16)[::step]],
        "completion": [replace(base, completion=base.completion * factor // 4) for factor in (1, 2, 4, 8, 16)[::step]],
        "hidden": [replace(base, hidden=base.hidden * factor // 4) for factor in (1, 2, 4, 8)],
    }


def time_all(tasks: Sequence[Task], repetitions: int) -> dict[Task, float]:
    """Return the median seconds of each task; every repetition runs all tasks in a new random order."""
    seconds: dict[Task, list[float]] = {task: [] for task in tasks}
    for repetition in range(repetitions):
        for phase, setting in random.Random(repetition).sample(list(seconds), len(seconds)):
            begin = time.perf_counter()
            phase(setting)
            seconds[phase, setting].append(time.perf_counter() - begin)
    return {task: statistics.median(times) for task, times in seconds.items()}


def curves_of(axes: dict[str, list[Setting]], repetitions: int) -> list[Curve]:
    """Measure both phases along all axes."""
    for setting in axes["hidden"]:  # the first call takes longer
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
    """Return operations and passes, (settings, 2)."""
    name = phase.__name__
    return np.array([(operations(name, setting, repeated), passes(name, setting)) for setting in settings], dtype=float)


def constants_of(phase: Phase, settings: Sequence[Setting], seconds: dict[Task, float]) -> np.ndarray:
    """Return seconds per operation and per pass, (2,), that minimize the squared relative error."""
    measured = np.array([seconds[phase, setting] for setting in settings])
    return nnls(counts_of(phase, settings) / measured[:, None], np.ones(len(measured)))[0]


def curve_of(
    axis: str, phase: Phase, settings: Sequence[Setting], seconds: dict[Task, float], constants: np.ndarray
) -> Curve:
    """Return a measured curve with the times that the constants predict."""
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
    """Return the peak memory of an update for each token budget and number of samples."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: None)
    update(settings[0])
    measured: dict[tuple[int, int], list[float]] = {}
    jobs = [(row, column) for row in range(len(budgets)) for column in range(len(settings))] * repetitions
    for row, column in random.Random(0).sample(jobs, len(jobs)):
        gc.collect()
        trim(0)
        before = resident(peak=False)
        forget_peak()
        update(settings[column], budgets[row])
        measured.setdefault((row, column), []).append(resident(peak=True) - before)
    rows = range(len(budgets))
    return Peaks(
        budgets=list(budgets),
        samples=[setting.samples for setting in settings],
        tokens=[[longest_row(setting, budget) for setting in settings] for budget in budgets],
        mebibytes=[[statistics.median(measured[row, column]) for column in range(len(settings))] for row in rows],
        repeated=[s.prompts * (s.samples + 1) * (s.prompt + s.completion) for s in settings],
    )


def longest_row(setting: Setting, token_budget: int) -> int:
    """Return the tokens of the longest micro-batch."""
    batch, engine = batch_of(setting), model_for(setting)[1]
    plan = engine.plan(batch, token_budget)
    groups = [{batch.numbers[index] for index in rows} for rows in plan]
    return max(len(g) * setting.prompt + len(rows) * setting.completion for g, rows in zip(groups, plan, strict=True))


def show(curves: Sequence[Curve], peaks: Peaks, base: Setting) -> None:
    """Print the tables."""
    print(f"Base: {', '.join(f'{name} {value}' for name, value in asdict(base).items())}")
    print(f"{torch.get_num_threads()} threads; a matrix product does {peak_speed() / 1e9:.0f} GFLOP/s\n")
    for curve in curves:
        print(
            f"{curve.phase} against {curve.axis}: slope {curve.slope(curve.seconds):.2f}, expected"
            f" {curve.slope(curve.expected):.2f}; fitted {1e-9 / curve.per_operation:.0f} GFLOP/s and"
            f" {1e3 * curve.per_pass:.1f} ms per pass"
        )
        print(f"{curve.axis:>12} {'seconds':>9} {'expected':>9} {'ratio':>6}", end="")
        print(f" {'repeated':>9} {'padded':>9}" if curve.padded else "")
        for index, x in enumerate(curve.x):
            measured, expected = curve.seconds[index], curve.expected[index]
            print(f"{x:12,.0f} {measured:9.3f} {expected:9.3f} {measured / expected:6.2f}", end="")
            others = [values[index] for values in (curve.repeated, curve.padded) if index < len(values)]
            print("".join(f" {value:9.3f}" for value in others) if curve.padded else "")
        print()
    show_marginal(curves[0], base)
    print(f"{'peak MiB':>16}" + "".join(f" {f'G {samples}':>7}" for samples in peaks.samples) + "   most tokens")
    for budget, row, tokens in zip(peaks.budgets, peaks.mebibytes, peaks.tokens, strict=True):
        print(f"{f'budget {budget:,}':>16}" + "".join(f" {value:7.0f}" for value in row) + f"   {max(tokens):,}")
    print(f"{'repeated, whole':>16}" + "".join(f" {value:7.0f}" for value in peaks.unbounded()) + "   (computed)")


def show_marginal(curve: Curve, base: Setting) -> None:
    """Print the cost of one more sample per prompt."""
    cost, more = model_for(base)[2], replace(base, samples=base.samples + 1)
    completion = (operations("update", more) - operations("update", base)) / base.prompts
    with_prompt = cost.update(Work.of([(base.prompt, [base.completion])]))
    measured = np.polyfit(curve.x, curve.seconds, 1)[0] / base.prompts
    by_padding = np.polyfit(curve.x[: len(curve.padded)], curve.padded, 1)[0] / base.prompts
    expected, repeated = completion * curve.per_operation, with_prompt * curve.per_operation
    print(f"Update per further sample: {1e3 * measured:.1f} ms; expected {1e3 * expected:.1f} ms for its completion,")
    print(f"{1e3 * repeated:.1f} ms with its prompt; padded engine {1e3 * by_padding:.1f} ms\n")


def peak_speed() -> float:
    """Return the operations per second of a matrix product."""
    return matmul_peak(torch.device("cpu"), torch.float32)


def main() -> None:
    """Print the tables, write the JSON and, with `--plot`, the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    for field in fields(Setting):
        parser.add_argument(f"--{field.name}", type=int, help=f"base value, {field.default} by default")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--output", type=Path, default=Path("scaling.json"))
    parser.add_argument("--plot", type=Path, help="PNG or SVG")
    options = parser.parse_args()
    overrides = {field.name: getattr(options, field.name) for field in fields(Setting)}
    base = replace(QUICK if options.quick else Setting(), **{name: value for name, value in overrides.items() if value})
    repetitions = options.repetitions or (3 if options.quick else 5)
    axes = axes_of(base, options.quick)
    budgets = [*(base.prompts * base.prompt * factor for factor in (1, 2, 4)), TOKEN_BUDGET]
    peaks = peaks_of(axes["samples"], budgets, 1 if options.quick else 2)
    curves = curves_of(axes, repetitions)
    show(curves, peaks, base)
    record = {
        "base": asdict(base), "repetitions": repetitions, "threads": torch.get_num_threads(), "peak": peak_speed(),
        "curves": [asdict(curve) for curve in curves], "memory": asdict(peaks),
    }  # fmt: skip
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    if options.plot:
        figure(curves, peaks).savefig(options.plot)


if __name__ == "__main__":
    main()
