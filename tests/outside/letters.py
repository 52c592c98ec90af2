"""A reward source from outside the package: the share of letters that are vowels, against that of the reference."""

import torch


class Vowels:
    """R(o, y) = share of vowels in the answer less their share in the reference."""

    name = "vowels"

    def relative(self, batch) -> torch.Tensor:
        """(B, G)."""
        return torch.tensor(
            [
                [share(text) - share(reference) for text in group]
                for group, reference in zip(batch.completions, batch.references, strict=True)
            ],
            dtype=torch.float64,
        )


def share(text: str) -> float:
    """Of vowels among the characters."""
    return sum(letter in "aeiou" for letter in text) / max(len(text), 1)
