"""How well scores tell the better answer of a pair from the worse, and how far that is a matter of length."""

from collections.abc import Sequence

from scipy.stats import spearmanr

from grao.evaluation.intervals import proportion
from grao.records.reward_model import PairScores


def pair_scores(
    better: Sequence[float],
    worse: Sequence[float],
    better_tokens: Sequence[int],
    worse_tokens: Sequence[int],
    confidence: float = 0.95,
) -> PairScores:
    """Accuracy with its score interval over N pairs, which count as independent.

    Args:
        better: N scores of the better answers.
        worse: N scores of the worse ones.
        better_tokens: N lengths.
        worse_tokens: N lengths.
        confidence: nominal coverage of the intervals.
    """
    margins = [one - other for one, other in zip(better, worse, strict=True)]
    lengths = [one - other for one, other in zip(better_tokens, worse_tokens, strict=True)]
    n = len(margins)
    constant = len(set(margins)) < 2 or len(set(lengths)) < 2
    return PairScores(
        accuracy=proportion(sum(margin > 0 for margin in margins), n, confidence),
        ties=sum(margin == 0 for margin in margins),
        mean_margin=sum(margins) / n,
        longer=proportion(sum(length > 0 for length in lengths), n, confidence),
        length_correlation=None if constant else float(spearmanr(margins, lengths).statistic),
    )
