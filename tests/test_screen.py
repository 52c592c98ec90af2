"""The lines of a phase: what is done, elapsed and left is never cut; silence is broken every few seconds."""

import io
import re
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from grao.cli import screen
from grao.cli.screen import TerminalScreen, _Phase
from grao.studies.prepare import LastSample

WORDS = "GAP WIDENING  wins 23%  ties 4%  reward +0.53 over the reference  42 tokens  second 31%"


def phase(
    done: int, total: int, elapsed: float, first: int = 0, words: str = WORDS, title: str = "training", spent: str = ""
) -> _Phase:
    now = [0.0]
    made = _Phase(title, lambda: now[0], lambda: spent)
    made.resume(first)
    made.advance(done, total, words)
    now[0] = elapsed
    return made


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 200])
def test_counts_and_times_are_never_cut(width: int):
    line = phase(137, 2400, 3723).line(width)
    assert "137/2,400, 1 h 2 min, 17 h " in line
    assert " left" in line
    assert ("#" in line) == (width == 200)  # the bar goes first
    assert ("GAP" in line) == (width >= 60)  # then the end of the words
    assert line.endswith("…") == (60 <= width < 200)
    assert len(line) <= max(width, 48)


SPENT = "1,204 questions, 12.42 paid"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize(
    "title", ["3/5 training", "2/5 judging 10,000 prompts with the start model", "24/24 grao " * 9]
)
def test_titles_give_way_to_counts_times_and_money(width: int, title: str):
    made = phase(137, 2400, 3723, title=title, spent=SPENT)
    line = made.line(width)
    assert "137/2,400, 1 h 2 min, 17 h 4 min left" in line
    assert (SPENT in line) == (width >= 80)
    assert line.startswith(title[:11])
    assert len(line) <= width
    assert made.line().startswith(f"{title} 137/2,400, 1 h 2 min, 17 h 4 min left, {SPENT}, GAP")


def test_phases_know_their_place_and_what_was_spent():
    shown = io.StringIO()
    terminal = TerminalScreen(Console(file=shown))
    terminal.spending = SimpleNamespace(words=SPENT)
    terminal.phases(2)
    for title in ("first", "second", "third"):
        with terminal.stage(title):
            pass
    took = r": \d\.\d s, 1,204 questions, 12\.42 paid so far"
    assert re.fullmatch(rf"1/2 first{took}\n2/2 second{took}\nthird{took}\n", shown.getvalue())


@pytest.mark.parametrize("live", [True, False])
def test_samples_of_the_last_step(monkeypatch: pytest.MonkeyPatch, live: bool):
    monkeypatch.setattr(screen, "_PLAIN_EVERY", 0.02)
    last = [LastSample("2 + 2?\n", "\x1b[31mfour", 1.0), LastSample("say " * 150, "long " * 99, -0.5)]
    last.append(LastSample("3?", "", float("nan")))
    console = Console(file=(shown := io.StringIO()), force_terminal=live, width=60)
    with TerminalScreen(console, samples=3).training(9, lambda count: last[:count]) as callback:
        callback.on_step_end(None, SimpleNamespace(max_steps=10, global_step=4), None)
        time.sleep(0.3)
    text = shown.getvalue()
    if live:
        assert "[31mfour" not in text.replace("␛[31mfour", "")
    lines = text.splitlines()[-7:]
    assert lines[:3] == [
        "answers of step 4, each with its reward over the reference:",
        "  2 + 2?",
        "      +1.00  ␛[31mfour",
    ]
    assert lines[3].startswith("  say say say")
    assert lines[4].startswith("      -0.50  long long")
    assert lines[5:] == ["  3?", "  no reward  "]
    assert all(line.endswith("…") and len(line) == (60 if live else 400) for line in lines[3:5])
    assert text.count("answers of step 4") > 1  # while it trained too


def test_a_bar_takes_the_room_that_is_left():
    line = phase(50, 100, 60, words="").line(80)
    assert line == f"training  {'#' * 12}{'.' * 12}  50/100, 1 min 0 s, 1 min 0 s left"
    assert phase(0, 0, 5, words="").line(80) == "training  5.0 s"  # nobody knows how long
    assert phase(100, 100, 60, words="").line(80).endswith("100/100, 1 min 0 s")


def test_time_left_counts_what_was_done_here():
    assert phase(60, 100, 10, first=50).left == 40
    assert phase(50, 100, 10, first=50).left is None


def test_no_terminal_gets_a_line_every_few_seconds_in_every_phase(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(screen, "_PLAIN_EVERY", 0.05)
    shown = io.StringIO()
    with TerminalScreen(Console(file=shown)).stage("loading"):
        time.sleep(0.3)
    with TerminalScreen(Console(file=shown)).stage("before") as advance:
        advance(64, 300)
        time.sleep(0.3)
    lines = shown.getvalue().splitlines()
    assert any(re.fullmatch(r"loading [\d.]+ s", line) for line in lines)
    assert any(re.fullmatch(r"before 64/300, [\d.]+ s, [\d.]+ s left", line) for line in lines)
    assert lines[-1].startswith("before: ")


def test_steps_count_whatever_a_method_logs():
    shown = io.StringIO()
    with TerminalScreen(Console(file=shown)).training(30, lambda count: []) as callback:
        for step in range(1, 31):
            state = SimpleNamespace(max_steps=10, global_step=step)
            callback.on_step_end(None, state, None)
            callback.on_log(None, state, None, logs={"loss": 1.25})
    assert re.search(r"^training: 30 steps, [\d.]+ s; the last: loss 1\.250$", shown.getvalue(), re.MULTILINE)
