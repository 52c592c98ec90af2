"""Held-out prompts answered, and answers judged: against their references and against each other.

Every answer is kept with what each reward said of it, a judge's replies in both orders included; what asking took is
counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from grao.evaluation.agreement import agreement_table, cohens_kappa
from grao.groups import sample_groups
from grao.records.numbers import Agreed, Asked
from grao.records.run import LONGEST_REPLY, Item, Order, RecordedAnswer, Said
from grao.rewards.base import RewardBatch, ask
from grao.rewards.judge.base import JudgedPair, Pair
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.server import ServerJudge
from grao.rewards.mix import Mix, MixedRewards, check_heard
from grao.rollouts.base import Generator, Sampling, draw_key
from grao.types import Encoded, Example

TextAndIds = tuple[str, Sequence[int]]
"""A text and its token ids."""
Progress = Callable[[int, int], None]
"""Takes what is done and the whole."""
CHUNK = 64
"""Prompts between two signs of progress."""


def sample_answers(
    items: Sequence[Encoded],
    generator: Generator,
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> list[RecordedAnswer]:
    """One answer to each prompt, not yet judged.

    The draws depend on (seed, prompt) only: two models are compared on the same random numbers.

    Args:
        items: held-out prompts.
        generator: samples from the model under test.
        sampling: how answers are drawn; `samples` must be 1.
        tokenizer: the model's.
        seed: of the draws.
    """
    keys = [draw_key(seed, "evaluate", item.example.id) for item in items]
    groups = sample_groups(items, keys, generator, sampling, tokenizer)
    samples = [sample for group in groups for sample in group.samples]
    return [RecordedAnswer(each.text, len(each.ids), each.truncated, None, list(each.ids)) for each in samples]


class Jury:
    """The rewards of an evaluation: they judge answers, and what that takes is counted.

    Args:
        rewards: that judge.
    """

    def __init__(self, rewards: Mix) -> None:
        self.rewards = rewards
        self._asked: dict[str, Counter[str]] = {}

    @property
    def asked(self) -> list[Asked]:
        """What the judges among the rewards were asked so far."""
        return [
            Asked(name, int(n["requests"]), int(n["cached"]), int(n["unreadable"]), int(n["failed"]), float(n["cost"]))
            for name, n in self._asked.items()
        ]

    def judge(
        self,
        items: Sequence[Encoded],
        answers: Sequence[RecordedAnswer],
        progress: Progress = lambda done, total: None,
        needed: bool = True,
    ) -> list[RecordedAnswer]:
        """The answers with what the rewards say of each against its reference.

        Args:
            items: N prompts with their references.
            answers: N.
            progress: called with answers done and in all.
            needed: whether it is an error if all verdicts are missing.

        Raises:
            InputError, RewardUnavailableError: as `Reward.relative`; and if all verdicts are missing.
        """
        judged: list[RecordedAnswer] = []
        heard: list[MixedRewards] = []
        for start in range(0, len(items), CHUNK):
            chunk, given = items[start : start + CHUNK], answers[start : start + CHUNK]
            heard.append(self._ask(chunk, given, [_compared(*pair)[1] for pair in zip(chunk, given, strict=True)]))
            judged += _with_verdicts(given, heard[-1])
            progress(len(judged), len(items))
        if needed:
            check_heard(heard)
        return judged

    def compare(
        self, items: Sequence[Encoded], model: Sequence[RecordedAnswer], baseline: Sequence[RecordedAnswer]
    ) -> list[float | None]:
        """R of one model's answers against another's to the same prompts, None where it is missing.

        What rewards are told as `reference` stays the reference.
        """
        before = [(answer.text, answer.token_ids) for answer in baseline]
        mixed = self._ask(items, model, before, told=[item.reference_text for item in items])
        check_heard([mixed])
        return missing_as_none(mixed.total.squeeze(1).tolist())

    def retest(
        self, items: Sequence[Encoded], answers: Sequence[RecordedAnswer], prompts: int, confidence: float = 0.95
    ) -> list[Agreed]:
        """Each reward against itself, asked once more about the first answers; judges on a server draw again.

        Answers that equal their reference are passed over: no judge is asked about them.

        Args:
            items: N prompts with their references.
            answers: N, judged.
            prompts: of these, so many are asked about.
            confidence: nominal coverage.
        """
        judged = zip(items, answers, strict=True)
        differing = [pair for pair in judged if pair[0].reference_text.strip() != pair[1].text.strip()]
        chosen, found = differing[:prompts], list[Agreed]()
        for reward in self.rewards.rewards if chosen else ():
            first = [said.value for _, answer in chosen for said in answer.said if said.reward == reward.name]
            if isinstance(reward, JudgeReward) and isinstance(reward.judge, ServerJudge):
                pairs = [Pair(item.example.prompt, answer.text, item.reference_text) for item, answer in chosen]
                second = missing_as_none([judged.value for judged in reward.judge.compare(pairs, sample=1)])
                self._count(reward.name, vars(reward.judge.tally))
            else:
                said, references = zip(*(_compared(*pair) for pair in chosen), strict=True)
                batch = single_batch([item.example for item, _ in chosen], said, references)
                second = missing_as_none(ask(reward, batch).squeeze(1).tolist())
            found.append(Agreed(reward.name, cohens_kappa(agreement_table(first, second), confidence)))
        return found

    def items(self, encoded: Sequence[Encoded], answers: dict[str, list[RecordedAnswer]]) -> list[Item]:
        """The records of an evaluation; every later model is also compared with every earlier one."""
        compared = {
            f"{later}|{earlier}": self.compare(encoded, answers[later], answers[earlier])
            for earlier, later in combinations(answers, 2)
        }
        items = []
        for index, item in enumerate(encoded):
            given = {name: said[index] for name, said in answers.items()}
            comparisons = {pair: rewarded[index] for pair, rewarded in compared.items()}
            items.append(Item(item.example.id, item.prompt_text, item.reference_text, given, comparisons))
        return items

    def _ask(
        self,
        items: Sequence[Encoded],
        answers: Sequence[RecordedAnswer],
        references: Sequence[TextAndIds],
        told: Sequence[str] | None = None,
    ) -> MixedRewards:
        said = [(answer.text, answer.token_ids) for answer in answers]
        mixed = self.rewards(replace(single_batch([item.example for item in items], said, references), told=told))
        for name, tally in mixed.tallies.items():
            self._count(name, tally)
        return mixed

    def _count(self, name: str, tally: Mapping[str, Any]) -> None:
        counts = {what: number for what, number in tally.items() if isinstance(number, int | float)}
        self._asked.setdefault(name, Counter()).update(counts)


def _compared(item: Encoded, answer: RecordedAnswer) -> tuple[TextAndIds, TextAndIds]:
    """An answer and its reference."""
    return (answer.text, answer.token_ids), (item.reference_text, item.reference_ids)


def _with_verdicts(answers: Sequence[RecordedAnswer], mixed: MixedRewards) -> list[RecordedAnswer]:
    total = missing_as_none(mixed.total.squeeze(1).tolist())
    parts = {name: missing_as_none(part.squeeze(1).tolist()) for name, part in mixed.parts.items()}
    judged = {name: mixed.judged.get(name, {}) for name in parts}
    said = [
        [Said(name, part[row], _orders(judged[name].get((row, 0)))) for name, part in parts.items()]
        for row in range(len(answers))
    ]
    return [replace(each, reward=total[row], said=said[row]) for row, each in enumerate(answers)]


def _orders(judged: JudgedPair | None) -> list[Order]:
    """Both readings of a pair, or the one that was asked; none where the judge was not."""
    if judged is None:
        return []
    places: tuple[Literal["answer", "reference"], ...] = ("answer", "reference")
    read = zip(places, (judged.a_first, judged.b_first), judged.replies, strict=True)
    return [
        Order(first, verdict.reward if verdict else None, reply[:LONGEST_REPLY])
        for first, verdict, reply in read
        if verdict or reply
    ]


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
