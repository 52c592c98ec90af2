"""Metrics of a step: means over the prompts of all processes, named as in `metrics.jsonl`, and its speed."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from grao.core import spread
from grao.engine.flops import Cost, Work, matmul_peak
from grao.engine.sharded import half_precision
from grao.errors import InputError
from grao.methods.base import Method
from grao.training.accumulate import StepOutput
from grao.training.experience import Experience, Update
from grao.types import Role

Tallies = Mapping[str, Mapping[str, Tensor | float]]

SUMMED = ("/requests", "/cached", "/unreadable", "/failed", "/cost")
"""Suffixes of judge metrics that are summed over steps, not averaged."""
_TRAINERS = {"step", "seconds", "loss", "grad_norm", "learning_rate", "epoch", "bad_steps"}
"""Names in `metrics.jsonl` that do not come from `step_metrics`."""


def step_metrics(
    update: Update, output: StepOutput, method: Method, accelerator: Accelerator, more: Mapping[str, Tensor | float]
) -> dict[str, float]:
    """Return all metrics of a step but gradient norm, learning rate, loss and speed.

    Means skip missing values: verdicts are averaged over scored samples, advantages over groups that have them, entropy
    over the samples that were forwarded.

    Args:
        update: of this process.
        output: results of its forward passes.
        method: reports metrics of its own.
        accelerator: reduces over processes.
        more: further metrics; tensors are averaged, numbers are summed.
    """
    experience = update.experience
    more = {**more, **judge_numbers(experience.rewards.tallies)}
    values = {
        **({**_reward_numbers(experience), **_completion_numbers(experience)} if experience.sampled else {}),
        "reference/tokens": torch.tensor([float(len(group.item.reference_ids)) for group in experience.groups]),
        **{name: number for name, number in more.items() if isinstance(number, Tensor)},
        **method.report(experience.weighted, update.per_answer(output.loglik)),
        **{name: output.numbers.get(name, torch.zeros(0)).cpu() for name in _names(output.numbers, accelerator)},
    }
    main_role = Role.SAMPLE if experience.sampled else Role.REFERENCE
    main_answers = torch.tensor([answer.role is main_role for answer in update.batch.answers], dtype=torch.bool)
    values["entropy"] = output.entropy.cpu()[main_answers]
    if experience.sampled:
        values |= {"sampler/gap": output.sampler.absolute.cpu(), "sampler/kl": output.sampler.kl.cpu()}
    if output.kl is not None:
        values["kl"] = output.kl.cpu()[main_answers]
    totals = {
        "tokens/sampled": sum(sum(group.tokens(Role.SAMPLE)) for group in experience.groups),
        "tokens/trained": output.tokens,
        **(_drawn(experience) if method.needs.resample else {}),
        **{name: number for name, number in more.items() if not isinstance(number, Tensor)},
        **({} if output.balance is None else {"router_loss": output.balance.item()}),
    }
    largest = {"sampler/ratio": _largest(output.sampler.ratio, accelerator)} if experience.sampled else {}
    return _shares(_averages(values, totals, accelerator)) | largest | dict(output.experts)


def add_logged(
    metrics: dict[str, float], logged: Mapping[str, Sequence[float]], accelerator: Accelerator
) -> dict[str, float]:
    """Return the metrics of a step with those logged by reward functions, averaged over all processes.

    Args:
        metrics: of the step.
        logged: values that this process's reward functions logged, by name.
        accelerator: reduces over processes.

    Raises:
        InputError: if a function used the name of a built-in metric.
    """
    names = _names(logged, accelerator)
    if taken := sorted({*metrics, *_TRAINERS}.intersection(names)):
        raise InputError(f"log_metric: {taken[0]!r} is a built-in metric; log yours under another name")
    values = {name: torch.tensor(logged.get(name, []), dtype=torch.float64) for name in names}
    return metrics | (_averages(values, {}, accelerator) if values else {})


def _names(local: Iterable[str], accelerator: Accelerator) -> list[str]:
    """Return the names known to any process, in the same order on all; a process without an update has none."""
    return sorted(set(gather_object(list(local)))) if accelerator.num_processes > 1 else list(local)


def judge_numbers(tallies: Tallies, remark: str = "") -> dict[str, Tensor | float]:
    """Return the judges' request statistics: tensors to average, numbers to sum.

    Args:
        tallies: statistics of each judge, by name.
        remark: appended to the judges' names.
    """
    return {f"judge_{name}{remark}/{key}": number for name, tally in tallies.items() for key, number in tally.items()}


def _reward_numbers(experience: Experience) -> dict[str, Tensor]:
    total = experience.rewards.total
    scored = total[~total.isnan()]
    return {
        "reward/mean": scored,
        "reward/std": spread(total, total)[1].masked_fill(total.isnan().all(dim=1, keepdim=True), torch.nan),
        "reward/missing": total.isnan().double(),
        "verdict/win": (scored > 0).double(),
        "verdict/tie": (scored == 0).double(),
        "verdict/loss": (scored < 0).double(),
        "update_size/samples": experience.weighted.weights.samples.abs().sum(dim=1),
        "update_size/reference": experience.weighted.weights.reference.abs(),
        **_part_numbers(experience),
    }


def _drawn(experience: Experience) -> dict[str, float]:
    """Return the number of groups drawn to fill the step, and of those without any weight."""
    silent = [not any(row) for row in experience.weighted.weights.rows()]
    return {"groups/drawn": len(silent), "groups/silent": sum(silent)}


def _part_numbers(experience: Experience) -> dict[str, Tensor]:
    """Return the metrics of each single reward."""
    values: dict[str, Tensor] = {}
    for name, part in experience.rewards.parts.items():
        scored = part[~part.isnan()]
        values[f"reward_{name}/mean"] = scored
        values[f"reward_{name}/win"] = (scored > 0).double()
        values[f"reward_{name}/missing"] = part.isnan().double()
        if name in experience.rewards.constraints:
            values[f"reward_{name}/violated"] = (scored < 0).double()
    return values


def _completion_numbers(experience: Experience) -> dict[str, Tensor]:
    samples = [sample for group in experience.groups for sample in group.samples]
    return {
        "completion/tokens": torch.tensor([len(sample.ids) for sample in samples], dtype=torch.float64),
        "completion/truncated": torch.tensor([sample.truncated for sample in samples], dtype=torch.float64),
        "completion/repeats": torch.tensor([_repeats(sample.ids) for sample in samples], dtype=torch.float64),
    }


def _repeats(ids: Sequence[int]) -> bool:
    """Whether most 4-grams of the answer are repetitions, as in `a b c a b c a b c a b c`."""
    runs = list(zip(ids, ids[1:], ids[2:], ids[3:], strict=False))
    return len(set(runs)) < len(runs) / 2


def _averages(values: Mapping[str, Tensor], totals: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Reduce over all processes at once: means of values, skipping NaN (NaN if all are), and sums of totals."""
    sums = [value.nan_to_num(0.0).sum().item() for value in values.values()]
    counts = [(~value.isnan()).sum().item() for value in values.values()]
    reduced = [*sums, *counts, *totals.values()]
    if accelerator.num_processes > 1:
        numbers = torch.tensor(reduced, dtype=torch.float32, device=accelerator.device)
        reduced = accelerator.reduce(numbers, reduction="sum").tolist()
    size = len(values)
    means = {
        name: reduced[index] / reduced[size + index] if reduced[size + index] else torch.nan
        for index, name in enumerate(values)
    }
    return {**means, **dict(zip(totals, reduced[2 * size :], strict=True))}


