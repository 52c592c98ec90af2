"""A sampling engine defined outside the package: transformers' `generate`, group by group, on a copy of the weights."""

import copy

import torch

from grao.types import Answer


class PlainEngine:
    """Returns all groups at once. It samples from a copy, like an engine on a server, and counts synchronisations."""

    def __init__(self, policy, stop_ids, pad_id, batch_size, alone) -> None:
        self.stop_ids, self.pad_id, self.synchronised = list(stop_ids), pad_id, 0
        self.sync(policy)

    def sync(self, policy) -> None:
        """Copy the current weights."""
        self.policy, self.synchronised = copy.deepcopy(policy).eval(), self.synchronised + 1

    def generate(self, prompts, keys, sampling) -> list[tuple[int, list[Answer]]]:
        """Sample all groups."""
        return [(index, self.group(*pair, sampling)) for index, pair in enumerate(zip(prompts, keys, strict=True))]

    def group(self, prompt, key: int, sampling) -> list[Answer]:
        """Sample the completions of one prompt, which depend on its key only."""
        sampled = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        ids = torch.tensor([list(prompt)] * sampling.samples, device=self.policy.device)
        with torch.random.fork_rng():  # leave the global random state alone
            torch.manual_seed(key % 2**63)
            rows = self.policy.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=sampling.max_new_tokens,
                eos_token_id=self.stop_ids, pad_token_id=self.pad_id,
                **(sampled if sampling.temperature else {"do_sample": False}),
            )  # fmt: skip
        return [self.answer(row[len(prompt) :].tolist()) for row in rows]

    def answer(self, ids: list[int]) -> Answer:
        """Cut the ids after the first end token."""
        ends = [position for position, token in enumerate(ids) if token in self.stop_ids]
        return Answer(tuple(ids[: ends[0] + 1] if ends else ids), truncated=not ends)
