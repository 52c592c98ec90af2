"""The numbers of `evaluation.json`, computed from its items: RAS, NAG, gains, tests and the ranking.

`docs/method.md`, "What is measured", defines the metrics. `evaluation_from_items` computes every number but those in
`checks` from the lines of `items.jsonl` and the judge's error rate alone. A verdict that is None or not finite is
missing: it is reported in `missing`, never treated as a tie, and excluded from the estimates. If a prompt occurs
several times, its verdicts are correlated; intervals and tests then cluster by prompt (`clusters.py`).

The records of a study store verdicts as letters (`letters`, `verdicts`, `wins`). `pair_scores` is the accuracy of a
reward model on pairs.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from scipy.stats import spearmanr

from grao.core import merge_ties, rounding
from grao.errors import InputError
from grao.evaluation.clusters import NET, SHARE, by_prompt, effective, over_prompts
from grao.evaluation.inference import (
    half_tie_share,
    holm,
    mcnemar,
    mean,
    net_share,
    proportion,
    relative_gain,
    sign_flip,
)
from grao.evaluation.regression import REFERENCE, corrected, detectable, length_controlled, ranking
from grao.evaluation.texts import mean_repetition
from grao.records.numbers import Estimate
from grao.records.reward_model import PairScores
from grao.records.run import Evaluation, Gain, Item, RecordedAnswer, Scores
from grao.records.study import Letters

_VALUES = {"w": 1.0, "t": 0.0, "l": -1.0, "-": math.nan}


def scores(
    answers: Sequence[RecordedAnswer],
    references: Sequence[str],
    prompts: Sequence[Hashable],
    confidence: float = 0.95,
    model: str = "the model",
    error: Estimate | None = None,
) -> Scores:
    """Compare the answers of one model with the references.

    Args:
        answers: N answers with their verdicts: R(o, y) above 0 wins, 0 ties, below 0 loses, None is missing.
        references: N reference texts.
        prompts: N keys; answers to the same prompt have equal keys.
        confidence: nominal coverage of the intervals.
        model: name of the model, for the error message.
        error: error rate of the judge's verdicts, below one half.

    Returns:
        Shares of wins and ties, net share, lengths and tests, with their intervals.

    Raises:
        InputError: if every verdict is missing.
    """
    rewards = [answer.reward for answer in answers]
    known, table = _known(rewards, prompts, f"verdicts on {model!r} against the references")
    net, half = _net(table, confidence), _half_ties(table, confidence)
    lengths = [(len(answer.text), len(reference)) for answer, reference in zip(answers, references, strict=True)]
    kls = [answer.kl for answer in answers if answer.kl is not None]
    return Scores(
        ras=_share(_at_least(table, 1), confidence),
        ras_win_or_tie=_share(_at_least(table, 0), confidence),
        ras_half_tie=half,
        missing=len(rewards) - len(known),
        mean_reward=math.fsum(known) / len(known),
        mean_tokens=sum(answer.tokens for answer in answers) / len(answers),
        truncated=sum(answer.truncated for answer in answers) / len(answers),
        net=net,
        p=_test(table),
        detectable=_detectable(table, confidence),
        length_controlled=length_controlled(rewards, lengths, prompts, confidence),
        by_reward=_by_reward(answers, prompts, confidence),
        corrected=corrected(half, error) if error else None,
        repetition=mean_repetition([answer.text for answer in answers]),
        kl=mean(kls, confidence) if kls else None,
    )


def _by_reward(
    answers: Sequence[RecordedAnswer], prompts: Sequence[Hashable], confidence: float
) -> dict[str, Estimate]:
    """Wins plus half of the ties according to each of several rewards; empty for a single reward."""
    verdicts: dict[str, tuple[list[float], list[Hashable]]] = {}
    for answer, prompt in zip(answers, prompts, strict=True):
        for said in answer.said if len(answer.said) > 1 else ():
            if said.value is not None:
                signs, keys = verdicts.setdefault(said.reward, ([], []))
                signs.append(float(np.sign(said.value)))
                keys.append(prompt)
    return {name: _half_ties(by_prompt(*columns), confidence) for name, columns in verdicts.items()}


def gain(
    model: str,
    baseline: str,
    comparisons: Sequence[float | None],
    model_rewards: Sequence[float | None],
    baseline_rewards: Sequence[float | None],
    confidence: float = 0.95,
    prompts: Sequence[Hashable] | None = None,
) -> Gain:
    """Compare one model with another on the same prompts.

    Args:
        model: name of the first model, such as `after`.
        baseline: name of the model that it is compared with, such as `before`.
        comparisons: N, R of the model's answer against the baseline's.
        model_rewards: N, R of the model's answers against the references, in the same order.
        baseline_rewards: N, R of the baseline's answers against the references.
        confidence: nominal coverage of the intervals.
        prompts: N keys; answers to the same prompt have equal keys. By default all prompts differ.

    Returns:
        NAG, relative RAS gain and test, with their intervals.

    Raises:
        InputError: if every comparison is missing.
    """
    prompts = range(len(comparisons)) if prompts is None else prompts
    known, table = _known(comparisons, prompts, f"comparisons of {model!r} with {baseline!r}")
    rewards = np.array([model_rewards, baseline_rewards], dtype=float)
    judged = np.isfinite(rewards).all(axis=0).nonzero()[0].tolist()
    won, scale = rewards[:, judged] > 0, 1.0
    if judged:
        differences = by_prompt((won[0] * 1.0 - won[1]).tolist(), [prompts[row] for row in judged])
        scale = effective(differences, confidence) if differences.shape[1] > 1 else 1.0
    paired = Counter(zip(*won.tolist(), strict=True))
    counts = paired[True, True], paired[True, False], paired[False, True], paired[False, False]
    return Gain(
        model,
        baseline,
        nag=_net(table, confidence),
        nag_win=_share(_at_least(table, 1), confidence),
        relative_ras=relative_gain(*counts, confidence, scale) if paired else None,
        missing=len(comparisons) - len(known),
        p=_test(table),
        detectable=_detectable(table, confidence),
    )


def evaluation_from_items(items: Sequence[Item], confidence: float = 0.95, error: Estimate | None = None) -> Evaluation:
    """Compute all numbers of `evaluation.json` from the lines of `items.jsonl`, except those in `checks`.

    Args:
        items: at least one, all with the same models; items with the same ID are answers to the same prompt.
        confidence: nominal coverage of the intervals.
        error: known error rate of the judge's verdicts.

    Raises:
        InputError: if there are no items, if an item has other models or comparisons than the first one, or if
            every verdict on a model, or every comparison of two models, is missing.
    """
    if not items:
        raise InputError("items.jsonl: contains no prompts, so there is nothing to evaluate; run the evaluation first")
    names, pairs = list(items[0].answers), list(items[0].comparisons)
    for row, item in enumerate(items, start=1):
        for field, expected, actual in (("answers", names, item.answers), ("comparisons", pairs, item.comparisons)):
            if set(expected) != set(actual):
                first, got = ", ".join(expected) or "none", ", ".join(actual) or "none"
                raise InputError(
                    f"items.jsonl: row {row} (id {item.id!r}): {field}: found {got}, but row 1 has {first}; "
                    "evaluate again"
                )

    prompts, references = [item.id for item in items], [item.reference for item in items]
    answers = {name: [item.answers[name] for item in items] for name in names}
    rewards = {name: [answer.reward for answer in column] for name, column in answers.items()}
    models = {name: scores(column, references, prompts, confidence, name, error) for name, column in answers.items()}
    gains, compared = [], {(name, REFERENCE): values for name, values in rewards.items()}
    for pair in pairs:
        model, _, baseline = pair.partition("|")
        if model not in rewards or baseline not in rewards:
            known = ", ".join(names)
            raise InputError(f"items.jsonl: comparisons: {pair!r} is not 'model|baseline' with models among: {known}")
        compared[model, baseline] = [item.comparisons[pair] for item in items]
        columns = compared[model, baseline], rewards[model], rewards[baseline]
        gains.append(gain(model, baseline, *columns, confidence, prompts))
    ps = {name: score.p for name, score in models.items()} | {f"{g.model}|{g.baseline}": g.p for g in gains}
    adjusted = holm({name: p for name, p in ps.items() if p is not None})
    ranks = ranking(compared, prompts, confidence) if len(names) > 1 else []
    return Evaluation(confidence, len(items), models, gains, corrected=adjusted, ranking=ranks)


def letters(rewards: Sequence[float | None]) -> Letters:
    """Encode verdicts as one letter per prompt.

    Example: 0.3, 0, None, -2 become `wt-l`.
    """
    return "".join(
        "-" if reward is None or math.isnan(reward) else "w" if reward > 0 else "l" if reward < 0 else "t"
        for reward in rewards
    )


def verdicts(outcomes: Letters) -> np.ndarray:
    """Decode letters into (N,) verdicts: 1 win, 0 tie, -1 loss, NaN missing."""
    return np.array([_VALUES[letter] for letter in outcomes])


def wins(outcomes: Letters) -> np.ndarray:
    """Decode letters into (N,) strict wins: 1 win, 0 tie or loss, NaN missing."""
    values = verdicts(outcomes)
    return np.where(np.isnan(values), values, values > 0)


def win_share(rewards: Sequence[float | None]) -> float:
    """RAS: share of strict wins among the verdicts that are not missing.

    Raises:
        InputError: if all verdicts are missing.
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
    """Accuracy of scores on pairs of a better and a worse answer, with measures of its dependence on length.

    Scores that differ only by rounding are a tie.

    Args:
        better: N scores of the better answers; the N pairs count as independent.
        worse: N scores of the worse answers.
        better_tokens: N lengths of the better answers in tokens.
        worse_tokens: N lengths of the worse answers in tokens.
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


def _known(rewards: Sequence[float | None], prompts: Sequence[Hashable], label: str) -> tuple[list[float], np.ndarray]:
    """The verdicts that are not missing, at least one, and their signs by prompt, (N, R)."""
    pairs = zip(rewards, prompts, strict=True)
    known = [(reward, prompt) for reward, prompt in pairs if reward is not None and math.isfinite(reward)]
    if not known:
        raise InputError(
            f"all {len(rewards)} {label} are missing, so nothing can be estimated; check the reward and evaluate again"
        )
    values = [reward for reward, _ in known]
    return values, by_prompt(np.sign(values).tolist(), [prompt for _, prompt in known])


def _at_least(table: np.ndarray, verdict: int) -> np.ndarray:
    """1 where the verdict is at least this one, 0 where it is worse, NaN where it is missing."""
    return np.where(np.isnan(table), table, table >= verdict)


def _share(table: np.ndarray, confidence: float) -> Estimate:
    """Share of ones in a table of 1 and 0, (N, R)."""
    if table.shape[1] > 1:
        return over_prompts(table, SHARE, confidence)
    return proportion(int(table.sum()), len(table), confidence)


def _net(table: np.ndarray, confidence: float) -> Estimate:
    """(wins - losses) / N of signs (N, R)."""
    if table.shape[1] > 1:
        return over_prompts(table, NET, confidence)
    return net_share(int((table > 0).sum()), int((table < 0).sum()), len(table), confidence)


def _half_ties(table: np.ndarray, confidence: float) -> Estimate:
    """Wins plus half of the ties of signs (N, R)."""
    if table.shape[1] == 1:
        return half_tie_share(int((table > 0).sum()), int((table == 0).sum()), len(table), confidence)
    net = _net(table, confidence)
    return Estimate((1 + net.value) / 2, (1 + net.low) / 2, (1 + net.high) / 2, net.n)


def _test(table: np.ndarray) -> float:
    """p-value of wins and losses being equally likely: exact with one verdict per prompt, else over prompt sums."""
    if table.shape[1] == 1:
        return mcnemar((table[:, 0] > 0).tolist(), (table[:, 0] < 0).tolist())
    return sign_flip(np.nansum(table, axis=1).tolist())


def _detectable(table: np.ndarray, confidence: float) -> float | None:
    """Minimum detectable net share; None if all verdicts are ties.

    Several verdicts on a prompt count as one, which is conservative.
    """
    decided = float((table[~np.isnan(table)] != 0).mean())
    return detectable(decided, len(table), confidence) if decided else None
