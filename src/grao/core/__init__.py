"""The paper's update: rewards -> advantages -> sequence weights -> loss. Imports torch and nothing else.

Axes: B prompts, G samples per group, S sequences, T tokens, V vocabulary.
"""

from grao.core.advantages import Advantages, group_advantages, spread
from grao.core.objective import (
    ObjectiveTerms,
    SequenceWeights,
    objective_terms,
    sequence_weights,
    weighted_likelihood_loss,
)
from grao.core.other_advantages import ADVANTAGES
from grao.core.ties import merge_ties, rounding

__all__ = [
    "ADVANTAGES",
    "Advantages",
    "ObjectiveTerms",
    "SequenceWeights",
    "group_advantages",
    "merge_ties",
    "objective_terms",
    "rounding",
    "sequence_weights",
    "spread",
    "weighted_likelihood_loss",
]
