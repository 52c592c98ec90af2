"""Judging beside sampling: a judge on a server reads the groups that are there. It changes when, and nothing else."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig
from grao.config.rewards import JudgeConfig
from grao.errors import RewardUnavailableError
from grao.records.run import read_metrics
from grao.rewards.base import EarlyReward
from grao.rewards.judge.base import JudgeTally, Pair
from grao.rewards.judge.client import Endpoint
from grao.rewards.judge.ledger import Ledger
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.server import ServerJudge
from grao.rewards.judge.wording import load_template
from grao.rewards.mix import Mix
from grao.rollouts.transformers import TransformersGenerator
from judge_server import Asked, JudgeServer, Told, longer
from tiny import letter_tokenizer, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

PAIRS = [Pair(f"question {i}", "a" * (1 + i % 3), "b" * (1 + i % 2)) for i in range(12)]

Build = Callable[..., ServerJudge]


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer().running() as running:
        yield running


@pytest.fixture
def judge(server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds one with a ledger of a name; quick to repeat and to give up."""
    monkeypatch.setattr("grao.rewards.judge.client.backoff", lambda attempts, key: 0.02 * attempts)

    def build(ledger: str = "ledger", **changes) -> ServerJudge:
        settings = {"base_url": server.url, "retries": 2, "timeout": 5.0, "patience": 8.0, **changes}
        return ServerJudge(
            Endpoint(JudgeConfig(model="judge", **settings)),
            load_template("helpful"),
            Ledger(tmp_path / f"{ledger}.sqlite"),
        )

    return build


def wait_for(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_what_was_begun_is_asked_meanwhile_and_nothing_changes(server: JudgeServer, judge: Build):
    plain = judge("plain")
    expected = plain.compare(PAIRS)
    server.asked.clear()
    asking = judge()
    asking.begin(PAIRS[:5])
    assert wait_for(lambda: len(server.asked) == 10)  # before anybody asks for a verdict
    asking.begin(PAIRS[5:9])
    assert asking.compare(PAIRS) == expected
    assert asking.tally == plain.tally == JudgeTally(requests=24)
    assert len(server.asked) == 24
    assert asking.compare(PAIRS) == expected
    assert asking.tally == JudgeTally(cached=24)


def test_parts_keep_to_the_limits_and_share_their_questions(server: JudgeServer, judge: Build):
    server.script = lambda asked: Told(longer(asked).text, delay=0.03)
    asking = judge(concurrency=5)
    for start in range(0, 12, 2):
        asking.begin(PAIRS[start : start + 3])
    asking.compare(PAIRS[::-1])
    assert asking.tally == JudgeTally(requests=24)
    assert server.most_at_once == 5
    assert set(server.answered.values()) == {1}


def test_what_fails_in_a_part_is_given_up_once_and_counted(server: JudgeServer, judge: Build):
    server.script = lambda asked: Told(status=500) if asked.context == "question 4" else longer(asked)
    asking = judge()
    asking.begin(PAIRS[:6])
    asking.begin(PAIRS[4:6])
    found = asking.compare(PAIRS)
    assert [place for place, one in enumerate(found) if math.isnan(one.value)] == [4]
    assert asking.tally == JudgeTally(requests=24, failed=2)


def test_a_judge_that_is_down_is_told_once_whatever_was_begun(server: JudgeServer, judge: Build):
    server.script = lambda asked: Told(status=503)
    asking = judge(patience=0.5)
    for pair in PAIRS:
        asking.begin([pair])
    begin = time.monotonic()
    with pytest.raises(RewardUnavailableError, match=r"no answer for 0\.5 s"):
        asking.compare(PAIRS)
    assert time.monotonic() - begin < 6
    server.script = longer
    assert [one.value for one in asking.compare(PAIRS)] == [one.value for one in judge("another").compare(PAIRS)]


ROWS = [{"prompt": f"say {word}", "reference": f"a {word} it is."} for word in ("red", "blue", "green", "grey", "pink")]


def train(folder: Path, judge: ServerJudge) -> list[dict[str, float]]:
    """Two steps of four prompts, sampled one after another; the numbers that do not speak of time."""
    config = GRAOConfig(
        folder,
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=8, batch_size=4),
        training=TrainingConfig(steps=2, prompts_per_step=4, learning_rate=1e-2, trainer={"use_cpu": True}),
    )
    reward = JudgeReward(judge)
    assert isinstance(reward, EarlyReward)
    GRAOTrainer(tiny_model(), reward, config, ROWS, processing_class=letter_tokenizer()).train()
    timed = ("seconds", "speed", "memory", "mfu")
    return [
        {name: value for name, value in step.items() if not any(word in name for word in timed)}
        for step in read_metrics(folder)
    ]


def rows_of(judge: ServerJudge) -> set[tuple[str, ...]]:
    with judge.ledger._open() as ledger:
        return set(ledger.execute("SELECT key, judge, verdict, answer, cost FROM answers"))


def test_a_training_judges_while_it_samples_and_learns_the_same(server, judge: Build, tmp_path: Path, monkeypatch):
    waited, sample = [], TransformersGenerator._sample

    def late(generator: TransformersGenerator, *arguments):
        """Samples the second prompt of the first step only after something has been asked about the first."""
        sampled.append(arguments[-1].max_new_tokens)
        if sampled.count(8) == 2:  # fewer are sampled to try the model out
            waited.append(wait_for(lambda: bool(server.asked)))
        return sample(generator, *arguments)

    sampled: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(TransformersGenerator, "_sample", late)
        early = judge("early")
        overlapped = train(tmp_path / "early", early)
    assert waited == [True]
    asked = Counter(one.body["messages"][0]["content"] for one in server.asked)
    server.asked.clear()
    monkeypatch.setattr(Mix, "begin", lambda mix, batch: None)
    late_judge = judge("late")
    assert train(tmp_path / "late", late_judge) == overlapped
    assert Counter(one.body["messages"][0]["content"] for one in server.asked) == asked
    assert set(asked.values()) == {1}
    assert rows_of(late_judge) == rows_of(early)


def test_a_judge_that_is_down_stops_a_training_while_it_samples(server, judge: Build, tmp_path: Path):
    server.script = lambda asked: Told(status=503)
    begin = time.monotonic()
    with pytest.raises(RewardUnavailableError, match="no answer for 1 s"):
        train(tmp_path / "run", judge(patience=1.0))
    assert time.monotonic() - begin < 10


def test_other_judges_and_rewards_have_nothing_to_begin(server: JudgeServer, judge: Build):
    class Shorter:
        name = "shorter"

        def relative(self, batch):
            raise NotImplementedError

    assert not isinstance(Shorter(), EarlyReward)

    def never(asked: Asked) -> Told:
        raise AssertionError

    server.script = never
    replaying = judge(replay=True)
    replaying.begin(PAIRS)
    assert not server.asked
