"""A judge on a server: known answers come from the ledger, the others from the network."""

import asyncio
import json
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from grao.config.recipe import Recipe
from grao.config.rewards import JudgeConfig
from grao.errors import InputError, RewardUnavailableError
from grao.rewards.base import result_of, start_awaitable
from grao.rewards.judge.base import KNOWN, JudgedPair, JudgeTally, OrderedPair, Pair, combine, orders_of
from grao.rewards.judge.client import Endpoint, Failure, JudgeClient
from grao.rewards.judge.ledger import JudgeAnswer, Ledger, Question
from grao.rewards.judge.reply import storable
from grao.rewards.judge.wording import Template, context_text

_LOG = logging.getLogger(__name__)
_CHECK_PATIENCE = 15.0
"""Patience in seconds for the check at the start."""
_ENOUGH_TO_STOP = 16
"""This many answers without any verdict, or failures without any answer, stop the run."""
_BYTES_PER_TOKEN = 4
"""Rough figure for English text."""
_VERDICT_TOKENS = 5
"""Tokens of an answer that is a verdict alone."""


@dataclass(frozen=True)
class CostEstimate:
    """Estimate of a run's questions to a judge if the ledger has no answers."""

    questions: int
    input_tokens: float
    output_tokens: float
    cost: float


class ServerJudge:
    """A judge at an OpenAI-compatible endpoint.

    Args:
        endpoint: address, prices and limits of the judge, whether each pair is asked in both orders, and `replay`:
            take all answers from the ledger.
        template: words the questions.
        ledger: stores the answers, and keeps the run within the endpoint's `max_cost`.
        seed: picks the order if each pair is shown only once.
    """

    def __init__(self, endpoint: Endpoint, template: Template, ledger: Ledger, seed: int = 0) -> None:
        self.endpoint, self.template, self.ledger, self.seed = endpoint, template, ledger, seed
        self.name, self.orders, self.tally = endpoint.model, endpoint.config.orders, JudgeTally()
        self._settings = json.dumps(endpoint.settings, sort_keys=True)
        self._known = self._question(OrderedPair(KNOWN, swapped=False))
        self._client = None if endpoint.config.replay else JudgeClient(endpoint, ledger, self._known)
        self._round = _Round(ledger, self._client)
        self._enough_to_stop, self._failed = _ENOUGH_TO_STOP, 0

    @classmethod
    def from_section(cls, config: JudgeConfig, template: Template, recipe: Recipe) -> "ServerJudge":
        """Build the judge of a recipe.

        Args:
            config: a judge's section with `model`.
            template: the wording.
            recipe: the whole recipe.

        Raises:
            InputError: if the key is not in the environment.
        """
        ledger = Ledger(ledger_path(config.ledger, recipe.output), run=str(recipe.output.absolute()))
        return cls(Endpoint.from_section(config), template, ledger, recipe.seed)

    def begin(self, pairs: Sequence[Pair]) -> None:
        """See `EarlyJudge.begin`."""
        if self._client:
            shown = (order for pair in pairs for order in orders_of(pair, self.orders, self.seed))
            self._round.begin(map(self._question, shown))

    def compare(self, pairs: Sequence[Pair], sample: int = 0) -> list[JudgedPair]:
        """See `PairwiseJudge.compare`.

        Args:
            pairs: any number; a repeated question is asked once.
            sample: index of the sample; another one asks again, for another draw of a judge with temperature.

        Raises:
            InputError: if none of many answers contains a verdict, or as `JudgeClient.ask`.
            RewardUnavailableError: if too many questions fail, or as `JudgeClient.ask`.
        """
        shown = [orders_of(pair, self.orders, self.seed) for pair in pairs]
        questions_of = [[self._question(order, sample) for order in orders] for orders in shown]
        answers = self._answers(question for questions in questions_of for question in questions)
        if len(answers) >= self._enough_to_stop and not any(answer.verdict for answer in answers.values()):
            problem = f"none of its {len(answers)} answers contains a verdict"
            raise InputError(f"judge {self.endpoint}: {problem}; {_unread(answers.values(), self.endpoint)}")
        missing = JudgeAnswer("", "", None)
        answers_of = [[answers.get(question.key, missing) for question in questions] for questions in questions_of]
        return [
            combine(orders, [answer.verdict for answer in replies], [answer.text for answer in replies])
            for orders, replies in zip(shown, answers_of, strict=True)
        ]

    def check(self) -> None:
        """Ask one question about `KNOWN`, which is stored like any other; warn if its answer contains no verdict.

        Raises:
            InputError: as `JudgeClient.ask`.
            RewardUnavailableError: if the question fails, or as `JudgeClient.ask`.
        """
        if self._client is None:
            return
        if not (known := self.ledger.find([self._known])):
            failures = result_of(start_awaitable(self._client.ask([self._known], _CHECK_PATIENCE)))
            known = self.ledger.find([self._known])  # it may have been answered as the liveness check
            if failures and not known:
                raise RewardUnavailableError(f"judge {self.endpoint}: {failures[-1].reason}")
        if not any(answer.verdict for answer in known.values()):
            self._enough_to_stop = 1  # stop at the next such answer
            problem = _unread(known.values(), self.endpoint)
            _LOG.warning("judge %s: its first answer contains no verdict; %s", self.endpoint, problem)

    def count(self, pairs: Sequence[Pair]) -> int:
        """Return the number of different questions about some pairs."""
        return len({self._question(order).key for pair in pairs for order in orders_of(pair, self.orders, self.seed)})

    def estimate(self, pairs: Sequence[Pair], comparisons: int, further: int = 0) -> CostEstimate:
        """Estimate the cost of a run.

        Args:
            pairs: one or more typical pairs, whose length is used.
            comparisons: number of comparisons in the run.
            further: other questions of the same length.
        """
        lengths = [len(self._question(OrderedPair(pair, swapped=False)).content.encode()) for pair in pairs]
        questions, mean = comparisons * (2 if self.orders == "both" else 1) + further, sum(lengths) / len(lengths)
        read, written = questions * mean / _BYTES_PER_TOKEN, questions * _VERDICT_TOKENS
        return CostEstimate(questions, read, written, self.endpoint.cost(read, written))

    def _answers(self, questions: Iterable[Question]) -> dict[str, JudgeAnswer]:
        """Return {key: answer} of these questions and of those from `begin`."""
        done, self._round = self._round, _Round(self.ledger, self._client)
        result_of(done.begin(questions))
        failures, asked, answers = done.failures, len(done.asked), done.answers
        self._failed = self._failed + asked if len(failures) == asked else 0
        if failures:
            problem = f"judge {self.endpoint}: {len(failures)} of {asked} questions failed; last error: "
            if self._failed >= _ENOUGH_TO_STOP:
                raise RewardUnavailableError(problem + failures[-1].reason)
            _LOG.warning("%s%s; these verdicts are missing", problem, failures[-1].reason)
        new = [answer for key, answer in answers.items() if key in done.asked]
        if cut := [answer for answer in new if answer.verdict is None and answer.ending == "length"]:
            problem = f"{len(cut)} of {len(new)} answers were cut off before a verdict"
            _LOG.warning("judge %s: %s; %s", self.endpoint, problem, _unread(cut, self.endpoint))
        unreadable = sum(answer.verdict is None for answer in answers.values())
        cached, cost = len(answers) - len(new), sum(answer.cost for answer in new)
        self.tally = JudgeTally(asked, cached, unreadable, len(failures), cost)
        return answers

    def _question(self, shown: OrderedPair, sample: int = 0) -> Question:
        """Return the question about a pair, with stripped and storable texts."""
        texts = (context_text(shown.pair.prompt), *shown.texts)
        context, text_1, text_2 = (storable(text.strip()) for text in texts)
        return Question(self.endpoint.model, self.template, context, text_1, text_2, self._settings, sample)


