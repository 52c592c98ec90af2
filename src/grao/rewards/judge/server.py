"""A judge on a server: pairs become questions, known answers come from the ledger, the rest from the network."""

import json
import logging
from collections.abc import Sequence

from grao.errors import InputError, RewardUnavailableError
from grao.rewards.event_loop import run_awaitable
from grao.rewards.judge.client import JudgeClient
from grao.rewards.judge.comparison import Comparison, JudgeTally, Pair
from grao.rewards.judge.costs import Budget, Estimate
from grao.rewards.judge.endpoint import Endpoint, Failure, Reply
from grao.rewards.judge.ledger import Answer, Ledger, Question
from grao.rewards.judge.orders import Orders, Shown, combine, orders_of
from grao.rewards.judge.round import Round
from grao.rewards.judge.templates import Template, context_text
from grao.rewards.judge.verdicts import parse_verdict
from grao.rewards.reward import Prompt

_LOG = logging.getLogger(__name__)
_KNOWN = ("What is the capital of France?", "It is Paris.", "I do not know.")
_CHECK_PATIENCE = 15.0
"""Seconds that a judge may be silent before the work has begun."""
_TELLING = 16
"""So many answers without a verdict among them, or failures without an answer, are no accident."""


class ServerJudge:
    """Asks an OpenAI-compatible endpoint.

    Args:
        endpoint: where, how patiently, at what price.
        template: the wording.
        ledger: keeps the answers.
        orders: `both`, or `one`: half the cost, and each pair is shown in one order that follows from the seed.
        seed: of that order.
        replay: take everything from the ledger and never use the network.
        max_cost: the most that the ledger's run may spend on this judge.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        template: Template,
        ledger: Ledger,
        orders: Orders = "both",
        seed: int = 0,
        replay: bool = False,
        max_cost: float | None = None,
    ) -> None:
        self.endpoint, self.template, self.ledger, self.orders, self.seed = endpoint, template, ledger, orders, seed
        self._settings = json.dumps(dict(endpoint.settings), sort_keys=True)
        self._known = self._question(*_KNOWN)
        budget = Budget(max_cost, ledger, endpoint.model)
        self._client = None if replay else JudgeClient(endpoint, budget, self._known, self._keep)
        self._tally, self._round = JudgeTally(), Round(ledger, self._client)

    @property
    def name(self) -> str:
        """The model's."""
        return self.endpoint.model

    @property
    def tally(self) -> JudgeTally:
        """Of the last `compare`."""
        return self._tally

    def begin(self, pairs: Sequence[Pair]) -> None:
        """See `EarlyJudge.begin`."""
        if self._client:
            asked = (self._questions(orders_of(pair, self.orders, self.seed)) for pair in pairs)
            self._round.begin([question for questions in asked for question in questions])

    def compare(self, pairs: Sequence[Pair], sample: int = 0) -> list[Comparison]:
        """See `PairwiseJudge.compare`.

        Args:
            pairs: any number; the same question is asked once.
            sample: a number besides 0 asks again what was asked before: another draw of a judge with temperature.
        """
        shown = [orders_of(pair, self.orders, self.seed) for pair in pairs]
        asked = [self._questions(orders, sample) for orders in shown]
        answers = self._answers({question.key: question for questions in asked for question in questions})
        if len(answers) >= _TELLING and not any(answer.verdict for answer in answers.values()):
            said = next(iter(answers.values())).text[:100]
            raise InputError(
                f"judge {self.endpoint}: none of its {len(answers)} answers holds a verdict, one is {said!r}; "
                "does it follow the template, and is max_tokens high enough?"
            )
        verdicts = {key: answer.verdict for key, answer in answers.items()}
        return [
            combine(orders, [verdicts.get(question.key) for question in questions])
            for orders, questions in zip(shown, asked, strict=True)
        ]

    def check(self) -> None:
        """One question on two texts of our own, kept like any other."""
        if self._client is None or self.ledger.find([self._known]):
            return
        failures = run_awaitable(self._client.ask([self._known], _CHECK_PATIENCE))
        if failures and not self.ledger.find([self._known]):  # it may have been answered as a sign of life
            raise RewardUnavailableError(f"judge {self.endpoint}: {failures[-1].reason}")

    def estimate(self, sample: Sequence[Pair], comparisons: int) -> Estimate:
        """What a number of comparisons will cost, judged by some pairs like them, at least one."""
        questions = [self._question(pair.prompt, pair.a, pair.b) for pair in sample]
        mean = sum(len(question.content.encode()) for question in questions) / len(questions)
        return Estimate.of(comparisons, 2 if self.orders == "both" else 1, mean, self.endpoint.prices)

    def _answers(self, wanted: dict[str, Question]) -> dict[str, Answer]:
        """Key -> answer; what was begun before is part of it."""
        done, self._round = self._round, Round(self.ledger, self._client)
        done.finish(wanted.values())
        if done.failures:
            self._report(done.failures, len(done.asked))
        answers = done.known | done.answered
        self._tally = JudgeTally(
            requests=len(done.asked),
            cached=len(done.known),
            unreadable=sum(answer.verdict is None for answer in answers.values()),
            failed=len(done.failures),
            cost=sum(answer.cost for answer in done.answered.values()),
        )
        return answers

    def _report(self, failures: Sequence[Failure], asked: int) -> None:
        words = f"judge {self.endpoint}: {len(failures)} of {asked} questions failed, the last: {failures[-1].reason}"
        if len(failures) == asked >= _TELLING:
            raise RewardUnavailableError(words)
        _LOG.warning("%s; these verdicts are missing", words)

    def _keep(self, question: Question, reply: Reply) -> None:
        refused = reply.ending in ("refusal", "content_filter")
        verdict = None if refused else parse_verdict(reply.text, cut=reply.ending == "length")
        cost = self.endpoint.prices.cost(reply.input_tokens, reply.output_tokens)
        answer = Answer(reply.text, reply.ending, verdict, reply.input_tokens, reply.output_tokens, cost)
        self.ledger.add(question, answer)

    def _questions(self, orders: Sequence[Shown], sample: int = 0) -> list[Question]:
        return [self._question(one.pair.prompt, *one.texts, sample) for one in orders]

    def _question(self, prompt: Prompt, text_1: str, text_2: str, sample: int = 0) -> Question:
        context, text_1, text_2 = (_clean(text) for text in (context_text(prompt), text_1, text_2))
        return Question(self.endpoint.model, self.template, context, text_1, text_2, self._settings, sample)


def _clean(text: str) -> str:
    """Without white space around it, and without halves of surrogate pairs, which no encoding takes."""
    return text.strip().encode("utf-8", "replace").decode()
