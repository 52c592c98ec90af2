"""What the training of a study's run is rewarded with: counted, and with errors made on purpose where it says so.

Which rewards and references are wrong depends on (seed, text) alone, so a wrong one is wrong each time it is met, as
with a learned reward or a mislabelled pair.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from grao.data import Example
from grao.rewards import Mix, MixedRewards, Objective, RewardBatch


class StudyMix(Mix):
    """Counts the rewards that are asked for, and turns a share of them around.

    Args:
        objectives: of the mix.
        wrong: share of answers whose R(o, y) changes its sign.
        seed: another seed, other answers.
    """

    def __init__(self, objectives: Sequence[Objective], wrong: float = 0.0, seed: int = 0) -> None:
        super().__init__(objectives)
        self.calls, self.wrong, self.seed = 0, wrong, seed

    def __call__(self, batch: RewardBatch) -> MixedRewards:
        """As any mix."""
        self.calls += sum(map(len, batch.completions))
        rewards = super().__call__(batch)
        if not self.wrong:
            return rewards
        pairs = zip(batch.prompts, batch.completions, strict=True)
        signs = [[1 - 2 * chosen(self.wrong, self.seed, prompt, text) for text in group] for prompt, group in pairs]
        return replace(rewards, total=rewards.total * torch.tensor(signs, dtype=rewards.total.dtype))


def exchanged(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """The examples, a share of them with reference and rejected answer exchanged; those without one stay."""
    return [
        replace(one, reference=one.rejected, rejected=one.reference)
        if one.rejected and chosen(share, seed, one.id)
        else one
        for one in examples
    ]


def chosen(share: float, *parts: object) -> bool:
    """True for a share of all parts, always the same ones."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64
