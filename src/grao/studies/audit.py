"""One audit from a recipe, before training: what its rewards are worth, and what its model makes of them.

audit.json   all figures with what they rest on, and the verdict
audit.html   the same to look at

The rewards under audit are those of the recipe, their sum and a second one to compare with. All of them read the same
texts, each against the reference of its prompt, and everything is asked as in training: the samples are those of the
run's first steps, drawn with the same keys, so that a judge's ledger has their verdicts when the run begins. No weight
moves. Left out: several processes, and the rewards' behaviour on texts that training has not yet led the model to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig
from grao.core import group_advantages
from grao.errors import InputError, RewardUnavailableError
from grao.evaluation import audit_figures as figures
from grao.evaluation.agreement import bradley_terry
from grao.evaluation.answers import missing_as_none, single_batch
from grao.records.audit import Audit, EditItem, GroupItem, PairItem, Reading, write_audit
from grao.records.run import now
from grao.reports.audit import write_audit_page
from grao.rewards.base import Reward, RewardBatch, ask
from grao.rewards.judge.base import JudgedPair, JudgeTally, Pair
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.mix import Mix, make_reward
from grao.rollouts.base import draw_key
from grao.studies.audit_verdict import verdict
from grao.studies.doubts import related_judges
from grao.studies.forecast import judge_forecast, judge_forecasts, try_groups, workload
from grao.studies.given import PAIR_SIDES, read_labels
from grao.studies.prepare import Prepared, Screen, check_writable, prepare, probe
from grao.training.experience import shuffled
from grao.types import Encoded, Group, Role

_CHUNK = 128
"""Texts between two signs of progress."""


@dataclass(frozen=True)
class Text:
    """A text that answers a prompt."""

    item: Encoded
    text: str
    """In the form of `item.reference_text` (`as_reference`)."""


@dataclass(frozen=True)
class Member(figures.Subject):
    """A reward that is asked."""

    reward: Reward
    config: RewardConfig

    @property
    def logistic(self) -> bool:
        """Whether its R is a difference of scores that may be read as Bradley and Terry's."""
        return self.kind in ("reward model", "function") and self.config.relative == "difference"


def audit_folder(recipe: Recipe) -> Path:
    """Where the audit of a recipe goes."""
    return recipe.audit.output or Path(f"{recipe.output}-audit")


def audit_rewards(recipe: Recipe, screen: Screen) -> Audit:
    """Asks, reckons, judges, and writes both files; an earlier audit in the folder is replaced.

    Raises:
        InputError: for a mistake in recipe, data, model or rewards.
        RewardUnavailableError: if a reward cannot be had.
        KeyboardInterrupt: after Ctrl-C; its text says what is kept.
    """
    folder = audit_folder(recipe)
    check_writable(folder)
    screen.follow(recipe)
    with screen.stage("loading data, model and rewards"):
        ready = prepare(recipe)
    if ready.trainer.accelerator.num_processes > 1:
        raise InputError("grao reward audit runs as one process; start it without a launcher")
    panel, pairs, edits = Panel(ready), _pairs(ready), _edits(ready)
    _introduce(ready, panel, len(pairs), len(edits), screen)
    screen.phases(bool(pairs) + bool(edits) + 1)
    judged = any(isinstance(member.reward, JudgeReward) for member in panel.members)
    kept = "; the answers of a judge on a server are kept, the same command goes on from there" if judged else ""
    try:
        audit = _audit(ready, panel, pairs, edits, screen)
    except RewardUnavailableError as error:
        raise RewardUnavailableError(f"{error}{kept}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped, nothing is written{kept}") from None
    write_audit(folder, audit)
    write_audit_page(folder, audit)
    return audit


