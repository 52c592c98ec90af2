"""Held-out prompts answered and judged, prompt by prompt."""

import math
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from grao.data import Encoded
from grao.groups import Group, reward_groups, sample_groups
from grao.records.evaluation import Answer, Item
from grao.rewards import Mix, RewardBatch
from grao.rollouts import Generator, Sampling, draw_key

_AT_ONCE = 64
"""Prompts between two signs of progress."""


def answer_items(
    items: Sequence[Encoded],
    generator: Generator,
    rewards: Mix,
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
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
    answers: list[Answer] = []
    for start in range(0, len(items), _AT_ONCE):
        chunk = items[start : start + _AT_ONCE]
        keys = [draw_key(seed, "evaluate", item.example.id) for item in chunk]
        groups = sample_groups(chunk, keys, generator, sampling, tokenizer)
        verdicts = reward_groups(groups, rewards).total.squeeze(1)
        answers += [_answer(group, verdict) for group, verdict in zip(groups, verdicts.tolist(), strict=True)]
        progress(len(answers), len(items))
    return answers


def compare_answers(
    items: Sequence[Encoded], model: Sequence[Answer], baseline: Sequence[Answer], rewards: Mix
) -> list[float | None]:
    """R of one model's answers against another's to the same prompts, None where it is missing."""
    compared = rewards(
        RewardBatch(
            prompts=[item.example.prompt for item in items],
            completions=[[answer.text] for answer in model],
            references=[answer.text for answer in baseline],
            columns=[item.example.columns for item in items],
            completion_ids=[[answer.token_ids] for answer in model],
            reference_ids=[answer.token_ids for answer in baseline],
        )
    ).total.squeeze(1)
    return [None if math.isnan(verdict) else verdict for verdict in compared.tolist()]


def make_items(
    encoded: Sequence[Encoded],
    answers: dict[str, list[Answer]],
    rewards: Mix,
) -> list[Item]:
    """The records of an evaluation; every later model is also compared with the first one."""
    first, *others = answers
    comparisons = {
        f"{name}|{first}": compare_answers(encoded, answers[name], answers[first], rewards) for name in others
    }
    return [
        Item(
            id=item.example.id,
            prompt=item.prompt_text,
            reference=item.reference_text,
            answers={name: given[place] for name, given in answers.items()},
            comparisons={pair: verdicts[place] for pair, verdicts in comparisons.items()},
        )
        for place, item in enumerate(encoded)
    ]


def _answer(group: Group, verdict: float) -> Answer:
    (completion,), (text,) = group.completions, group.texts
    return Answer(
        text=text,
        tokens=len(completion.token_ids),
        truncated=completion.truncated,
        reward=None if math.isnan(verdict) else verdict,
        token_ids=list(completion.token_ids),
    )
