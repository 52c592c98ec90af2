"""A judge on a server: pairs become questions, known answers come from the ledger, the rest from the network."""

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
from grao.rewards.judge.base import KNOWN, JudgedPair, JudgeTally, Pair, Shown, combine, orders_of
from grao.rewards.judge.client import Endpoint, Failure, JudgeClient
from grao.rewards.judge.ledger import JudgeAnswer, Ledger, Question
from grao.rewards.judge.reply import storable
from grao.rewards.judge.wording import Template, context_text

_LOG = logging.getLogger(__name__)
_CHECK_PATIENCE = 15.0
"""Seconds that a judge may be silent before the work has begun."""
_TELLING = 16
"""So many answers without a verdict among them, or failures without an answer, are no accident."""
_BYTES_PER_TOKEN = 4
"""Of English text, roughly."""
_VERDICT_TOKENS = 5
"""Of an answer that holds the verdict and nothing else."""


@dataclass(frozen=True)
class CostEstimate:
    """What a run will ask of a judge if nothing is known already."""

    questions: int
    input_tokens: float
    output_tokens: float
    cost: float


class ServerJudge:
    """Asks an OpenAI-compatible endpoint.

    Args:
        endpoint: where, how patiently, at what price; in which orders; whether all is taken from the ledger (`replay`).
        template: the wording.
        ledger: keeps the answers; `max_cost` is the most that its run may spend on this judge.
        seed: of the order, where each pair is shown in one.
    """

    def __init__(self, endpoint: Endpoint, template: Template, ledger: Ledger, seed: int = 0) -> None:
        self.endpoint, self.template, self.ledger, self.seed = endpoint, template, ledger, seed
        self.name, self.orders, self.tally = endpoint.model, endpoint.config.orders, JudgeTally()
        self._settings = json.dumps(endpoint.settings, sort_keys=True)
        self._known = self._question(Shown(KNOWN, swapped=False))
        self._client = None if endpoint.config.replay else JudgeClient(endpoint, ledger, self._known)
        self._round = _Round(ledger, self._client)
        self._telling, self._failed = _TELLING, 0

    @classmethod
    def from_section(cls, config: JudgeConfig, template: Template, recipe: Recipe) -> "ServerJudge":
        """The judge of a section with `model`.

        Raises:
            InputError: if its key is not in the environment.
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
            pairs: any number; the same question is asked once.
            sample: a number besides 0 asks again what was asked before: another draw of a judge with temperature.
        """
        shown = [orders_of(pair, self.orders, self.seed) for pair in pairs]
        asked = [[self._question(order, sample) for order in orders] for orders in shown]
        answers = self._answers(question for questions in asked for question in questions)
        if len(answers) >= self._telling and not any(answer.verdict for answer in answers.values()):
            problem = f"none of its {len(answers)} answers holds a verdict"
            raise InputError(f"judge {self.endpoint}: {problem}, {_unread(answers.values(), self.endpoint)}")
        none = JudgeAnswer("", "", None)
        said = [[answers.get(question.key, none) for question in questions] for questions in asked]
        return [
            combine(orders, [answer.verdict for answer in given], [answer.text for answer in given])
            for orders, given in zip(shown, said, strict=True)
        ]

    def check(self) -> None:
        """One question on two texts of our own, kept like any other; warns if its answer holds no verdict."""
        if self._client is None:
            return
        if not (known := self.ledger.find([self._known])):
            failures = result_of(start_awaitable(self._client.ask([self._known], _CHECK_PATIENCE)))
            known = self.ledger.find([self._known])  # it may have been answered as a sign of life
            if failures and not known:
                raise RewardUnavailableError(f"judge {self.endpoint}: {failures[-1].reason}")
        if not any(answer.verdict for answer in known.values()):
            self._telling = 1  # no more of such answers will do
            said = _unread(known.values(), self.endpoint)
            _LOG.warning("judge %s: its first answer holds no verdict, %s", self.endpoint, said)

    def count(self, pairs: Sequence[Pair]) -> int:
        """Different questions that some pairs are."""
        return len({self._question(order).key for pair in pairs for order in orders_of(pair, self.orders, self.seed)})

    def estimate(self, pairs: Sequence[Pair], comparisons: int, further: int = 0) -> CostEstimate:
        """What a number of comparisons and some further questions will cost, estimated from the length of some pairs
        like them, at least one."""
        lengths = [len(self._question(Shown(pair, swapped=False)).content.encode()) for pair in pairs]
        questions, mean = comparisons * (2 if self.orders == "both" else 1) + further, sum(lengths) / len(lengths)
        read, written = questions * mean / _BYTES_PER_TOKEN, questions * _VERDICT_TOKENS
        return CostEstimate(questions, read, written, self.endpoint.cost(read, written))

    def _answers(self, questions: Iterable[Question]) -> dict[str, JudgeAnswer]:
        """Key -> answer; what was begun before is part of it."""
        done, self._round = self._round, _Round(self.ledger, self._client)
        result_of(done.begin(questions))
        failures, asked, answers = done.failures, len(done.asked), done.answers
        self._failed = self._failed + asked if len(failures) == asked else 0
        if failures:
            problem = f"judge {self.endpoint}: {len(failures)} of {asked} questions failed, the last: "
            if self._failed >= _TELLING:
                raise RewardUnavailableError(problem + failures[-1].reason)
            _LOG.warning("%s%s; these verdicts are missing", problem, failures[-1].reason)
        new = [answer for key, answer in answers.items() if key in done.asked]
        if cut := [answer for answer in new if answer.verdict is None and answer.ending == "length"]:
            problem = f"{len(cut)} of {len(new)} answers were cut before a verdict"
            _LOG.warning("judge %s: %s, %s", self.endpoint, problem, _unread(cut, self.endpoint))
        unreadable = sum(answer.verdict is None for answer in answers.values())
        cached, cost = len(answers) - len(new), sum(answer.cost for answer in new)
        self.tally = JudgeTally(asked, cached, unreadable, len(failures), cost)
        return answers

    def _question(self, shown: Shown, sample: int = 0) -> Question:
        """Without white space around the texts, and without halves of surrogate pairs, which no encoding takes."""
        texts = (context_text(shown.pair.prompt), *shown.texts)
        context, text_1, text_2 = (storable(text.strip()) for text in texts)
        return Question(self.endpoint.model, self.template, context, text_1, text_2, self._settings, sample)


