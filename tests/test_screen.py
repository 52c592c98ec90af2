"""The lines of a phase: what is done, elapsed and left is never cut; silence is broken every few seconds."""

import io
import re
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from grao.cli import screen
from grao.cli.screen import TerminalScreen, _Phase

WORDS = "DRIFTING APART  wins 23%  ties 4%  reward +0.53 over the reference  42 tokens  second 31%"


def phase(done: int, total: int, elapsed: float, first: int = 0, words: str = WORDS) -> _Phase:
    now = [0.0]
    made = _Phase("training", lambda: now[0])
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
    assert ("DRIFTING" in line) == (width >= 60)  # then the end of the words
    assert line.endswith("…") == (60 <= width < 200)
    assert len(line) <= max(width, 48)


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
    with TerminalScreen(Console(file=shown)).training(30) as callback:
        for step in range(1, 31):
            state = SimpleNamespace(global_step=step)
            callback.on_step_end(None, state, None)
            callback.on_log(None, state, None, logs={"loss": 1.25})
    assert re.search(r"^training: 30 steps, [\d.]+ s; the last: loss 1\.250$", shown.getvalue(), re.MULTILINE)
