"""The ledger: every answer of a judge in one SQLite file. Nothing is paid twice, every verdict can be looked up.

An answer is filed under its question, the SHA-256 of everything that the judge was told: model, wording, context, texts
in their order, sampling settings and index. So runs share a ledger, a run that was killed asks only for what is
missing, and a run can be replayed without a network. Refusals and unreadable answers are kept (they were paid for),
failed requests are not. Several processes may use one file (write-ahead log); it must lie on a local disk.

A cap on what a run may spend is kept here too (`Budget`), so that it holds for all processes of a run.

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
"""Seconds to wait while another process writes."""
_VERSION = 0
"""Of the schema; a later one sets a higher `user_version`."""
_GRACE = 10.0
"""Seconds that a request may outlive its limit before it counts as lost with its process."""
_LOOK = 0.1
"""Seconds from look to look at what other processes hold back."""


@dataclass(frozen=True)
class Question:
    """Everything that a judge is told."""

    judge: str
    """Model name."""
    template: Template
    context: str
    text_1: str
    text_2: str
    settings: str = "{}"
    """Sampling parameters as JSON."""
    sample: int = 0
    """Counts repetitions of the same question."""

    @property
    def content(self) -> str:
        """All of it in one text."""
        return self.template.render(self.context, self.text_1, self.text_2)

    @cached_property
    def key(self) -> str:
        """SHA-256 in hex."""
        told = [self.judge, self.template.text, self.context, self.text_1, self.text_2, self.settings, self.sample]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True)
class JudgeAnswer:
    """What came back for a question, and how it was read."""

    text: str
    ending: str
    """Why the judge stopped: `stop`, `length`, `refusal`, ..."""
    verdict: PairVerdict | None
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class Ledger:
    """Answers by question.

    Args:
        path: the file; it is made with the first answer, or when something is reserved.
        run: whose spending new answers count to.

    Raises:
        InputError: here and in all methods, if the file cannot be used.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self.path, self.run = path, run.encode("utf-8", "backslashreplace").decode()  # a folder's name may be no text
        self._connection: sqlite3.Connection | None = None

    def find(self, questions: Iterable[Question]) -> dict[str, JudgeAnswer]:
        """Key -> answer, of those questions that have one."""
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
        """Keeps an answer, at once and for good. Where another process was faster, its answer stays."""
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
        """What this run has paid for a judge in all its processes, earlier starts included."""
        return self._sum("spending", judge)

    def asked(self) -> tuple[int, float]:
        """Answers that this run has got from all judges, and what they cost; counted as in `spent`."""
        if not os.path.exists(self.path):
            return 0, 0.0
        with self._open() as ledger:
            query = "SELECT total(answers), total(cost) FROM spending WHERE run = ?"
            answers, cost = ledger.execute(query, (self.run,)).fetchone()
            return int(answers), float(cost)

    def reserved(self, judge: str) -> float:
        """What requests of this run may cost that are under way or in doubt, in all its processes."""
        return self._sum("under_way", judge) + self._sum("reserved", judge)

    def reserve(self, judge: str, cost: float, cap: float, seconds: float = 60.0) -> int | None:
        """Holds back the most that a request can cost, for all processes of the run to see.

        Args:
            judge: model name.
            cost: of the request.
            cap: of all.
            seconds: that the request may take.

        Returns:
            A number to release it by; None if it has to wait until it is known what others have cost.

        Raises:
            RewardUnavailableError: if with it the run could pass the cap, and nothing is under way.
        """
        with self._open() as ledger, ledger:
            ledger.execute("BEGIN IMMEDIATE")  # nobody else may look before this is decided
            now, spent, reserved = time.time(), self.spent(judge), self.reserved(judge)
            if spent + reserved + cost <= cap:
                row = (self.run, judge, cost, now + seconds + _GRACE)
                return ledger.execute("INSERT INTO under_way VALUES (NULL, ?, ?, ?, ?)", row).lastrowid
            waiting = "SELECT 1 FROM under_way WHERE run = ? AND judge = ? AND until > ? LIMIT 1"
            if ledger.execute(waiting, (self.run, judge, now)).fetchone():
                return None
        doubtful = f" and requests without an answer up to {reserved:.4g}" if reserved else ""
        paid = f"the judge has cost {spent:.4g}{doubtful}, and with the next question, {cost:.2g} at most"
        raise RewardUnavailableError(
            f"{paid}, it could pass max_cost {cap:g}; raise max_cost, to resume a run in its recipe.yaml"
        )

    def release(self, reservation: int, known: bool = True) -> None:
        """The request has ended. Where it is not known what it has cost, it counts in full for good."""
        with self._open() as ledger, ledger:
            if not known:
                doubt = "INSERT INTO reserved (run, judge, cost) SELECT run, judge, cost FROM under_way WHERE id = ?"
                ledger.execute(doubt, (reservation,))
            ledger.execute("DELETE FROM under_way WHERE id = ?", (reservation,))

    def close(self) -> None:
        """Lets go of the file; any method opens it again."""
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
        """The connection; what SQLite or the disk complains of becomes one line."""
        try:
            if self._connection is None:
                self._connection = _connected(self.path)
            yield self._connection
        except (sqlite3.Error, OSError, ValueError) as error:
            raise InputError(f"ledger {self.path} cannot be used: {error}; mend it, or choose another file") from error


def _connected(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made in the caller's thread, used in the loop's (`Round`): never in both at once.
    connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
    begin = time.monotonic()
    while True:
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] > _VERSION:
                raise sqlite3.DatabaseError("a newer version of grao has written it")
            connection.executescript(_SCHEMA)
            return connection
        except sqlite3.Error as error:
            # SQLite does not wait by itself where two processes make the same file.
            if "locked" not in str(error) or time.monotonic() - begin > _PATIENCE:
                connection.close()
                raise
            time.sleep(0.02)


class Budget:
    """Lets a request go only if the cap holds even when everything under way costs the most that it can.

    What is under way stands in the ledger, so the cap holds for all processes of a run together, and after a kill.

    Args:
        cap: the most that may be spent; None: no limit.
        ledger: of the run.
        judge: model name.
    """

    def __init__(self, cap: float | None, ledger: Ledger, judge: str) -> None:
        self.cap, self._ledger, self._judge = cap, ledger, judge
        self._queue, self._settled = asyncio.Lock(), asyncio.Event()

    async def reserve(self, bound: float, seconds: float) -> int | None:
        """Waits until a request of at most this cost may go, and holds the sum back until `settle`.

        Args:
            bound: its cost.
            seconds: that it may take.

        Returns:
            What `settle` wants to know.

        Raises:
            RewardUnavailableError: if it never may: nothing of the run is under way, and it could pass the cap.
        """
        if self.cap is None:
            return None
        async with self._queue:
            while (reservation := self._ledger.reserve(self._judge, bound, self.cap, seconds)) is None:
                self._settled.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._settled.wait(), _LOOK)
        return reservation

    def settle(self, reservation: int | None, known: bool) -> None:
        """A request has ended.

        Args:
            reservation: what `reserve` returned.
            known: its cost is. If not, it may have been charged, and counts with its bound for good.
        """
        if reservation is not None:
            self._ledger.release(reservation, known)
        self._settled.set()
