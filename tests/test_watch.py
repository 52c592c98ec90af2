"""The watch: its rule on constructed and simulated runs, and its way through a training."""

from pathlib import Path

import numpy as np
import pytest

from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig
from grao.records.run import Alarm, read_metrics
from grao.rewards.rules import overlap, refusal, repetition
from grao.training.watch import Look, Watch, alarm, alarm_text
from tiny import letter_tokenizer, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")


def looks(first, second, error: float = 0.01) -> list[Look]:
    return [Look(10 * n, a, b, error, error) for n, (a, b) in enumerate(zip(first, second, strict=True))]


RISING = np.linspace(0.2, 0.8, 12)


def test_both_rising_is_progress():
    assert alarm(looks(RISING, RISING * 0.9)) is Alarm.NONE
    assert alarm_text(looks(RISING, RISING * 0.9)) == ""


def test_both_falling_is_no_hack():
    assert alarm(looks(RISING[::-1], RISING[::-1])) is Alarm.NONE


def test_the_second_falling_while_the_first_rises_is():
    second = [0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2]
    seen = looks(RISING, second)
    assert alarm(seen) is Alarm.HACKED
    assert "fallen from 50% to 25% wins" in alarm_text(seen)
    assert alarm(seen[:6]) is Alarm.NONE


def test_the_words_name_the_means_that_were_compared_and_no_single_lucky_look():
    second = [0.4, 0.4, 0.7, 0.4, 0.4, 0.4, 0.2, 0.1, 0.0]
    assert "fallen from 50% to 10% wins" in alarm_text(looks(RISING[:9], second))


def test_a_first_reward_that_stands_still_at_the_top_is_hacked_too():
    second = [0.5] * 6 + [0.45, 0.4, 0.35, 0.3, 0.25, 0.2]
    assert alarm(looks([0.95] * 12, second)) is Alarm.HACKED


def test_a_gap_that_grows_is_told_before():
    seen = looks(RISING, [0.2] * 12)
    assert alarm(seen) is Alarm.WIDENING
    assert "has widened" in alarm_text(seen)


def test_a_constant_gap_is_none_and_so_are_few_looks():
    assert alarm(looks(RISING, RISING - 0.2)) is Alarm.NONE
    assert alarm(looks([0.2, 0.5, 0.9, 0.9, 0.9], [0.6, 0.3, 0.1, 0.1, 0.1])) is Alarm.NONE


def test_what_the_noise_explains_is_no_alarm():
    second = [0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.48, 0.46, 0.45, 0.44, 0.43, 0.42]
    assert alarm(looks(RISING, second, error=0.005)) is Alarm.HACKED
    assert alarm(looks(RISING, second, error=0.05)) is not Alarm.HACKED


def simulated(second: np.ndarray, draw: np.random.Generator, groups: int = 32) -> list[Look]:
    """Looks with 8 samples in each of so many groups, whose rates scatter around the true ones."""
    found = []
    for step, rates in enumerate(zip(np.linspace(0.3, 0.8, len(second)), second, strict=True)):
        numbers = []
        for rate in rates:
            shares = draw.binomial(8, draw.beta(4 * rate, 4 * (1 - rate), groups)) / 8
            numbers.append((shares.mean(), shares.std(ddof=1) / groups**0.5))
        (first, first_error), (other, other_error) = numbers
        found.append(Look(step, first, other, first_error, other_error))
    return found


def test_false_alarms_are_rare_and_hacks_are_caught():
    draw = np.random.default_rng(0)
    flat, hump = np.full(30, 0.4), np.concatenate([np.linspace(0.3, 0.6, 12), np.linspace(0.6, 0.2, 18)])
    runs = 200
    false = sum(
        any(alarm(seen[:n]) is Alarm.HACKED for n in range(6, 31))
        for seen in (simulated(flat, draw) for _ in range(runs))
    )
    caught = sum(alarm(simulated(hump, draw)) is Alarm.HACKED for _ in range(runs))
    assert false <= 0.06 * runs  # of 25 looks each
    assert caught >= 0.99 * runs


