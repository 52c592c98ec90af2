"""The ledger: every answer of a judge in one SQLite file. Nothing is paid for twice, every verdict can be looked up.

An answer is filed under the SHA-256 of its question, which is everything sent to the judge: model, wording, context,
texts in order, sampling settings and sample index. So runs can share a ledger, a killed run asks only the missing
questions, and a run can be replayed without a network. Refusals and unreadable answers are kept (they were paid for),
failed requests are not. Several processes may use one file (write-ahead log); it must be on a local disk.

The ledger also enforces a run's spending cap (`Budget`) over all its processes.

To read it: `sqlite3 judge-ledger.sqlite 'select verdict, text_1, text_2 from readable'`.
"""

import asyncio
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from grao.errors import InputError, RewardUnavailableError
from grao.rewards.judge.wording import PairVerdict, Template

_SCHEMA = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
_PATIENCE = 60.0
"""Seconds to wait for another process to finish writing."""
_VERSION = 0
"""Version of the schema, stored as `user_version`."""
_GRACE = 10.0
"""A request that is still open this many seconds after its time limit was lost with its process."""
_POLL_INTERVAL = 0.1
"""Seconds between looks at the reservations of other processes."""


@dataclass(frozen=True)
class Question:
    """Everything that is sent to a judge."""

    judge: str
    """Model name."""
    template: Template
    context: str
    text_1: str
    text_2: str
    settings: str = "{}"
    """Sampling parameters as JSON."""
    sample: int = 0
    """Index of the sample, if the same question is asked several times."""

    @property
    def content(self) -> str:
        """The text of the question."""
        return self.template.render(self.context, self.text_1, self.text_2)

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) of all fields."""
        fields = [self.judge, self.template.text, self.context, self.text_1, self.text_2, self.settings, self.sample]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


@dataclass(frozen=True)
class JudgeAnswer:
    """The answer to a question, and the verdict read from it."""

    text: str
    ending: str
    """Why the judge stopped: `stop`, `length`, `refusal`, ..."""
    verdict: PairVerdict | None
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class Ledger:
    """A store of answers by question.

    Args:
        path: the file; created with the first answer or reservation.
        run: the run that new answers are charged to.

    Raises:
        InputError: here and in all methods, if the file cannot be used.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self.path, self.run = path, run.encode("utf-8", "backslashreplace").decode()  # may not be valid Unicode
        self._connection: sqlite3.Connection | None = None

    def find(self, questions: Iterable[Question]) -> dict[str, JudgeAnswer]:
        """Return {key: answer} of the questions that have an answer."""
        keys = [question.key for question in questions]
        if not keys or not os.path.exists(self.path):
            return {}
        columns = "key, answer, ending, verdict, input_tokens, output_tokens, cost"
        query = f"SELECT {columns} FROM answers WHERE key IN (SELECT value FROM json_each(?))"
        with self._open() as ledger:
            rows = ledger.execute(query, (json.dumps(keys),)).fetchall()
            return {
                key: JudgeAnswer(str(text), str(ending), PairVerdict(verdict) if verdict else None, *numbers)
                for key, text, ending, verdict, *numbers in rows
            }

    def add(self, question: Question, answer: JudgeAnswer) -> None:
        """Store an answer immediately. If another process has stored one already, that one stays."""
        texts = (question.template.text, question.context, question.text_1, question.text_2)
        hashes = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]
        row = {
            "key": question.key, "judge": question.judge, "template": question.template.name,
            **dict(zip(("wording", "context", "text_1", "text_2"), hashes, strict=True)),
            "settings": question.settings, "sample": question.sample,
            "answer": answer.text, "ending": answer.ending, "verdict": answer.verdict,
            "input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens, "cost": answer.cost,
            "run": self.run,
        }  # fmt: skip
        with self._open() as ledger, ledger:
            ledger.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", zip(hashes, texts, strict=True))
            ledger.execute(f"INSERT OR IGNORE INTO answers ({', '.join(row)}) VALUES (:{', :'.join(row)})", row)
            ledger.execute(
                "INSERT INTO spending VALUES (:run, :judge, 1, :input_tokens, :output_tokens, :cost) "
                "ON CONFLICT DO UPDATE SET answers = answers + 1, input_tokens = input_tokens + excluded.input_tokens, "
                "output_tokens = output_tokens + excluded.output_tokens, cost = cost + excluded.cost",
                row,
            )

    def spent(self, judge: str) -> float:
        """Return what all processes of this run have paid for a judge, including before a resume."""
        return self._sum("spending", judge)

    def asked(self) -> tuple[int, float]:
        """Return (number of answers, cost) of this run over all judges, counted as in `spent`."""
        if not os.path.exists(self.path):
            return 0, 0.0
        with self._open() as ledger:
            query = "SELECT total(answers), total(cost) FROM spending WHERE run = ?"
            answers, cost = ledger.execute(query, (self.run,)).fetchone()
            return int(answers), float(cost)

    def reserved(self, judge: str) -> float:
        """Return the maximum cost of this run's requests that are in flight or unresolved, over all its processes."""
        return self._sum("under_way", judge) + self._sum("reserved", judge)

    def reserve(self, judge: str, cost: float, cap: float, seconds: float = 60.0) -> int | None:
        """Reserve the maximum cost of a request, visible to all processes of the run.

        Args:
            judge: model name.
            cost: maximum cost of the request.
            cap: maximum cost of all requests of the run to this judge.
            seconds: time limit of the request.

        Returns:
            An id for `release`; None if the request must wait for others in flight to end.

        Raises:
            RewardUnavailableError: if the request could exceed the cap, and no other is in flight.
        """
        with self._open() as ledger, ledger:
            ledger.execute("BEGIN IMMEDIATE")  # no other process may read before this is decided
            now, spent, reserved = time.time(), self.spent(judge), self.reserved(judge)
            if spent + reserved + cost <= cap:
                row = (self.run, judge, cost, now + seconds + _GRACE)
                return ledger.execute("INSERT INTO under_way VALUES (NULL, ?, ?, ?, ?)", row).lastrowid
            waiting = "SELECT 1 FROM under_way WHERE run = ? AND judge = ? AND until > ? LIMIT 1"
            if ledger.execute(waiting, (self.run, judge, now)).fetchone():
                return None
        doubtful = f", plus up to {reserved:.4g} for requests without an answer" if reserved else ""
        paid = f"the judge has cost {spent:.4g}{doubtful}; the next question (up to {cost:.2g})"
        raise RewardUnavailableError(
            f"{paid} could exceed max_cost {cap:g}; raise max_cost (for a run to be resumed, in its recipe.yaml)"
        )

    def release(self, reservation: int, known: bool = True) -> None:
        """End a reservation.

        Args:
            reservation: its id.
            known: whether the cost of the request is known. If not, its maximum cost stays reserved for good.
        """
        with self._open() as ledger, ledger:
            if not known:
                doubt = "INSERT INTO reserved (run, judge, cost) SELECT run, judge, cost FROM under_way WHERE id = ?"
                ledger.execute(doubt, (reservation,))
            ledger.execute("DELETE FROM under_way WHERE id = ?", (reservation,))

    def close(self) -> None:
        """Close the file; any method reopens it."""
        if self._connection:
            self._connection.close()
            self._connection = None

    __del__ = close

    def _sum(self, table: str, judge: str) -> float:
        if not os.path.exists(self.path):
            return 0.0
        with self._open() as ledger:
            query = f"SELECT total(cost) FROM {table} WHERE run = ? AND judge = ?"
            return float(ledger.execute(query, (self.run, judge)).fetchone()[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the connection; turn errors of SQLite or the disk into an InputError."""
        try:
            if self._connection is None:
                self._connection = _connected(self.path)
            yield self._connection
        except (sqlite3.Error, OSError, ValueError) as error:
            raise InputError(f"ledger {self.path} cannot be used: {error}; repair it or use another file") from error


def _connected(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Created in the caller's thread and used in the event loop's (`_Round`), never in both at once.
    connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
    begin = time.monotonic()
    while True:
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] > _VERSION:
                raise sqlite3.DatabaseError("it was written by a newer version of grao")
            connection.executescript(_SCHEMA)
            return connection
        except sqlite3.Error as error:
            # SQLite does not wait by itself if two processes create the same file.
            if "locked" not in str(error) or time.monotonic() - begin > _PATIENCE:
                connection.close()
                raise
            time.sleep(0.02)


class Budget:
    """Admits a request only if the cap holds even if all requests in flight cost their maximum.

    Requests in flight are recorded in the ledger, so the cap holds for all processes of a run together, and after a
    kill.

    Args:
        cap: maximum total cost; None means no limit.
        ledger: of the run.
        judge: model name.
    """

    def __init__(self, cap: float | None, ledger: Ledger, judge: str) -> None:
        self.cap, self._ledger, self._judge = cap, ledger, judge
        self._queue, self._settled = asyncio.Lock(), asyncio.Event()

    async def reserve(self, bound: float, seconds: float) -> int | None:
        """Wait until a request may be sent, and reserve its maximum cost until `settle`.

        Args:
            bound: its maximum cost.
            seconds: its time limit.

        Returns:
            The reservation, for `settle`.

        Raises:
            RewardUnavailableError: if the request could exceed the cap, and no other is in flight.
        """
        if self.cap is None:
            return None
        async with self._queue:
            while (reservation := self._ledger.reserve(self._judge, bound, self.cap, seconds)) is None:
                self._settled.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._settled.wait(), _POLL_INTERVAL)
        return reservation

    def settle(self, reservation: int | None, known: bool) -> None:
        """End the reservation of a request.

        Args:
            reservation: what `reserve` returned.
            known: whether its cost is known. If not, it may have been charged, and its maximum cost counts for good.
        """
        if reservation is not None:
            self._ledger.release(reservation, known)
        self._settled.set()
