"""Held-out prompts answered and judged, and the numbers of `evaluation.json` from the verdicts: RAS, NAG and gains.

Definitions: method page, section 5. Every number is a pure function of the verdicts, one per prompt, so that
`evaluation_from_items` recomputes the whole file from `items.jsonl`. A verdict that is None or not finite is
missing: it is counted, never read as a tie, and its prompt is left out of the estimate.

The record of a study's run keeps verdicts as letters (`letters`, `verdicts`, `wins`); the accuracy of a reward model on
pairs is `pair_scores`.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import PreTrainedTokenizerBase

from grao.core import merge_ties, rounding
from grao.errors import InputError
from grao.evaluation.inference import half_tie_share, net_share, proportion, relative_gain
from grao.groups import reward_groups, sample_groups
from grao.records.run import Evaluation, Gain, Item, PairScores, RecordedAnswer, Scores
from grao.records.study import Letters
from grao.rewards.base import RewardBatch
from grao.rewards.mix import Mix, MixedRewards, check_heard
from grao.rollouts.base import Generator, Sampling, draw_key
from grao.types import Encoded, Example

TextAndIds = tuple[str, Sequence[int]]
"""A text and its token ids."""
_CHUNK = 64
"""Prompts between two signs of progress."""
_VALUES = {"w": 1.0, "t": 0.0, "l": -1.0, "-": math.nan}


def answer_items(
    items: Sequence[Encoded],
    generator: Generator,
    rewards: Mix,
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[RecordedAnswer]:
    """One answer to each prompt, judged against its reference.

    The draws depend on (seed, prompt) only: two models are compared on the same random numbers.

    Args:
        items: held-out prompts.
        generator: samples from the model under test.
        rewards: the judge.
        sampling: how answers are drawn; `samples` must be 1.
        tokenizer: the model's.
        seed: of the draws.
        progress: called with prompts done and in all.
    """
    answers: list[RecordedAnswer] = []
    asked: list[MixedRewards] = []
    for start in range(0, len(items), _CHUNK):
        chunk = items[start : start + _CHUNK]
        keys = [draw_key(seed, "evaluate", item.example.id) for item in chunk]
        groups = sample_groups(chunk, keys, generator, sampling, tokenizer)
        asked.append(reward_groups(groups, rewards))
        rewarded = missing_as_none(asked[-1].total.squeeze(1).tolist())
        for group, reward in zip(groups, rewarded, strict=True):
            (sample,) = group.samples
            answers.append(RecordedAnswer(sample.text, len(sample.ids), sample.truncated, reward, list(sample.ids)))
        progress(len(answers), len(items))
    check_heard(asked)
    return answers


def compare_answers(
    items: Sequence[Encoded], model: Sequence[RecordedAnswer], baseline: Sequence[RecordedAnswer], rewards: Mix
) -> list[float | None]:
    """R of one model's answers against another's to the same prompts, None where it is missing."""
    said, before = ([(answer.text, answer.token_ids) for answer in answers] for answers in (model, baseline))
    examples = [item.example for item in items]
    mixed = rewards(single_batch(examples, said, before))
    check_heard([mixed])
    return missing_as_none(mixed.total.squeeze(1).tolist())


def make_items(encoded: Sequence[Encoded], answers: dict[str, list[RecordedAnswer]], rewards: Mix) -> list[Item]:
    """The records of an evaluation; every later model is also compared with the first one."""
    first, *others = answers
    compared = {f"{name}|{first}": compare_answers(encoded, answers[name], answers[first], rewards) for name in others}
    items = []
    for index, item in enumerate(encoded):
        given = {name: said[index] for name, said in answers.items()}
        comparisons = {pair: rewarded[index] for pair, rewarded in compared.items()}
        items.append(Item(item.example.id, item.prompt_text, item.reference_text, given, comparisons))
    return items


def single_batch(
    examples: Sequence[Example], answers: Sequence[TextAndIds], references: Sequence[TextAndIds]
) -> RewardBatch:
    """Groups of one answer each, as rewards see them."""
    return RewardBatch(
        prompts=[example.prompt for example in examples],
        completions=[[text] for text, _ in answers],
        references=[text for text, _ in references],
        columns=[example.columns for example in examples],
        completion_ids=[[ids] for _, ids in answers],
        reference_ids=[ids for _, ids in references],
    )


def missing_as_none(rewards: Sequence[float]) -> list[float | None]:
    """The rewards with None for NaN, as records keep them."""
    return [None if math.isnan(reward) else reward for reward in rewards]


def scores(
    rewards: Sequence[float | None],
    tokens: Sequence[int],
    truncated: Sequence[bool],
    confidence: float = 0.95,
    model: str = "the model",
) -> Scores:
    """One model against the references.

    Args:
        rewards: R(o, y), one per prompt: above 0 wins, 0 ties, below 0 loses, None is missing.
        tokens: lengths of the same answers.
        truncated: whether each was cut at the token limit.
        confidence: nominal coverage of the intervals.
        model: its name, for the error message.

    Raises:
        InputError: if every verdict is missing.
    """
    known = _known(rewards, f"verdicts on {model!r} against the references")
    won, tied, n = sum(reward > 0 for reward in known), known.count(0), len(known)
    return Scores(
        ras=proportion(won, n, confidence),
        ras_win_or_tie=proportion(won + tied, n, confidence),
        ras_half_tie=half_tie_share(won, tied, n, confidence),
        missing=len(rewards) - n,
        mean_reward=math.fsum(known) / n,
        mean_tokens=sum(tokens) / len(tokens),
        truncated=sum(truncated) / len(truncated),
    )


def gain(
    model: str,
    baseline: str,
    comparisons: Sequence[float | None],
    model_rewards: Sequence[float | None],
    baseline_rewards: Sequence[float | None],
    confidence: float = 0.95,
) -> Gain:
    """One model against another on the same prompts.

    Args:
        model: name of the model that may have gained, such as `after`.
        baseline: name of the one it is compared with, such as `before`.
        comparisons: R of the model's answer against the baseline's, one per prompt.
        model_rewards: R of the model's answers against the references, same prompts in the same order.
        baseline_rewards: R of the baseline's answers against the references.
        confidence: nominal coverage of the intervals.

    Raises:
        InputError: if every comparison is missing.
    """
    known = _known(comparisons, f"comparisons of {model!r} with {baseline!r}")
    won, lost, n = sum(reward > 0 for reward in known), sum(reward < 0 for reward in known), len(known)
    both = np.array([model_rewards, baseline_rewards], dtype=float)
    paired = Counter(zip(*(both[:, np.isfinite(both).all(axis=0)] > 0).tolist(), strict=True))
    table = paired[True, True], paired[True, False], paired[False, True], paired[False, False]
    nag, nag_win = net_share(won, lost, n, confidence), proportion(won, n, confidence)
    relative_ras = relative_gain(*table, confidence) if paired else None
    return Gain(model, baseline, nag, nag_win, relative_ras, missing=len(comparisons) - n)


def evaluation_from_items(items: Sequence[Item], confidence: float = 0.95) -> Evaluation:
    """All numbers of `evaluation.json` from the lines of `items.jsonl`; models in the order of the first item.

    Raises:
        InputError: if there are no items, if an item names other models or comparisons than the first one, or if
            every verdict on a model, or every comparison of two models, is missing.
    """
    if not items:
        raise InputError("items.jsonl: no prompts in it, so there is nothing to evaluate; run the evaluation first")
    names, pairs = list(items[0].answers), list(items[0].comparisons)
    for row, item in enumerate(items, start=1):
        for field, expected, actual in (("answers", names, item.answers), ("comparisons", pairs, item.comparisons)):
            if set(expected) != set(actual):
                first, here = ", ".join(expected) or "none", ", ".join(actual) or "none"
                raise InputError(
                    f"items.jsonl: row {row} (id {item.id!r}): {field}: found {here}, but row 1 has {first}; "
                    "evaluate again"
                )

    answers = {name: [item.answers[name] for item in items] for name in names}
    rewards = {name: [answer.reward for answer in given] for name, given in answers.items()}
    gains = []
    for pair in pairs:
        model, _, baseline = pair.partition("|")
        if model not in rewards or baseline not in rewards:
            known = ", ".join(names)
            raise InputError(f"items.jsonl: comparisons: {pair!r} is not 'model|baseline' with models among: {known}")
        compared = [item.comparisons[pair] for item in items]
        gains.append(gain(model, baseline, compared, rewards[model], rewards[baseline], confidence))
    models = {}
    for name, given in answers.items():
        tokens, truncated = [each.tokens for each in given], [each.truncated for each in given]
        models[name] = scores(rewards[name], tokens, truncated, confidence, name)
    return Evaluation(confidence, len(items), models, gains)


def letters(rewards: Sequence[float | None]) -> Letters:
    """One letter a prompt.

    Example: 0.3, 0, None, -2 is `wt-l`.
    """
    return "".join(
        "-" if reward is None or math.isnan(reward) else "w" if reward > 0 else "l" if reward < 0 else "t"
        for reward in rewards
    )


def verdicts(outcomes: Letters) -> np.ndarray:
    """(N,): 1 won, 0 tied, -1 lost, NaN missing."""
    return np.array([_VALUES[letter] for letter in outcomes])


def wins(outcomes: Letters) -> np.ndarray:
    """(N,): 1 a strict win, 0 none, NaN missing."""
    values = verdicts(outcomes)
    return np.where(np.isnan(values), values, values > 0)


def win_share(rewards: Sequence[float | None]) -> float:
    """RAS: strict wins over all verdicts there are.

    Raises:
        InputError: if there is none.
    """
    known = [reward for reward in rewards if reward is not None]
    if not known:
        raise InputError(f"all {len(rewards)} verdicts on the held-out prompts are missing; check the reward")
    return sum(reward > 0 for reward in known) / len(known)


def pair_scores(
    better: Sequence[float],
    worse: Sequence[float],
    better_tokens: Sequence[int],
    worse_tokens: Sequence[int],
    confidence: float = 0.95,
) -> PairScores:
    """How well scores tell the better answer of a pair from the worse, and how far that is a matter of length.

    Scores that differ by rounding are a tie.

    Args:
        better: N scores of the better answers; the N pairs count as independent.
        worse: N scores of the worse ones.
        better_tokens: N lengths.
        worse_tokens: N lengths.
        confidence: nominal coverage of the intervals.
    """
    pairs = torch.tensor([better, worse], dtype=torch.float64).T
    margins = merge_ties(pairs, rounding(pairs)).diff(dim=1).neg().squeeze(1).tolist()
    lengths = [first - second for first, second in zip(better_tokens, worse_tokens, strict=True)]
    n = len(margins)
    accuracy = proportion(sum(margin > 0 for margin in margins), n, confidence)
    longer = proportion(sum(length > 0 for length in lengths), n, confidence)
    constant = len(set(margins)) < 2 or len(set(lengths)) < 2
    correlation = None if constant else float(spearmanr(margins, lengths).statistic)
    return PairScores(accuracy, margins.count(0), sum(margins) / n, longer, correlation)


def _known(rewards: Sequence[float | None], what: str) -> list[float]:
    """Verdicts that are not missing, at least one."""
    known = [reward for reward in rewards if reward is not None and math.isfinite(reward)]
    if not known:
        raise InputError(
            f"all {len(rewards)} {what} are missing, so nothing can be estimated; check the reward and evaluate again"
        )
    return known
