"""Sequences into micro-batches under a token budget. Deterministic, so that every process can plan alone."""

from collections.abc import Sequence


def plan_micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Groups sequences of similar length so that rows * longest row stays within the budget.

    Args:
        lengths: tokens of each sequence, prompt included.
        token_budget: upper bound on the padded tokens of a micro-batch; a single longer sequence goes alone.

    Returns:
        Indices into `lengths`, each exactly once, longest first. Ties keep their order.

    Raises:
        ValueError: if the budget is not positive.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