def _unread(answers: Iterable[JudgeAnswer], endpoint: Endpoint) -> str:
    """What an answer without a verdict says, and what the user can do."""
    answer = max(answers, key=lambda answer: answer.ending == "length")
    advice = "does it follow the template, and is max_tokens high enough?"
    if answer.ending == "length":
        advice = f"it was cut off at the token limit: raise max_tokens ({endpoint.config.max_tokens})"
    return f"one is {endpoint.mask(answer.text)[:100]!r}; {advice}"


_TOGETHER = 0.02
"""Seconds that a part waits for the other groups of its sampled batch, which arrive one by one."""


class _Round:
    """The questions of one `compare`: looked up in the ledger or else asked, each once, in whatever parts they come.

    Parts are asked one after another, and what has come together meanwhile is one part, so that the endpoint's limits
    hold for all of them. The ledger is used in the event loop only, never by two threads at once.

    Args:
        ledger: of the answers.
        client: None takes all of them from the ledger.
    """

    def __init__(self, ledger: Ledger, client: JudgeClient | None) -> None:
        self._ledger, self._client = ledger, client
        self._waiting: dict[str, Question] = {}
        self._last: Future[None] | None = None
        self.answers: dict[str, JudgeAnswer] = {}
        """Where two processes asked the same, both go by the ledger."""
        self.asked: set[str] = set()
        """Keys of what the ledger did not have."""
        self.failures: list[Failure] = []

    def begin(self, questions: Iterable[Question]) -> Future[None]:
        """Returns at once; the future ends when these and all that were begun before have been asked.

        After a part that ended in an exception no other begins: InputError or RewardUnavailableError as
        `JudgeClient.ask`, or InputError if there is no client and an answer is missing.
        """
        self._last = start_awaitable(self._part({question.key: question for question in questions}, self._last))
        return self._last

    async def _part(self, questions: dict[str, Question], before: Future[None] | None) -> None:
        self._waiting |= questions
        await asyncio.sleep(_TOGETHER)
        if before:
            await asyncio.wrap_future(before)
        waiting, self._waiting = self._waiting, {}
        new = {key: each for key, each in waiting.items() if key not in self.answers and key not in self.asked}
        self.answers |= self._ledger.find(new.values())
        missing = {key: question for key, question in new.items() if key not in self.answers}
        if missing and self._client is None:
            problem = f"replay: {len(missing)} of {len(new)} verdicts are not in {self._ledger.path}"
            raise InputError(f"{problem}; set replay: false to ask for them")
        self.asked |= missing.keys()
        if missing and self._client:
            self.failures += await self._client.ask(list(missing.values()))
            self.answers |= self._ledger.find(missing.values())


def ledger_path(ledger: Path | None, output: Path) -> Path:
    """The ledger of a judge; by default one for all runs in the same folder."""
    return Path(os.path.expanduser(ledger)) if ledger else output.absolute().parent / "judge-ledger.sqlite"