class Panel:
    """The rewards of a run, their sum and a second reward: asks all of them, and counts what their questions took.

    Args:
        ready: the run. The second reward is that of `audit`, else that of `watch`.

    Attributes:
        own: the rewards of the run.
        second: the reward to compare with.
        members: all that are asked: the run's own, and the second one.
        subjects: all that have figures; what decides, the sum if there is one, comes first.
        tallies: what the questions to each subject took so far, by its name.
    """

    def __init__(self, ready: Prepared) -> None:
        recipe, trainer = ready.recipe, ready.trainer
        self.mix, self._tokenizer = trainer.rewards, trainer.tokenizer
        summed = len(self.mix.rewards) > 1 or self.mix.objectives[0].weight <= 0
        self.sum = figures.Subject("sum of the rewards", "sum", "deciding") if summed else None
        role: Literal["part", "deciding"] = "part" if summed else "deciding"
        sections = zip(self.mix.rewards, recipe.rewards, strict=True)
        self.own = [Member(reward.name, _kind(config), role, reward, config) for reward, config in sections]
        reward, section = None, recipe.audit.second
        if section:
            reward = make_reward(section, recipe)
            probe(Mix([reward]), [item.example for item in trainer.train_items.items], self._tokenizer)
        elif trainer.watch and recipe.watch:
            reward, section = trainer.watch.reward.rewards[0], recipe.watch.reward
        self.second: Member | None = None
        if reward and section:
            name = f"{reward.name} (second)" if reward.name in [member.name for member in self.own] else reward.name
            self.second = Member(name, _kind(section), "second", reward, section)
        self.members = [*self.own, *([self.second] if self.second else [])]
        self.subjects: list[figures.Subject] = [*([self.sum] if self.sum else []), *self.members]
        self.tallies = {subject.name: JudgeTally() for subject in self.subjects}

    def ask(self, texts: Sequence[Text], screen: Screen, title: str) -> list[dict[str, Reading]]:
        """What every reward, and their sum, says of each text, by name; shown as a stage.

        Raises:
            InputError, RewardUnavailableError: as `Reward.relative`.
        """
        readings: list[dict[str, Reading]] = []
        if not texts:
            return readings
        with screen.stage(title) as advance:
            for start in range(0, len(texts), _CHUNK):
                chunk = texts[start : start + _CHUNK]
                said = {member.name: self.ask_member(member, chunk) for member in self.members}
                if self.sum:
                    said[self.sum.name] = _summed(self.mix, [said[member.name] for member in self.own])
                readings += [dict(zip(said, of_text, strict=True)) for of_text in zip(*said.values(), strict=True)]
                advance(len(readings), len(texts))
        return readings

    def ask_member(self, member: Member, texts: Sequence[Text]) -> list[Reading]:
        """What one reward says of each text."""
        readings, tally = read(member.reward, texts, self._tokenizer, member.logistic)
        self.count({member.name: vars(tally)})
        return readings

    def count(self, tallies: Mapping[str, Mapping[str, Tensor | float]]) -> None:
        """Adds what a call took, by reward: that of a member, or of the mix (`MixedRewards.tallies`)."""
        for name, tally in tallies.items():
            before = vars(self.tallies[name])
            self.tallies[name] = JudgeTally(**{field: total + tally[field] for field, total in before.items()})


