"""The numbers of one step: means over all prompts of all processes, named as in `metrics.jsonl`."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from grao.methods import Method, Role
from grao.training.accumulate import Seen
from grao.training.experience import Experience, Update

Tallies = Mapping[str, Mapping[str, Tensor | float]]


def step_metrics(
    update: Update, seen: Seen, method: Method, accelerator: Accelerator, more: Mapping[str, Tensor | float]
) -> dict[str, float]:
    """Everything that is logged of a step, but for gradient norm, learning rate, loss and speed.

    A mean is taken over what there is: verdicts over scored samples, advantages over groups that have one,
    entropy over the samples that were forwarded. Of `more`, tensors are averaged and numbers summed.
    """
    experience = update.experience
    more = {**more, **judge_numbers(experience.rewards.tallies)}
    loglik = _table(update, seen.loglik)
    values = {
        **(_sample_numbers(experience) if experience.sampled else {}),
        "reference/tokens": torch.tensor([float(len(group.item.reference_ids)) for group in experience.groups]),
        **{name: number for name, number in more.items() if isinstance(number, Tensor)},
        **method.report(experience.weighted, loglik[:, :-2], loglik[:, -2]),
        **{name: number.cpu() for name, number in seen.numbers.items()},
    }
    shown = update.roles == (Role.SAMPLE if experience.sampled else Role.REFERENCE)
    values["entropy"] = seen.entropy.cpu()[shown]
    if seen.kl is not None:
        values["kl"] = seen.kl.cpu()[shown]
    totals = {
        "tokens/sampled": sum(len(c.token_ids) for group in experience.groups for c in group.completions),
        "tokens/trained": seen.tokens,
        **{name: number for name, number in more.items() if not isinstance(number, Tensor)},
        **({} if seen.balance is None else {"router_loss": seen.balance.item()}),
    }
    return _shares(_averages(values, totals, accelerator))


def judge_numbers(tallies: Tallies, remark: str = "") -> dict[str, Tensor | float]:
    """What asking the judges took: tensors to be averaged, numbers to be summed; a remark follows each judge's name."""
    return {f"judge_{name}{remark}/{what}": number for name, tally in tallies.items() for what, number in tally.items()}


def _table(update: Update, values: Tensor) -> Tensor:
    """(S,) -> (B, G + 2) by place, 0 where nothing was forwarded."""
    table = torch.zeros_like(update.experience.weighted.weights, dtype=torch.float64)
    for (group, member), value in zip(update.places, values.tolist(), strict=True):
        table[group, member] = value
    return table


def _sample_numbers(experience: Experience) -> dict[str, Tensor]:
    return {**_reward_numbers(experience), **_completion_numbers(experience)}


def _reward_numbers(experience: Experience) -> dict[str, Tensor]:
    total = experience.rewards.total
    scored = total[~total.isnan()]
    return {
        "reward/mean": scored,
        "reward/std": (total - total.nanmean(dim=1, keepdim=True)).square().nanmean(dim=1).sqrt(),
        "reward/missing": total.isnan().double(),
        "verdict/win": (scored > 0).double(),
        "verdict/tie": (scored == 0).double(),
        "verdict/loss": (scored < 0).double(),
        **_part_numbers(experience),
    }


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
    completions = [completion for group in experience.groups for completion in group.completions]
    return {
        "completion/tokens": torch.tensor([len(c.token_ids) for c in completions], dtype=torch.float64),
        "completion/truncated": torch.tensor([c.truncated for c in completions], dtype=torch.float64),
    }


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
        name: reduced[place] / reduced[size + place] if reduced[size + place] else torch.nan
        for place, name in enumerate(values)
    }
    return {**means, **dict(zip(totals, reduced[2 * size :], strict=True))}


def _shares(metrics: dict[str, float]) -> dict[str, float]:
    """`x_size/a`, `x_size/b`, ... -> `x_share/a`, ... that sum to 1 (all 0 where every size is 0)."""
    families = {name.split("_size/")[0] for name in metrics if "_size/" in name}
    for family in sorted(families):
        sizes = {name: metrics.pop(name) for name in list(metrics) if name.startswith(f"{family}_size/")}
        whole = sum(sizes.values())
        for name, size in sizes.items():
            metrics[name.replace("_size/", "_share/")] = size / whole if whole > 0 else 0.0
    return metrics
