"""A reward defined outside the package: the share of vowels, relative to that of the reference."""

import torch


class Vowels:
    """R(o, y) = share of vowels in the completion minus their share in the reference."""

    name = "vowels"

    def relative(self, batch) -> torch.Tensor:
        """Return R(o, y), (B, G)."""
        return torch.tensor(
            [
                [share(text) - share(reference) for text in group]
                for group, reference in zip(batch.completions, batch.references, strict=True)
            ],
            dtype=torch.float64,
        )


def share(text: str) -> float:
    """Return the share of vowels among the characters."""
    return sum(letter in "aeiou" for letter in text) / max(len(text), 1)