def _audit(
    ready: Prepared, panel: Panel, pairs: Sequence[tuple[Text, bool]], edits: Sequence[tuple[str, Text]], screen: Screen
) -> Audit:
    recipe, confidence = ready.recipe, ready.recipe.evaluation.confidence
    ids = [text.item.example.id for text, _ in pairs]
    given = read_labels(recipe.audit.labels, ids, ["rejected"], PAIR_SIDES) if recipe.audit.labels else {"rejected": {}}
    people = {prompt: label.preferred for prompt, label in given["rejected"].items()}
    title = f"judging {len(pairs):,} rejected answers"
    said = panel.ask([text for text, _ in pairs], screen, title)
    pair_items = [
        PairItem(text.item.example.id, text.item.prompt_text, text.item.reference_text, text.text, held_out, read)
        for (text, held_out), read in zip(pairs, said, strict=True)
    ]
    said = panel.ask([text for _, text in edits], screen, f"judging {len(edits):,} edits and wrong answers")
    edit_items = [EditItem(text.item.example.id, name, read) for (name, text), read in zip(edits, said, strict=True)]
    groups, timing = _sample_policy(ready, panel, screen)

    rewards = []
    for subject in panel.subjects:
        scale = figures.mean_size([group.parts.get(subject.name, group.rewards) for group in groups])
        tally = panel.tallies[subject.name]
        rewards.append(figures.reward_figures(subject, pair_items, edit_items, tally, scale, confidence))
    both = [(panel.subjects[0].name, panel.second.name)] if panel.second else []
    compared = [*both, *combinations([member.name for member in panel.own], 2)]
    agreements = [figures.agreement(*names, pair_items, groups, confidence) for names in compared]
    if people:
        agreements.append(figures.agreement_with_people(panel.subjects[0].name, pair_items, people, confidence))
    policy = figures.policy_figures(groups, confidence)
    work, size = workload(ready), (ready.steps, recipe.training.prompts_per_step, recipe.rollout.group_size)
    drawn, judgements = work.samples + work.answers, work.samples + work.judged
    expected = figures.forecast(timing, *size, drawn, judgements, judge_forecasts(ready))
    related = [doubt.words for doubt in related_judges(recipe, [recipe.model.path])]
    judged = verdict(rewards, agreements, policy, expected, related)
    ended = {"status": "finished", "finished": now(), "command": "grao reward audit --config recipe.yaml"}
    manifest = ready.manifest.model_copy(update=ended)
    return Audit(confidence, rewards, agreements, policy, expected, judged, pair_items, edit_items, groups, manifest)


def _sample_policy(ready: Prepared, panel: Panel, screen: Screen) -> tuple[list[GroupItem], figures.Timing]:
    """Groups of the run's first steps, as every reward sees them; a second one is asked about the first samples."""
    trial = try_groups(ready, ready.recipe.audit.prompts, screen)
    panel.count(trial.mixed.tallies)
    said = {name: [missing_as_none(row) for row in part.tolist()] for name, part in trial.mixed.parts.items()}
    if panel.second:
        readings = panel.ask_member(panel.second, [Text(group.item, group.texts[0]) for group in trial.groups])
        said[panel.second.name] = [[reading.value] for reading in readings]
    return _group_items(trial.groups, trial.mixed.total, said), trial.timing


def _group_items(groups: Sequence[Group], total: Tensor, parts: dict[str, list[list[float | None]]]) -> list[GroupItem]:
    advantages = group_advantages(total, total.new_zeros(len(total)))  # whatever the method
    best = total.nan_to_num(-math.inf, math.inf, -math.inf).numpy().argmax(axis=1)  # the first of equals
    return [
        GroupItem(
            id=group.item.example.id,
            prompt=group.item.prompt_text,
            reference=group.item.reference_text,
            reference_tokens=len(group.item.reference_ids),
            rewards=missing_as_none(total[index].tolist()),
            parts={name: part[index] for name, part in parts.items()},
            no_signal=bool(advantages.no_signal[index]),
            dropped=bool(advantages.dropped[index]),
            tokens=group.tokens(Role.SAMPLE),
            truncated=[sample.truncated for sample in group.samples],
            best=group.texts[best[index]],
        )
        for index, group in enumerate(groups)
    ]


def _pairs(ready: Prepared) -> list[tuple[Text, bool]]:
    """The rejected answers, and whether their prompts are held out: those first, then training prompts by lot."""
    train, tested = ready.trainer.train_items.items, ready.trainer.eval_items
    drawn = [train[index] for index in shuffled(len(train), draw_key(ready.recipe.seed, "audit"))]
    pool = [*((item, True) for item in (tested.items if tested else [])), *((item, False) for item in drawn)]
    worse = [(item, item.example.rejected, held_out) for item, held_out in pool]
    pairs = [(Text(item, as_reference(item, text)), held_out) for item, text, held_out in worse if text is not None]
    return pairs[: ready.recipe.audit.pairs]


