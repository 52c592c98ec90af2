"""Sequences into micro-batches under a token budget. Deterministic, so that every process can plan alone."""

from collections.abc import Callable, Sequence

Plan = list[list[int]]
"""Micro-batches as indices of sequences, each exactly once."""


def plan_padded(prompts: Sequence[int], answers: Sequence[int], token_budget: int) -> Plan:
    """Sequences of similar length together: rows times longest row stay within the budget.

    Args:
        prompts: tokens of each sequence's prompt.
        answers: tokens of each sequence's answer.
        token_budget: upper bound on the padded tokens of a micro-batch; a single longer sequence goes alone.
    """
    lengths = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return _fill(order, token_budget, lambda batch, index: (len(batch) + 1) * lengths[(batch or [index])[0]])


def plan_packed(prompts: Sequence[int], answers: Sequence[int], groups: Sequence[int], token_budget: int) -> Plan:
    """Groups together, their prompt counted once: the tokens of a row stay within the budget.

    A group that is too long for a row goes on in the next one, where its prompt stands again.

    Args:
        prompts: tokens of each sequence's prompt.
        answers: tokens of each sequence's answer.
        groups: which group each sequence belongs to; sequences of a group have the same prompt.
        token_budget: upper bound on the tokens of a row; a single longer sequence goes alone.
    """
    sizes: dict[int, int] = {}
    for prompt, answer, group in zip(prompts, answers, groups, strict=True):
        sizes[group] = sizes.get(group, prompt) + answer
    order = sorted(range(len(prompts)), key=lambda index: (-sizes[groups[index]], groups[index], -answers[index]))

    def cost(batch: list[int], index: int) -> int:
        heads = {groups[member]: prompts[member] for member in (*batch, index)}
        return sum(heads.values()) + sum(answers[member] for member in (*batch, index))

    return _fill(order, token_budget, cost)


def _fill(order: Sequence[int], token_budget: int, cost: Callable[[list[int], int], int]) -> Plan:
    """Next fit: an index goes to the last micro-batch while its cost with it stays within the budget."""
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    plan: Plan = []
    for index in order:
        if plan and cost(plan[-1], index) <= token_budget:
            plan[-1].append(index)
        else:
            plan.append([index])
    return plan