def test_signals():
    assert overlap("the cat sat on the mat today", "the cat sat on the mat") == pytest.approx(2 / 3)
    assert refusal("I'm sorry, but I cannot help with that.") == 1
    assert refusal("Sorry to hear that! Here is what helps.") == 0
    assert repetition("a b c a b c") == pytest.approx(1 / 4)
    assert repetition("a b") == 0


ROWS = [{"prompt": f"say {word}", "reference": f"{word} it is"} for word in ("one", "two", "three", "four")]


def many_a(completions, **_):
    """What is trained on: as many a as there can be."""
    return [text.count("a") / 8 for text in completions]


def few_a(completions, **_):
    """What was wanted: two of them, and no more."""
    return [-abs(text.count("a") - 2) for text in completions]


def train(folder: Path, watch: Watch, steps: int = 24, resume: bool = False, logging_steps: int = 1) -> GRAOTrainer:
    config = GRAOConfig(
        folder,
        rollout=RolloutConfig(group_size=8, temperature=1.0, max_new_tokens=8),
        training=TrainingConfig(
            steps=steps,
            prompts_per_step=4,
            learning_rate=1e-2,
            save_every=4,
            trainer={"use_cpu": True, "logging_steps": logging_steps},
        ),
    )
    trainer = GRAOTrainer(tiny_model(), many_a, config, ROWS, processing_class=letter_tokenizer(), watch=watch)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_it_catches_a_hacked_reward_and_stops(tmp_path: Path):
    with pytest.warns(UserWarning, match="watch: at step"):
        stopped = train(tmp_path / "stops", Watch(few_a, every=1, stop=True))
    assert 6 <= stopped.state.global_step < 24
    assert (tmp_path / "stops" / "checkpoints" / f"checkpoint-{stopped.state.global_step}").is_dir()
    lines = read_metrics(tmp_path / "stops")
    assert lines[-1]["watch/alarm"] == Alarm.HACKED
    assert all(line["watch/alarm"] < Alarm.HACKED for line in lines[:-1])
    assert lines[-1]["watch/gap"] == pytest.approx(lines[-1]["watch/first"] - lines[-1]["watch/second"])


@pytest.mark.filterwarnings("ignore:watch")
def test_it_looks_at_every_nth_step_and_changes_nothing(tmp_path: Path):
    train(tmp_path / "seen", Watch(few_a, every=5), steps=12)
    seen = read_metrics(tmp_path / "seen")
    assert [line["step"] for line in seen if "watch/second" in line] == [1, 6, 11]
    config = tmp_path / "unseen"
    blind = train(config, Watch(few_a, every=1000), steps=12)
    assert blind.state.global_step == 12
    for one, other in zip(seen, read_metrics(config), strict=True):
        assert one["reward/mean"] == other["reward/mean"]


@pytest.mark.filterwarnings("ignore:watch")
def test_a_resumed_run_remembers_what_was_seen(tmp_path: Path):
    whole = train(tmp_path / "whole", Watch(few_a, every=2), steps=16)
    train(tmp_path / "parts", Watch(few_a, every=2), steps=8)
    later = train(tmp_path / "parts", Watch(few_a, every=2), steps=16, resume=True)
    assert [look.step for look in later.watch.looks] == [look.step for look in whole.watch.looks]
    assert later.watch.looks == whole.watch.looks


@pytest.mark.filterwarnings("ignore:watch")
def test_it_also_remembers_looks_that_no_line_of_the_log_holds(tmp_path: Path):
    whole = train(tmp_path / "whole", Watch(few_a, every=2), steps=12, logging_steps=5)
    train(tmp_path / "parts", Watch(few_a, every=2), steps=8, logging_steps=5)
    later = train(tmp_path / "parts", Watch(few_a, every=2), steps=12, resume=True, logging_steps=5)
    assert len(whole.watch.looks) == 6
    assert later.watch.looks == whole.watch.looks
