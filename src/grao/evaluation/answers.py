"""Sampling of answers to held-out prompts, and their evaluation against references and against each other.

Every answer is recorded with the verdict of each reward, including a judge's replies in both orders. Requests to judges
are counted.
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
from grao.records.numbers import JudgeQuestions, RewardAgreement
from grao.records.run import LONGEST_REPLY, Item, Order, RecordedAnswer, RewardVerdict
from grao.rewards.base import RewardBatch, ask
from grao.rewards.judge.base import JudgedPair, Pair
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.server import ServerJudge
from grao.rewards.mix import Mix, MixedRewards, check_any_scored
from grao.rollouts.base import Generator, Sampling, draw_key
from grao.types import Encoded, Example

TextAndIds = tuple[str, Sequence[int]]
"""A text and its token ids."""
Progress = Callable[[int, int], None]
"""Called with (answers done, answers in total)."""
CHUNK = 64
"""Prompts between two progress reports."""


def sample_answers(
    items: Sequence[Encoded],
    generator: Generator,
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> list[RecordedAnswer]:
    """Sample one answer per prompt, without verdicts.

    The random numbers depend only on the seed and the prompt's ID, so that all models sample with the same ones.

    Args:
        items: held-out prompts.
        generator: samples from the evaluated model.
        sampling: sampling settings; `samples` must be 1.
        tokenizer: of the evaluated model.
        seed: seed of the sampling.
    """
    keys = [draw_key(seed, "evaluate", item.example.id) for item in items]
    groups = sample_groups(items, keys, generator, sampling, tokenizer)
    samples = [sample for group in groups for sample in group.samples]
    return [RecordedAnswer(each.text, len(each.ids), each.truncated, None, list(each.ids)) for each in samples]


class Jury:
    """The rewards of an evaluation, with a count of the requests to judges.

    Args:
        rewards: rewards that give the verdicts.
    """

    def __init__(self, rewards: Mix) -> None:
        self.rewards = rewards
        self._asked: dict[str, Counter[str]] = {}

    @property
    def asked(self) -> list[JudgeQuestions]:
        """Requests to each judge so far."""
        return [
            JudgeQuestions(
                name, int(n["requests"]), int(n["cached"]), int(n["unreadable"]), int(n["failed"]), float(n["cost"])
            )
            for name, n in self._asked.items()
        ]

    def judge(
        self,
        items: Sequence[Encoded],
        answers: Sequence[RecordedAnswer],
        progress: Progress = lambda done, total: None,
        needed: bool = True,
    ) -> list[RecordedAnswer]:
        """Return the answers with the verdicts of the rewards against the references.

        Args:
            items: N prompts with their references.
            answers: N answers.
            progress: called with (answers done, answers in total).
            needed: whether to raise an error if all verdicts are missing.

        Raises:
            InputError: if a reward fails, or if all verdicts are missing and `needed`.
            RewardUnavailableError: if a judge cannot be reached, as in `Reward.relative`.
        """
        judged: list[RecordedAnswer] = []
        mixed: list[MixedRewards] = []
        for start in range(0, len(items), CHUNK):
            chunk, given = items[start : start + CHUNK], answers[start : start + CHUNK]
            mixed.append(self._ask(chunk, given, [_compared(*pair)[1] for pair in zip(chunk, given, strict=True)]))
            judged += _with_verdicts(given, mixed[-1])
            progress(len(judged), len(items))
        if needed:
            check_any_scored(mixed)
        return judged

    def compare(
        self, items: Sequence[Encoded], model: Sequence[RecordedAnswer], baseline: Sequence[RecordedAnswer]
    ) -> list[float | None]:
        """Compare the answers of two models to the same prompts.

        Reward functions and rules still receive the reference answer as `reference`.

        Args:
            items: N prompts with their references.
            model: N answers of the first model.
            baseline: N answers of the model that it is compared with.

        Returns:
            R of the model's answers against the baseline's; None = missing.

        Raises:
            InputError: if a reward fails, or if all verdicts are missing.
            RewardUnavailableError: if a judge cannot be reached.
        """
        before = [(answer.text, answer.token_ids) for answer in baseline]
        mixed = self._ask(items, model, before, data_references=[item.reference_text for item in items])
        check_any_scored([mixed])
        return missing_as_none(mixed.total.squeeze(1).tolist())

    def retest(
        self, items: Sequence[Encoded], answers: Sequence[RecordedAnswer], prompts: int, confidence: float = 0.95
    ) -> list[RewardAgreement]:
        """Measure the agreement of each reward with itself when it is asked a second time.

        Judges on a server sample a new reply. Answers that equal their reference are skipped, because judges are not
        asked about them.

        Args:
            items: N prompts with their references.
            answers: N answers with verdicts.
            prompts: number of prompts to ask about, the first ones.
            confidence: nominal coverage of the intervals.
        """
        judged = zip(items, answers, strict=True)
        differing = [pair for pair in judged if pair[0].reference_text.strip() != pair[1].text.strip()]
        chosen, agreements = differing[:prompts], list[RewardAgreement]()
        for reward in self.rewards.rewards if chosen else ():
            first = [said.value for _, answer in chosen for said in answer.said if said.reward == reward.name]
            if isinstance(reward, JudgeReward) and isinstance(reward.judge, ServerJudge):
                pairs = [Pair(item.example.prompt, answer.text, item.reference_text) for item, answer in chosen]
                second = missing_as_none([judged.value for judged in reward.judge.compare(pairs, sample=1)])
                self._count(reward.name, vars(reward.judge.tally))
            else:
                texts, references = zip(*(_compared(*pair) for pair in chosen), strict=True)
                batch = single_batch([item.example for item, _ in chosen], texts, references)
                second = missing_as_none(ask(reward, batch).squeeze(1).tolist())
            agreements.append(RewardAgreement(reward.name, cohens_kappa(agreement_table(first, second), confidence)))
        return agreements

    def items(self, encoded: Sequence[Encoded], answers: dict[str, list[RecordedAnswer]]) -> list[Item]:
        """Build the records of an evaluation, comparing every model with every earlier one.

        Args:
            encoded: N prompts with their references.
            answers: model name -> N answers with verdicts.
        """
        compared = {
            f"{later}|{earlier}": self.compare(encoded, answers[later], answers[earlier])
            for earlier, later in combinations(answers, 2)
        }
        items = []
        for index, item in enumerate(encoded):
            by_model = {name: column[index] for name, column in answers.items()}
            comparisons = {pair: rewards[index] for pair, rewards in compared.items()}
            items.append(Item(item.example.id, item.prompt_text, item.reference_text, by_model, comparisons))
        return items

    def _ask(
        self,
        items: Sequence[Encoded],
        answers: Sequence[RecordedAnswer],
        references: Sequence[TextAndIds],
        data_references: Sequence[str] | None = None,
    ) -> MixedRewards:
        texts = [(answer.text, answer.token_ids) for answer in answers]
        batch = single_batch([item.example for item in items], texts, references)
        mixed = self.rewards(replace(batch, data_references=data_references))
        for name, tally in mixed.tallies.items():
            self._count(name, tally)
        return mixed

    def _count(self, name: str, tally: Mapping[str, Any]) -> None:
        counts = {field: number for field, number in tally.items() if isinstance(number, int | float)}
        self._asked.setdefault(name, Counter()).update(counts)


def _compared(item: Encoded, answer: RecordedAnswer) -> tuple[TextAndIds, TextAndIds]:
    """Return an answer and its reference, each as text and token ids."""
    return (answer.text, answer.token_ids), (item.reference_text, item.reference_ids)


def _with_verdicts(answers: Sequence[RecordedAnswer], mixed: MixedRewards) -> list[RecordedAnswer]:
    total = missing_as_none(mixed.total.squeeze(1).tolist())
    parts = {name: missing_as_none(part.squeeze(1).tolist()) for name, part in mixed.parts.items()}
    judged = {name: mixed.judged.get(name, {}) for name in parts}
    said = [
        [RewardVerdict(name, part[row], _orders(judged[name].get((row, 0)))) for name, part in parts.items()]
        for row in range(len(answers))
    ]
    return [replace(each, reward=total[row], said=said[row]) for row, each in enumerate(answers)]


def _orders(judged: JudgedPair | None) -> list[Order]:
    """The judge's verdict on a pair in each order that was requested; empty if the judge was not asked."""
    if judged is None:
        return []
    firsts: tuple[Literal["answer", "reference"], ...] = ("answer", "reference")
    by_order = zip(firsts, (judged.a_first, judged.b_first), judged.replies, strict=True)
    return [
        Order(first, verdict.reward if verdict else None, reply[:LONGEST_REPLY])
        for first, verdict, reply in by_order
        if verdict or reply
    ]


def single_batch(
    examples: Sequence[Example], answers: Sequence[TextAndIds], references: Sequence[TextAndIds]
) -> RewardBatch:
    """Build the input of rewards from groups with a single answer each.

    Args:
        examples: N examples.
        answers: N answers, as text and token ids.
        references: N texts to compare with, as text and token ids.
    """
    return RewardBatch(
        prompts=[example.prompt for example in examples],
        completions=[[text] for text, _ in answers],
        references=[text for text, _ in references],
        columns=[example.columns for example in examples],
        completion_ids=[[ids] for _, ids in answers],
        reference_ids=[ids for _, ids in references],
    )


def missing_as_none(rewards: Sequence[float]) -> list[float | None]:
    """Replace NaN by None, the representation of missing rewards in records."""
    return [None if math.isnan(reward) else reward for reward in rewards]