def _largest(values: Tensor, accelerator: Accelerator) -> float:
    """Return the largest positive value over all processes, NaN if there is none."""
    most = torch.cat([values.new_zeros(1), values.nan_to_num(0.0)]).max()
    return accelerator.gather(most).max().item() or torch.nan


def _shares(metrics: dict[str, float]) -> dict[str, float]:
    """Replace `x_size/a`, `x_size/b`, ... by `x_share/a`, ... that sum to 1 (all 0 if every size is 0)."""
    families = {name.split("_size/")[0] for name in metrics if "_size/" in name}
    for family in sorted(families):
        sizes = {name: metrics.pop(name) for name in list(metrics) if name.startswith(f"{family}_size/")}
        whole = sum(sizes.values())
        for name, size in sizes.items():
            metrics[name.replace("_size/", "_share/")] = size / whole if whole > 0 else 0.0
    return metrics


class Speedometer:
    """Counts a step's floating-point operations and compares their rate with matrix products on the same device.

    Args:
        model: the policy.
        accelerator: the trainer's accelerator.
        updates: gradient steps on each update.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, updates: int = 1) -> None:
        self._cost, self.updates = Cost.of(model), updates
        self._processes = accelerator.num_processes
        self._device, self._dtype = accelerator.device, half_precision(accelerator) or next(model.parameters()).dtype

    def operations(self, update: Update, passes: Sequence[Work] = ()) -> dict[str, float]:
        """Return operations of rollout and update on this process, and tokens passed without and with gradients.

        A prompt counts once per group. What activation checkpointing recomputes is not counted.

        Args:
            update: of the step.
            passes: the step's forward passes without gradients, of old, frozen and value models.
        """
        sampled = [(len(group.item.prompt_ids), group.tokens(Role.SAMPLE)) for group in update.experience.groups]
        trained = [
            (len(group.item.prompt_ids), [len(answer.ids) for answer in group.answers]) for group in update.batch.groups
        ]
        work, prefilled = Work.of(trained), sum(prompt for prompt, _ in sampled) * update.experience.sampled
        return {
            "tokens/forwarded": prefilled + sum(run.tokens for run in passes),
            "tokens/backwarded": self.updates * work.tokens,
            "flops/rollout": self._cost.forward(Work.of(sampled)) if update.experience.sampled else 0.0,
            "flops/update": self.updates * self._cost.update(work) + sum(map(self._cost.forward, passes)),
        }

    def metrics(self, step: Mapping[str, float]) -> dict[str, float]:
        """Return `speed/rollout` and `speed/update`, in tokens per second, and `speed/utilisation`.

        Utilisation is the rate of operations relative to that of large matrix products on the same number of devices.

        Args:
            step: metrics of the step, summed over all processes.
        """
        peak = matmul_peak(self._device, self._dtype) * self._processes
        operations = step["flops/rollout"] + step["flops/update"]
        rollout = step.get("seconds/rollout")
        return {
            **({"speed/rollout": step["tokens/sampled"] / rollout} if rollout else {}),
            "speed/update": step["tokens/trained"] / step["seconds/update"],
            "speed/utilisation": operations / (peak * step["seconds/step"]),
        }