def _edits(ready: Prepared) -> list[tuple[str, Text]]:
    """References of the first training prompts, each as it is and with every edit that changes it; wrong answers."""
    items = ready.trainer.train_items.items[: ready.recipe.audit.edits]
    edits = [(name, Text(item, text)) for item in items for name, text in figures.edited(item.reference_text).items()]
    wrong = figures.wrong_texts([item.example for item in items])
    return [*edits, *((name, Text(items[index], as_reference(items[index], text))) for name, index, text in wrong)]


def _introduce(ready: Prepared, panel: Panel, pairs: int, edits: int, screen: Screen) -> None:
    """What there is to ask about, and what each judge on a server will be asked at most."""
    items = ready.trainer.train_items.items
    groups = min(ready.recipe.audit.prompts, len(items))
    samples = groups * ready.recipe.rollout.group_size
    rejected = f"{pairs:,} pairs of reference and rejected answer" if pairs else "no rejected answers, so no accuracy"
    screen.say(f"{rejected}; {edits:,} references, edits of them and wrong answers; {samples:,} samples of the model")
    for member in panel.members:
        asked = pairs + edits + (groups if member is panel.second else samples)
        if expected := judge_forecast(member.reward, member.config, items, asked):
            screen.say(expected.words)


def as_reference(item: Encoded, answer: str) -> str:
    """An answer of the data in the form of `item.reference_text`: with the white space that that got."""
    gap = item.reference_text.removesuffix(item.example.reference)
    return answer if answer[:1].isspace() else gap + answer


def read(
    reward: Reward, texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, logistic: bool = False
) -> tuple[list[Reading], JudgeTally]:
    """What a reward says of each text, and what asking took.

    A judge is asked about texts that equal their reference too, which in training it is not: there R is 0, and only the
    verdicts in their places tell what it said.

    Args:
        reward: of any kind; of a judge the two orders and the probabilities are kept.
        texts: N.
        tokenizer: the model's.
        logistic: read a difference of scores as Bradley and Terry's probability.

    Raises:
        InputError, RewardUnavailableError: as `Reward.relative`.
    """
    if isinstance(reward, JudgeReward):
        pairs = [Pair(text.item.example.prompt, text.text, text.item.reference_text) for text in texts]
        judged = zip(pairs, reward.judge.compare(pairs), strict=True)
        return [_judged(pair, comparison) for pair, comparison in judged], reward.judge.tally
    values = missing_as_none(ask(reward, _batch(texts, tokenizer)).squeeze(1).tolist())
    claimed = bradley_terry(values) if logistic else [None] * len(values)
    return [Reading(value, probability=p) for value, p in zip(values, claimed, strict=True)], JudgeTally()


def _summed(mix: Mix, parts: Sequence[Sequence[Reading]]) -> list[Reading]:
    """The sum of a mix from what each of its rewards said of the same texts; each text counts as a group of its own."""
    values = [[math.nan if each.value is None else each.value for each in part] for part in parts]
    total = mix.combine(list(torch.tensor(values, dtype=torch.float64)[..., None]))
    return [Reading(value) for value in missing_as_none(total.squeeze(1).tolist())]


def _judged(pair: Pair, comparison: JudgedPair) -> Reading:
    better = comparison.probabilities
    value, probability = missing_as_none([comparison.value, better[0] + better[1] / 2 if better else math.nan])
    first, second = (said.reward if said else None for said in (comparison.a_first, comparison.b_first))
    return Reading(0.0 if pair.a.strip() == pair.b.strip() else value, first, second, probability)


def _batch(texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> RewardBatch:
    """N groups of one, each closed with the token that closes its reference."""
    items, answers = [text.item for text in texts], [text.text for text in texts]
    ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
    closed = [
        item.reference_ids if answer == item.reference_text else (*of_answer, item.reference_ids[-1])
        for item, answer, of_answer in zip(items, answers, ids, strict=True)
    ]
    references = [(item.reference_text, item.reference_ids) for item in items]
    return single_batch([item.example for item in items], list(zip(answers, closed, strict=True)), references)


def _kind(config: RewardConfig) -> str:
    sources = {"judge": config.judge, "reward model": config.model, "rule": config.rule}
    return next((kind for kind, source in sources.items() if source), "function")
