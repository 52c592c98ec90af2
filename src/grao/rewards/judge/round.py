"""The questions of one `compare`: asked all at once, or in parts that begin while other answers are still sampled."""

import asyncio
from collections.abc import Iterable
from concurrent.futures import Future

from grao.errors import InputError
from grao.rewards.event_loop import result_of, start_awaitable
from grao.rewards.judge.client import JudgeClient
from grao.rewards.judge.endpoint import Failure
from grao.rewards.judge.ledger import Answer, Ledger, Question


class Round:
    """Looks questions up in the ledger and asks the rest; each of them once, in whatever parts they come.

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
        self.known: dict[str, Answer] = {}
        """Those that the ledger had."""
        self.asked: dict[str, Question] = {}
        self.answered: dict[str, Answer] = {}
        """Those that were asked and answered; where two processes asked the same, both go by the ledger."""
        self.failures: list[Failure] = []

    def begin(self, questions: Iterable[Question]) -> Future[None]:
        """Returns at once. After a part that ended in an exception no other begins."""
        self._last = start_awaitable(self._part({question.key: question for question in questions}, self._last))
        return self._last

    def finish(self, questions: Iterable[Question]) -> None:
        """Waits until these and all that were begun before have been asked.

        Raises:
            InputError, RewardUnavailableError: as `JudgeClient.ask`; or if there is no client and an answer is missing.
        """
        result_of(self.begin(questions))

    async def _part(self, questions: dict[str, Question], before: Future[None] | None) -> None:
        self._waiting |= questions
        if before:
            await asyncio.wrap_future(before)
        waiting, self._waiting = self._waiting, {}
        new = {key: question for key, question in waiting.items() if key not in self.known and key not in self.asked}
        self.known |= self._ledger.find(new.values())
        missing = {key: question for key, question in new.items() if key not in self.known}
        if missing and self._client is None:
            raise InputError(
                f"replay: {len(missing)} of {len(new)} verdicts are not in {self._ledger.path}; "
                "set replay: false to ask for them"
            )
        self.asked |= missing
        if missing and self._client:
            self.failures += await self._client.ask(list(missing.values()))
            self.answered |= self._ledger.find(missing.values())
