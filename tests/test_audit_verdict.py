"""The verdict of an audit: silent about a good reward, and for each bad one a finding that names what is bad."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from random import Random

import pytest

from grao.evaluation.agreement import agreement_table, cohens_kappa, symmetrised
from grao.evaluation.audit_figures import ITSELF, AuditedReward, agreement, policy_figures, reward_figures
from grao.records.audit import Agreement, EditItem, Finding, Forecast, GroupItem, JudgeForecast, PairItem, Reading
from grao.reports.audit import headline
from grao.rewards.judge.base import JudgedPair, JudgeTally, Pair
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.wording import PairVerdict
from grao.studies.audit import AuditedText, as_reference, read_rewards
from grao.studies.audit_verdict import verdict
from grao.types import Encoded, Example
from tiny import letter_tokenizer

Judge = Callable[[str, str, Random], float]
"""A rejected answer, its reference, luck -> R."""
N = 200


def pairs_of(judge: Judge, name: str = "r", seed: int = 0) -> list[PairItem]:
    """References and rejected answers of random lengths; by lot, the reference is the longer one in half of them."""
    luck, found = Random(seed), []
    for index in range(N):
        reference, rejected = "y" * luck.randint(5, 50), "n" * luck.randint(5, 50)
        read = {name: Reading(judge(rejected, reference, luck))}
        found.append(PairItem(f"p{index}", "q", reference, rejected, True, read))
    return found


def edits_of(itself: float = 0.0, pleasantry: float = 0.0, name: str = "r") -> list[EditItem]:
    values = {ITSELF: itself, "a closing pleasantry": pleasantry}
    return [EditItem(f"p{i}", kind, {name: Reading(value)}) for i in range(50) for kind, value in values.items()]


def figures(judge: Judge | None, kind: str = "function", edits: list[EditItem] | None = None, **more):
    pairs = pairs_of(judge) if judge else []
    subject = AuditedReward("r", kind, more.pop("role", "deciding"))
    tally = more.pop("tally", JudgeTally(requests=400))
    return reward_figures(subject, more.pop("pairs", pairs), edits_of() if edits is None else edits, tally, scale=1.0)


def good(rejected: str, reference: str, luck: Random) -> float:
    return -1.0 if luck.random() < 0.85 else 1.0


class Scripted:
    """A judge that knows its probabilities: shown first or second, the rejected answer loses; the other way for `y`."""

    name, tally = "scripted", JudgeTally(requests=2)

    def compare(self, pairs: list[Pair]) -> list[JudgedPair]:
        lost, tie = PairVerdict.SECOND, PairVerdict.TIE
        found = {"n": JudgedPair(lost, lost, -1.0, False, (0.1, 0.2, 0.7)), "y": JudgedPair(tie, lost, 0.0, True)}
        return [found[pair.a.strip()] for pair in pairs]

    def check(self) -> None: ...


def test_what_is_read_of_a_judge_and_its_calibration() -> None:
    item = Encoded(Example("q", "y", "n", {}, 1), "q", (3,), " y", (4, 1))
    assert as_reference(item, "n") == " n"
    texts = [AuditedText(item, " n"), AuditedText(item, "y")]
    read_of, tally = read_rewards(JudgeReward(Scripted()), texts, letter_tokenizer())
    assert tally.requests == 2
    assert read_of[0] == Reading(-1.0, -1.0, -1.0, probability=0.1 + 0.2 / 2)
    assert read_of[1] == Reading(0.0, 0.0, -1.0)  # equal to the reference: in training no question, here what was said
    pairs = [PairItem("p", "q", " y", " n", True, {"r": read_of[0]})] * 5
    found = figures(None, "judge", pairs=pairs).calibration
    assert (found.confidence, found.accuracy) == (pytest.approx(0.8), 1.0)
    assert found.plain_error == pytest.approx(0.2)


def groups(count: int = 64, **more) -> list[GroupItem]:
    luck = Random(1)
    settings = {"no_signal": False, "dropped": False, "truncated": [False] * 4, "tokens": [3, 4, 5, 6]} | more
    found = []
    for index in range(count):
        rewards = more.get("rewards") or [luck.choice([-1.0, -1.0, 1.0]) for _ in range(4)]
        found.append(
            GroupItem(f"p{index}", "q", "y", 4, parts={"r": rewards}, best="o", **settings | {"rewards": rewards})
        )
    return found


CHEAP = Forecast(10, 8, 640, 1.0, 0.1, 1.0, 0.0, 0.1, [])


def findings(reward=None, policy=None, agreements=(), forecast: Forecast = CHEAP, more=()) -> list[Finding]:
    reward = reward or figures(good)
    return verdict([reward, *more], list(agreements), policy_figures(policy or groups()), forecast).findings


def only(found: list[Finding]) -> str:
    assert len(found) == 1, found
    return found[0].problem


def right_in(share: float) -> Judge:
    """Right in exactly this share of the pairs, evenly spread."""
    places = count()
    return lambda rejected, reference, luck: -1.0 if next(places) * share % 1 < share else 1.0


def test_a_good_reward_is_safe() -> None:
    second = replace(figures(good), name="s", role="second")
    found = verdict([figures(good), second], [], policy_figures(groups()), CHEAP)
    assert (found.safe, found.findings, found.unchecked) == (True, [], [])
    assert headline(found) == "Safe to train: all checks of this audit passed."


def test_what_could_not_be_looked_at_is_said() -> None:
    found = verdict([figures(None, edits=[])], [], policy_figures(groups()), CHEAP)
    assert found.safe
    assert headline(found) == "Safe to train, as far as this audit could check."
    unchecked = " ".join(found.unchecked)
    for words in ("data.rejected", "audit.edits is 0", "audit.second"):
        assert words in unchecked


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (lambda rejected, reference, luck: luck.choice([-1.0, 1.0]), "not significantly better than chance"),
        (lambda rejected, reference, luck: -good(rejected, reference, luck), "prefers the rejected answers"),
        (right_in(0.58), "hardly better than chance: r is right on 58"),
        (lambda rejected, reference, luck: -1.0 if luck.random() < 0.3 else 0.0, "rarely decides: r ties on 6"),
    ],
)
def test_a_reward_that_is_wrong_or_silent(judge: Judge, words: str) -> None:
    assert words in only(findings(figures(judge)))


@pytest.mark.parametrize(("sign", "side"), [(1.0, "longer"), (-1.0, "shorter")])
def test_a_reward_that_counts_letters(sign: float, side: str) -> None:
    def judge(rejected: str, reference: str, luck: Random) -> float:
        gap = sign * (len(rejected) - len(reference))
        return (gap > 0) - (gap < 0) if luck.random() < 0.4 else good(rejected, reference, luck)

    assert f"favors the {side} answer" in only(findings(figures(judge)))


def test_a_reward_that_is_noisy_or_paid_for_form() -> None:
    assert "It is noisy: r prefers a copy" in only(findings(figures(good, edits=edits_of(itself=0.3))))
    assert "with a closing pleasantry a reference beats itself in 100 %" in only(
        findings(figures(good, edits=edits_of(pleasantry=0.3)))
    )
    assert not findings(figures(good, edits=edits_of(itself=-1.0, pleasantry=-1.0)))  # copying or form costs
    assert not findings(figures(good, edits=edits_of(itself=0.04, pleasantry=0.09)))  # too little to count


def judged(first: float, both: bool = True) -> list[PairItem]:
    """By a judge that is right, but for the share of verdicts in which it takes what is shown first."""
    luck, found = Random(0), []
    for pair in pairs_of(good):
        verdicts: list[float | None] = [place if luck.random() < first else -1.0 for place in (1.0, -1.0)]
        if not both:
            verdicts[luck.randrange(2)] = None
        said = {verdict for verdict in verdicts if verdict is not None}
        read = Reading(said.pop() if len(said) == 1 else 0.0, *verdicts)
        found.append(replace(pair, readings={"r": read}))
    return found


def test_a_judge_led_by_the_place() -> None:
    both = figures(good, "judge", pairs=judged(first=0.5))
    assert "r contradicts itself: 4" in only(findings(both))
    one = figures(good, "judge", pairs=judged(first=0.5, both=False))
    assert "the text shown first gets" in only(findings(one))
    assert not findings(figures(good, "judge", pairs=judged(first=0.1)))


def test_a_judge_that_says_nothing() -> None:
    unreadable = figures(good, "judge", tally=JudgeTally(requests=200, unreadable=30), pairs=judged(0.0))
    assert "of the answers of r hold no verdict" in only(findings(unreadable))
    failed = figures(good, "judge", tally=JudgeTally(requests=200, failed=30), pairs=judged(0.0))
    assert "of r never came" in only(findings(failed)).replace("answers of r", "of r")


def test_two_rewards_that_do_not_agree() -> None:
    apart = agreement_table(
        [Random(i).choice([-1, 1]) for i in range(100)], [Random(i + 500).choice([-1, 1]) for i in range(100)]
    )
    second = replace(figures(good), name="s", role="second")
    found = [Agreement("r", "s", cohens_kappa(symmetrised(apart)), None)]
    assert "r and s hardly agree: kappa on pairs" in only(findings(agreements=found, more=[second]))
    assert not findings(agreements=[replace(found[0], second="t")], more=[second])  # two parts of a sum may differ
    same = agreement("r", "r", pairs_of(good), groups())
    assert same.pairs.kappa.value == same.samples.kappa.value == pytest.approx(1.0)
    assert not findings(agreements=[replace(same, second="s")], more=[second])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rewards": [0.0] * 4, "no_signal": True}, "all rewards are equal in 100 %"),
        ({"rewards": [1.0, -1.0, 1.0, 1.0]}, "already better than the references: on average it beats 100 %"),
        ({"truncated": [True, True, False, False]}, "50 % (50 to 50 %) of the samples are cut"),
    ],
)
def test_a_policy_that_cannot_learn_from_it(more: dict, words: str) -> None:
    assert words in only(findings(policy=groups(**more)))


def test_missing_rewards_of_samples() -> None:
    found = findings(policy=groups(rewards=[None, None, None, None], dropped=True))
    assert [finding.problem for finding in found] == [
        "100.0 % of the policy's samples have no reward.",
        "100 % (94 to 100 %) of the groups have too few rewards to learn from.",
    ]


def test_samples_that_are_paid_by_length() -> None:
    def rewards(group: GroupItem) -> GroupItem:
        luck = Random(group.id)
        return replace(group, rewards=[0.1 * tokens - 1 + 0.02 * luck.random() for tokens in group.tokens])

    assert "rewards the longer ones" in only(findings(policy=[rewards(group) for group in groups()]))


def test_a_judge_cost_beyond_max_cost() -> None:
    dear = replace(CHEAP, judges=[JudgeForecast("helpful", 100_000, 4e7, 12.0, max_cost=5.0)])
    assert "Estimated judge cost (12.00) exceeds max_cost (5.00): helpful." in only(findings(forecast=dear))
    assert not findings(forecast=replace(dear, judges=[replace(dear.judges[0], max_cost=None)]))
    two = [JudgeForecast(name, 50_000, 2e7, 3.0, max_cost=5.0, model="m") for name in ("helpful", "harmless")]
    assert "Estimated judge cost (6.00) exceeds max_cost (5.00): helpful and harmless." in only(
        findings(forecast=replace(dear, judges=two))
    )
    assert not findings(forecast=replace(dear, judges=[two[0], replace(two[1], model="n")]))


def test_how_many_things_to_fix() -> None:
    bad = figures(lambda rejected, reference, luck: luck.choice([-1.0, 1.0]))
    one = verdict([bad], [], policy_figures(groups()), CHEAP)
    two = verdict([bad], [], policy_figures(groups(truncated=[True] * 4)), CHEAP)
    assert (one.safe, headline(one)) == (False, "Not safe to train yet: fix one problem first.")
    assert headline(two) == "Not safe to train yet: fix 2 problems first."
    assert all(finding.remedy for finding in two.findings)