def _unread(answers: Iterable[JudgeAnswer], endpoint: Endpoint) -> str:
    """Quote an answer without a verdict, and say what the user can do."""
    answer = max(answers, key=lambda answer: answer.ending == "length")
    advice = "check that the model follows the template and that max_tokens is high enough"
    if answer.ending == "length":
        advice = f"it was cut off at the token limit: raise max_tokens ({endpoint.config.max_tokens})"
    return f"example: {endpoint.mask(answer.text)[:100]!r}; {advice}"


_GATHERING_TIME = 0.02
"""Seconds that a part waits for other groups of its sampled batch, which arrive one by one."""


class _Round:
    """The questions of one `compare`, which may arrive in parts: looked up in the ledger or asked, each once.

    Parts are asked one after another, and parts that arrive meanwhile are merged, so that the endpoint's limits hold
    for all. The ledger is used in the event loop only, never by two threads at once.

    Args:
        ledger: stores the answers.
        client: asks the judge; None takes all answers from the ledger.
    """

    def __init__(self, ledger: Ledger, client: JudgeClient | None) -> None:
        self._ledger, self._client = ledger, client
        self._waiting: dict[str, Question] = {}
        self._last: Future[None] | None = None
        self.answers: dict[str, JudgeAnswer] = {}
        """{key: answer}, as in the ledger: if two processes ask the same question, both use the stored answer."""
        self.asked: set[str] = set()
        """Keys of questions that were not in the ledger."""
        self.failures: list[Failure] = []

    def begin(self, questions: Iterable[Question]) -> Future[None]:
        """Start on questions and return immediately; the future ends when these and all earlier ones have been asked.

        If a part fails, no later one starts: the future raises as `JudgeClient.ask`, or InputError if there is no
        client and an answer is missing.
        """
        self._last = start_awaitable(self._part({question.key: question for question in questions}, self._last))
        return self._last

    async def _part(self, questions: dict[str, Question], before: Future[None] | None) -> None:
        self._waiting |= questions
        await asyncio.sleep(_GATHERING_TIME)
        if before:
            await asyncio.wrap_future(before)
        waiting, self._waiting = self._waiting, {}
        new = {key: question for key, question in waiting.items() if key not in self.answers and key not in self.asked}
        self.answers |= self._ledger.find(new.values())
        missing = {key: question for key, question in new.items() if key not in self.answers}
        if missing and self._client is None:
            problem = f"replay: {len(missing)} of {len(new)} answers are not in {self._ledger.path}"
            raise InputError(f"{problem}; set replay: false to ask the judge")
        self.asked |= missing.keys()
        if missing and self._client:
            self.failures += await self._client.ask(list(missing.values()))
            self.answers |= self._ledger.find(missing.values())


def ledger_path(ledger: Path | None, output: Path) -> Path:
    """Return the path of a judge's ledger; by default one for all runs in the same folder.

    Args:
        ledger: the path in the recipe.
        output: output folder of the run.
    """
    return Path(os.path.expanduser(ledger)) if ledger else output.absolute().parent / "judge-ledger.sqlite"
