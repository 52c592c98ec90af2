"""The ledger: what is filed under what, who paid, and many processes at once."""

import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from forked import Forked
from grao.errors import InputError
from grao.rewards.judge.ledger import JudgeAnswer, Ledger, Question
from grao.rewards.judge.wording import PairVerdict, Template

TEMPLATE = Template("mine", "{context} {text_1} {text_2}")
QUESTION = Question("judge", TEMPLATE, "context", "one", "two", '{"temperature": 0}')
ANSWER = JudgeAnswer("I say 1 > 2", "stop", PairVerdict.FIRST, input_tokens=120, output_tokens=7, cost=0.25)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "deeper" / "ledger.sqlite", "run")


def test_an_answer_is_found_again_also_later(ledger: Ledger):
    ledger.add(QUESTION, ANSWER)
    assert ledger.find([QUESTION]) == {QUESTION.key: ANSWER}
    ledger.close()
    assert Ledger(ledger.path).find([QUESTION, replace(QUESTION, sample=1)]) == {QUESTION.key: ANSWER}


def test_looking_makes_no_file(ledger: Ledger):
    assert ledger.find([QUESTION]) == {}
    assert ledger.spent("judge") == 0.0
    assert not ledger.path.parent.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"judge": "another"},
        {"template": Template("mine", "{context}: {text_1} {text_2}")},
        {"context": "Context"},
        {"text_1": "two", "text_2": "one"},
        {"text_1": "onetwo", "text_2": ""},
        {"settings": '{"temperature": 1}'},
        {"sample": 1},
    ],
)
def test_everything_that_the_judge_is_told_makes_the_question(ledger: Ledger, change: dict):
    ledger.add(QUESTION, ANSWER)
    assert ledger.find([replace(QUESTION, **change)]) == {}


def test_the_name_of_a_template_is_not_told_to_the_judge():
    assert replace(QUESTION, template=Template("renamed", TEMPLATE.text)).key == QUESTION.key


def test_refusals_and_unreadable_answers_are_kept_as_missing(ledger: Ledger):
    refused = JudgeAnswer("I cannot help with that", "refusal", None, 10, 5, 0.1)
    ledger.add(QUESTION, refused)
    assert ledger.find([QUESTION]) == {QUESTION.key: refused}


def test_the_first_answer_stays_and_both_were_paid(ledger: Ledger):
    ledger.add(QUESTION, ANSWER)
    ledger.add(QUESTION, replace(ANSWER, text="1 < 2", verdict=PairVerdict.SECOND))
    assert ledger.find([QUESTION]) == {QUESTION.key: ANSWER}
    assert ledger.spent("judge") == 0.5


def test_spending_is_by_run_and_judge(ledger: Ledger):
    ledger.add(QUESTION, ANSWER)
    ledger.add(replace(QUESTION, sample=1), ANSWER)
    other = Ledger(ledger.path, "other run")
    other.add(replace(QUESTION, sample=2), ANSWER)
    other.add(replace(QUESTION, judge="another"), replace(ANSWER, cost=4.0))
    assert ledger.spent("judge") == 0.5
    assert other.spent("judge") == 0.25
    assert other.spent("another") == 4.0
    assert ledger.spent("another") == 0.0


def test_more_questions_than_one_query_takes(ledger: Ledger):
    questions = [replace(QUESTION, sample=i) for i in range(1201)]
    for question in questions[::2]:
        ledger.add(question, ANSWER)
    assert ledger.find(questions).keys() == {question.key for question in questions[::2]}


def test_any_text_is_kept(ledger: Ledger):
    odd = replace(QUESTION, context="\0 ' \" ; -- \U0001f600", text_1="", text_2="\r\n\u2028")
    ledger.add(odd, replace(ANSWER, text="\0"))
    assert ledger.find([odd])[odd.key].text == "\0"


def test_it_is_read_with_sql(ledger: Ledger):
    ledger.add(QUESTION, ANSWER)
    with sqlite3.connect(ledger.path) as connection:
        columns = "judge, template, context, text_1, text_2, verdict, answer, settings, sample, cost, run"
        rows = connection.execute(f"SELECT {columns} FROM readable").fetchall()
        texts = connection.execute("SELECT count(*) FROM texts").fetchone()
    connection.close()
    told = ("judge", "mine", "context", "one", "two", "1 > 2", "I say 1 > 2", '{"temperature": 0}', 0, 0.25, "run")
    assert rows == [told]
    assert texts == (4,)


def test_a_file_that_is_no_ledger_is_one_line(tmp_path: Path):
    (tmp_path / "poem.txt").write_text("Roses are red, violets are blue" * 99)
    for path in (tmp_path / "poem.txt", tmp_path):
        with pytest.raises(InputError, match=f"ledger {path} cannot be used: .*; repair it or use another") as caught:
            Ledger(path).find([QUESTION])
        assert "\n" not in str(caught.value)


def test_several_processes_write_at_once(ledger: Ledger):
    def write(number: int) -> None:
        own = Ledger(ledger.path, "run")
        for i in range(150):
            own.add(replace(QUESTION, sample=i if i % 3 else 1000 * number + i), ANSWER)

    processes = [Forked(partial(write, number)) for number in (1, 2, 3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    shared = [replace(QUESTION, sample=i) for i in range(150) if i % 3]
    own = [replace(QUESTION, sample=1000 * number + i) for number in (1, 2, 3) for i in range(0, 150, 3)]
    assert len(ledger.find(shared + own)) == 100 + 150
    assert ledger.spent("judge") == pytest.approx(450 * 0.25)


def test_what_is_reserved_counts_for_all_of_the_run_until_it_is_released(ledger: Ledger):
    ledger.add(QUESTION, ANSWER)
    first = ledger.reserve("judge", 0.5, cap=1.0)
    other = Ledger(ledger.path, "run")
    assert other.reserve("judge", 0.5, cap=1.0) is None
    assert other.reserve("judge", 0.25, cap=1.0) is not None
    assert (other.reserved("judge"), other.spent("judge")) == (0.75, 0.25)
    assert Ledger(ledger.path, "other run").reserved("judge") == other.reserved("another") == 0.0
    assert first is not None
    ledger.release(first)
    assert other.reserved("judge") == 0.25


def test_processes_that_reserve_at_once_never_pass_the_cap(ledger: Ledger):
    def reserve() -> int:
        own = Ledger(ledger.path, "run")
        return sum(own.reserve("judge", 0.25, cap=25.0) is not None for _ in range(60))

    processes = [Forked(reserve) for _ in range(3)]
    granted = [process.wait() for process in processes]
    assert sum(granted) == 100
    assert ledger.reserved("judge") == 25.0
