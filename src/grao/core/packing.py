"""Sequences into micro-batches under a token budget. Deterministic, so that every process can plan alone."""

from collections.abc import Sequence

Plan = list[list[int]]
"""Micro-batches as indices of sequences, each exactly once."""


def plan_padded(
    prompts: Sequence[int], answers: Sequence[int], token_budget: int, groups: Sequence[int] | None = None
) -> Plan:
    """Sequences of similar length together: rows times longest row stay within the budget.

    Args:
        prompts: tokens of each sequence's prompt.
        answers: tokens of each sequence's answer.
        token_budget: upper bound on the padded tokens of a micro-batch; what is longer goes alone.
        groups: where given, sequences of one group stay together.
    """
    _check(token_budget)
    lengths = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    blocks: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        blocks.setdefault(index if groups is None else groups[index], []).append(index)
    plan: Plan = []
    for block in blocks.values():
        if plan and (len(plan[-1]) + len(block)) * lengths[plan[-1][0]] <= token_budget:
            plan[-1] += block
        else:
            plan.append(list(block))
    return plan


def plan_packed(
    prompts: Sequence[int],
    answers: Sequence[int],
    groups: Sequence[int],
    token_budget: int,
    whole_groups: bool = False,
) -> Plan:
    """Groups together, their prompt counted once: the tokens of a row stay within the budget.

    A group that is too long for a row goes on in the next one, where its prompt stands again; with `whole_groups` it
    begins a row of its own instead, however long that gets.

    Args:
        prompts: tokens of each sequence's prompt.
        answers: tokens of each sequence's answer.
        groups: which group each sequence belongs to; sequences of a group have the same prompt.
        token_budget: upper bound on the tokens of a row; a single longer sequence goes alone.
    """
    _check(token_budget)
    sizes: dict[int, int] = {}
    for prompt, answer, group in zip(prompts, answers, groups, strict=True):
        sizes[group] = sizes.get(group, prompt) + answer
    plan: Plan = []
    used = 0
    for index in sorted(range(len(prompts)), key=lambda index: (-sizes[groups[index]], groups[index], -answers[index])):
        known = bool(plan) and groups[plan[-1][-1]] == groups[index]  # the prompt stands in the row already
        more = answers[index] + (0 if known else prompts[index])
        ahead = sizes[groups[index]] if whole_groups else more
        if plan and (used + ahead <= token_budget or (whole_groups and known)):
            plan[-1].append(index)
            used += more
        else:
            plan.append([index])
            used = prompts[index] + answers[index]
    return plan


def _check(token_budget: int) -> None:
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
