"""The numbers of one step: means over all prompts of all processes, named as in `metrics.jsonl`, and its speed."""

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
"""Ends of what is counted of judges: over several steps it is a sum."""
_TRAINERS = {"step", "seconds", "loss", "grad_norm", "learning_rate", "epoch", "bad_steps"}
"""What each line of `metrics.jsonl` holds beside `step_metrics`."""


def step_metrics(
    update: Update, seen: StepOutput, method: Method, accelerator: Accelerator, more: Mapping[str, Tensor | float]
) -> dict[str, float]:
    """Everything that is logged of a step, but for gradient norm, learning rate, loss and speed.

    A mean is taken over what there is: verdicts over scored samples, advantages over groups that have one,
    entropy over the samples that were forwarded. Of `more`, tensors are averaged and numbers summed.
    """
    experience = update.experience
    more = {**more, **judge_numbers(experience.rewards.tallies)}
    values = {
        **({**_reward_numbers(experience), **_completion_numbers(experience)} if experience.sampled else {}),
        "reference/tokens": torch.tensor([float(len(group.item.reference_ids)) for group in experience.groups]),
        **{name: number for name, number in more.items() if isinstance(number, Tensor)},
        **method.report(experience.weighted, update.per_answer(seen.loglik)),
        **{name: seen.numbers.get(name, torch.zeros(0)).cpu() for name in _names(seen.numbers, accelerator)},
    }
    main = Role.SAMPLE if experience.sampled else Role.REFERENCE
    shown = torch.tensor([answer.role is main for answer in update.batch.answers], dtype=torch.bool)
    values["entropy"] = seen.entropy.cpu()[shown]
    if experience.sampled:
        values |= {"sampler/gap": seen.sampler.absolute.cpu(), "sampler/kl": seen.sampler.kl.cpu()}
    if seen.kl is not None:
        values["kl"] = seen.kl.cpu()[shown]
    totals = {
        "tokens/sampled": sum(sum(group.tokens(Role.SAMPLE)) for group in experience.groups),
        "tokens/trained": seen.tokens,
        **(_drawn(experience) if method.needs.resample else {}),
        **{name: number for name, number in more.items() if not isinstance(number, Tensor)},
        **({} if seen.balance is None else {"router_loss": seen.balance.item()}),
    }
    largest = {"sampler/ratio": _largest(seen.sampler.ratio, accelerator)} if experience.sampled else {}
    return _shares(_averages(values, totals, accelerator)) | largest | dict(seen.experts)


def add_logged(
    metrics: dict[str, float], logged: Mapping[str, Sequence[float]], accelerator: Accelerator
) -> dict[str, float]:
    """The metrics of a step with what reward functions logged beside them, averaged over all processes.

    Raises:
        InputError: if a function took a name of ours.
    """
    names = _names(logged, accelerator)
    if taken := sorted({*metrics, *_TRAINERS}.intersection(names)):
        raise InputError(f"log_metric: metrics.jsonl has a {taken[0]!r} of its own; log yours under another name")
    values = {name: torch.tensor(logged.get(name, []), dtype=torch.float64) for name in names}
    return metrics | (_averages(values, {}, accelerator) if values else {})


def _names(mine: Iterable[str], accelerator: Accelerator) -> list[str]:
    """The names that any process has, in the same order on all: one whose groups teach nothing has none."""
    return sorted(set(gather_object(list(mine)))) if accelerator.num_processes > 1 else list(mine)


def judge_numbers(tallies: Tallies, remark: str = "") -> dict[str, Tensor | float]:
    """What asking the judges took: tensors to be averaged, numbers to be summed; a remark follows each judge's name."""
    return {f"judge_{name}{remark}/{what}": number for name, tally in tallies.items() for what, number in tally.items()}


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
    """How many groups were drawn to fill the step, and how many of them teach nothing."""
    silent = [not any(row) for row in experience.weighted.weights.rows()]
    return {"groups/drawn": len(silent), "groups/silent": sum(silent)}


def _part_numbers(experience: Experience) -> dict[str, Tensor]:
    """Of each reward by itself, whatever the others say."""
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
    """Whether most runs of four tokens stood in the answer before. Example: `a b c a b c a b c a b c` does."""
    runs = list(zip(ids, ids[1:], ids[2:], ids[3:], strict=False))
    return len(set(runs)) < len(runs) / 2


def _averages(values: Mapping[str, Tensor], totals: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Means of what is not NaN, and sums, over all processes in one exchange; NaN where nothing was seen."""
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
    """The largest of values above 0 that are not NaN, over all processes; NaN where there is none."""
    most = torch.cat([values.new_zeros(1), values.nan_to_num(0.0)]).max()
    return accelerator.gather(most).max().item() or torch.nan


def _shares(metrics: dict[str, float]) -> dict[str, float]:
    """`x_size/a`, `x_size/b`, ... -> `x_share/a`, ... that sum to 1 (all 0 where every size is 0)."""
    families = {name.split("_size/")[0] for name in metrics if "_size/" in name}
    for family in sorted(families):
        sizes = {name: metrics.pop(name) for name in list(metrics) if name.startswith(f"{family}_size/")}
        whole = sum(sizes.values())
        for name, size in sizes.items():
            metrics[name.replace("_size/", "_share/")] = size / whole if whole > 0 else 0.0
    return metrics


class Speedometer:
    """Counts a step's floating-point operations and sets them against a matrix product on the same device.

    Args:
        model: the policy.
        accelerator: of the trainer.
        updates: gradients of each update.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, updates: int = 1) -> None:
        self._cost, self.updates = Cost.of(model), updates
        self._processes = accelerator.num_processes
        self._device, self._dtype = accelerator.device, half_precision(accelerator) or next(model.parameters()).dtype

    def operations(self, update: Update, passes: Sequence[Work] = ()) -> dict[str, float]:
        """Needed for the rollout and for the update, on this process; what activation checkpointing repeats is not.

        Also the tokens that go through the model without and with a gradient, a prompt once a group.

        Args:
            update: of the step.
            passes: forward passes without a gradient over its answers.
        """
        sampled = [(len(group.item.prompt_ids), group.tokens(Role.SAMPLE)) for group in update.experience.groups]
        trained = [
            (len(group.item.prompt_ids), [len(answer.ids) for answer in group.answers]) for group in update.batch.groups
        ]
        work, prefilled = Work.of(trained), sum(prompt for prompt, _ in sampled) * update.experience.sampled
        return {
            "tokens/forwarded": prefilled + sum(seen.tokens for seen in passes),
            "tokens/backwarded": self.updates * work.tokens,
            "flops/rollout": self._cost.forward(Work.of(sampled)) if update.experience.sampled else 0.0,
            "flops/update": self.updates * self._cost.update(work) + sum(map(self._cost.forward, passes)),
        }

    def metrics(self, step: Mapping[str, float]) -> dict[str, float]:
        """From a step's tokens and operations of all processes, and its seconds.

        `speed/utilisation` is the share of the operations that as many devices do in the same time when all they do is
        multiply large matrices; `speed/rollout` and `speed/update` are tokens per second.
        """
        peak = matmul_peak(self._device, self._dtype) * self._processes
        operations = step["flops/rollout"] + step["flops/update"]
        rollout = step.get("seconds/rollout")
        return {
            **({"speed/rollout": step["tokens/sampled"] / rollout} if rollout else {}),
            "speed/update": step["tokens/trained"] / step["seconds/update"],
            "speed/utilisation": operations / (peak * step["seconds/step"]),
        }
