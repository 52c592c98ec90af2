"""The paper, on one screen: rewards -> advantages -> weights -> loss. Imports torch and nothing else.

Axes: B prompts, G samples per group, S sequences, T tokens, V vocabulary.
"""

from grao.core.advantages import Advantages, group_advantages
from grao.core.objective import (
    ObjectiveTerms,
    SequenceWeights,
    objective_terms,
    sequence_weights,
    weighted_likelihood_loss,
)
from grao.core.other_advantages import ADVANTAGES

__all__ = [
    "ADVANTAGES",
    "Advantages",
    "ObjectiveTerms",
    "SequenceWeights",
    "group_advantages",
    "objective_terms",
    "sequence_weights",
    "weighted_likelihood_loss",
]
