"""The ledger: every answer of a judge in one SQLite file. Nothing is paid twice, every verdict can be looked up.

An answer is filed under its question, the SHA-256 of everything that the judge was told: model, wording, context, texts
in their order, sampling settings and index. So runs share a ledger, a run that was killed asks only for what is
missing, and a run can be replayed without a network. Refusals and unreadable answers are kept (they were paid for),
failed requests are not. Several processes may use one file (write-ahead log); it must lie on a local disk.

To read it: `sqlite3 judge-ledger.sqlite 'select verdict, text_1, text_2 from readable'`.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from grao.errors import InputError
from grao.rewards.judge.templates import Template
from grao.rewards.judge.verdicts import Verdict

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS texts (hash TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, template TEXT NOT NULL, wording TEXT NOT NULL,
    context TEXT NOT NULL, text_1 TEXT NOT NULL, text_2 TEXT NOT NULL, settings TEXT NOT NULL, sample INTEGER NOT NULL,
    answer TEXT NOT NULL, ending TEXT NOT NULL, verdict TEXT,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost REAL NOT NULL,
    asked TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')), run TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    run TEXT, judge TEXT, answers INTEGER, input_tokens INTEGER, output_tokens INTEGER, cost REAL,
    PRIMARY KEY (run, judge)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reserved (id INTEGER PRIMARY KEY, run TEXT, judge TEXT, cost REAL);
CREATE VIEW IF NOT EXISTS readable AS
    SELECT asked, judge, template, verdict, answer, ending, context.text AS context, first.text AS text_1,
        second.text AS text_2, settings, sample, input_tokens, output_tokens, cost, run, key
    FROM answers JOIN texts AS context ON context.hash = answers.context
        JOIN texts AS first ON first.hash = answers.text_1 JOIN texts AS second ON second.hash = answers.text_2;
"""
"""A text is kept once, though it is part of many questions. `spending` is the sum of what each run paid, `reserved` the
most that a request may cost which is under way, or of which nobody knows whether it was charged."""
_AT_ONCE = 500
"""Keys in one query."""
_PATIENCE = 60.0
"""Seconds to wait while another process writes."""


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
class Answer:
    """What came back for a question, and how it was read."""

    text: str
    ending: str
    """Why the judge stopped: `stop`, `length`, `refusal`, ..."""
    verdict: Verdict | None
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
        self.path, self.run = path, run
        self._connection: sqlite3.Connection | None = None

    def find(self, questions: Iterable[Question]) -> dict[str, Answer]:
        """Key -> answer, of those questions that have one."""
        keys = [question.key for question in questions] if self.path.exists() else []
        found: dict[str, Answer] = {}
        for start in range(0, len(keys), _AT_ONCE):
            found |= self._some(keys[start : start + _AT_ONCE])
        return found

    def add(self, question: Question, answer: Answer) -> None:
        """Keeps an answer, at once and for good. Where another process was faster, its answer stays."""
        parts = {_hash(text): text for text in _texts(question)}
        wording, context, text_1, text_2 = map(_hash, _texts(question))
        row = (
            *(question.key, question.judge, question.template.name, wording, context, text_1, text_2),
            *(question.settings, question.sample, answer.text, answer.ending, answer.verdict),
            *(answer.input_tokens, answer.output_tokens, answer.cost, self.run),
        )
        spent = (self.run, question.judge, 1, answer.input_tokens, answer.output_tokens, answer.cost)
        with self._open() as ledger, ledger:
            ledger.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", parts.items())
            ledger.execute(
                "INSERT OR IGNORE INTO answers (key, judge, template, wording, context, text_1, text_2, settings, "
                f"sample, answer, ending, verdict, input_tokens, output_tokens, cost, run) VALUES ({_places(row)})",
                row,
            )
            ledger.execute(
                "INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET answers = answers + 1, "
                "input_tokens = input_tokens + excluded.input_tokens, cost = cost + excluded.cost, "
                "output_tokens = output_tokens + excluded.output_tokens",
                spent,
            )

    def spent(self, judge: str) -> float:
        """What this run has paid for a judge in all its processes, earlier starts included."""
        return self._sum("spending", judge)

    def reserved(self, judge: str) -> float:
        """What requests of this run may cost that are under way or in doubt, in all its processes."""
        return self._sum("reserved", judge)

    def reserve(self, judge: str, cost: float, cap: float) -> int | None:
        """Holds back the most that a request can cost, for all processes of the run to see.

        Returns:
            A number to release it by; None if with it the run could pass the cap.
        """
        with self._open() as ledger, ledger:
            ledger.execute("BEGIN IMMEDIATE")  # nobody else may look before this is decided
            if self.spent(judge) + self.reserved(judge) + cost > cap:
                return None
            row = (self.run, judge, cost)
            return ledger.execute("INSERT INTO reserved (run, judge, cost) VALUES (?, ?, ?)", row).lastrowid

    def release(self, reservation: int) -> None:
        """It is known what the request has cost."""
        with self._open() as ledger, ledger:
            ledger.execute("DELETE FROM reserved WHERE id = ?", (reservation,))

    def close(self) -> None:
        """Lets go of the file; any method opens it again."""
        if self._connection:
            self._connection.close()
            self._connection = None

    __del__ = close

    def _sum(self, table: str, judge: str) -> float:
        if not self.path.exists():
            return 0.0
        with self._open() as ledger:
            query = f"SELECT total(cost) FROM {table} WHERE run = ? AND judge = ?"
            return float(ledger.execute(query, (self.run, judge)).fetchone()[0])

    def _some(self, keys: list[str]) -> dict[str, Answer]:
        columns = "key, answer, ending, verdict, input_tokens, output_tokens, cost"
        with self._open() as ledger:
            query = f"SELECT {columns} FROM answers WHERE key IN ({_places(keys)})"
            rows = ledger.execute(query, keys).fetchall()
        return {
            key: Answer(text, ending, Verdict(verdict) if verdict else None, *numbers)
            for key, text, ending, verdict, *numbers in rows
        }

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection; what SQLite or the disk complains of becomes one line."""
        try:
            if self._connection is None:
                self._connection = _connected(self.path)
            yield self._connection
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"ledger {self.path} cannot be used: {error}; mend it, or choose another file") from error


def _connected(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made in the caller's thread, used in the loop's (`Round`): never in both at once.
    connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
    begin = time.monotonic()
    while True:
        try:
            connection.executescript(_SCHEMA)
            return connection
        except sqlite3.Error as error:
            # SQLite does not wait by itself where two processes make the same file.
            if "locked" not in str(error) or time.monotonic() - begin > _PATIENCE:
                connection.close()
                raise
            time.sleep(0.02)


def _places(values: Sized) -> str:
    return ", ".join("?" * len(values))


def _texts(question: Question) -> tuple[str, str, str, str]:
    return question.template.text, question.context, question.text_1, question.text_2


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
