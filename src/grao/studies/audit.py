"""`grao reward audit`: before training, how good the rewards of a recipe are, and what signal its model gets from them.

audit.json   all figures with the data behind them, and the verdict
audit.html   the same as a page

Audited are the rewards of the recipe, their sum, and a second reward to compare with. All of them rate the same texts,
each against the reference of its prompt, with the questions of training. The samples are those of the run's first
steps, with the same random keys, so a judge's ledger has their verdicts when the run begins. No weight changes. Not
covered: several processes, and texts that the model produces only after training.
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
"""Texts between two progress updates."""


@dataclass(frozen=True)
class AuditedText:
    """An answer to a prompt."""

    item: Encoded
    text: str
    """With the same leading white space as `item.reference_text` (`as_reference`)."""


@dataclass(frozen=True)
class PanelMember(figures.AuditedReward):
    """A single reward under audit, and its section."""

    reward: Reward
    config: RewardConfig

    @property
    def logistic(self) -> bool:
        """Whether R is a difference of scores that can be read as a Bradley-Terry logit."""
        return self.kind in ("reward model", "function") and self.config.relative == "difference"


def audit_folder(recipe: Recipe) -> Path:
    """Return the folder of a recipe's audit."""
    return recipe.audit.output or Path(f"{recipe.output}-audit")


def audit_rewards(recipe: Recipe, screen: Screen) -> Audit:
    """Audit the rewards of a recipe and write both files; an earlier audit in the folder is replaced.

    Raises:
        InputError: for a mistake in recipe, data, model or rewards.
        RewardUnavailableError: if a reward is unavailable.
        KeyboardInterrupt: after Ctrl-C; its message says what is kept.
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
    kept = "; verdicts of judges on servers are kept, the same command goes on from there" if judged else ""
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
    """The rewards of a run, their sum and a second reward: asks them all, and counts the questions to judges.

    Args:
        ready: the run. The second reward is that of `audit.second`, else that of `watch`.

    Attributes:
        own: the rewards of the run.
        second: the reward to compare with.
        members: all single rewards: the run's own, and the second one.
        subjects: all rewards with figures; the deciding one comes first, which is the sum if there is one.
        tallies: questions to each subject so far, by name.
    """

    def __init__(self, ready: Prepared) -> None:
        recipe, trainer = ready.recipe, ready.trainer
        self.mix, self._tokenizer = trainer.rewards, trainer.tokenizer
        summed = len(self.mix.rewards) > 1 or self.mix.objectives[0].weight <= 0
        self.sum = figures.AuditedReward("sum of the rewards", "sum", "deciding") if summed else None
        role: Literal["part", "deciding"] = "part" if summed else "deciding"
        sections = zip(self.mix.rewards, recipe.rewards, strict=True)
        self.own = [PanelMember(reward.name, _kind(config), role, reward, config) for reward, config in sections]
        reward, section = None, recipe.audit.second
        if section:
            reward = make_reward(section, recipe)
            probe(Mix([reward]), [item.example for item in trainer.train_items.items], self._tokenizer)
        elif trainer.watch and recipe.watch:
            reward, section = trainer.watch.reward.rewards[0], recipe.watch.reward
        self.second: PanelMember | None = None
        if reward and section:
            name = f"{reward.name} (second)" if reward.name in [member.name for member in self.own] else reward.name
            self.second = PanelMember(name, _kind(section), "second", reward, section)
        self.members = [*self.own, *([self.second] if self.second else [])]
        self.subjects: list[figures.AuditedReward] = [*([self.sum] if self.sum else []), *self.members]
        self.tallies = {subject.name: JudgeTally() for subject in self.subjects}

    def ask(self, texts: Sequence[AuditedText], screen: Screen, title: str) -> list[dict[str, Reading]]:
        """Return, for each text, {name of a reward or of the sum: its reading}; shown as a stage.

        Raises:
            InputError, RewardUnavailableError: as `Reward.relative`.
        """
        readings: list[dict[str, Reading]] = []
        if not texts:
            return readings
        with screen.stage(title) as advance:
            for start in range(0, len(texts), _CHUNK):
                chunk = texts[start : start + _CHUNK]
                columns = {member.name: self.ask_member(member, chunk) for member in self.members}
                if self.sum:
                    columns[self.sum.name] = _summed(self.mix, [columns[member.name] for member in self.own])
                readings += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
                advance(len(readings), len(texts))
        return readings

    def ask_member(self, member: PanelMember, texts: Sequence[AuditedText]) -> list[Reading]:
        """Return the reading of each text by one reward."""
        readings, tally = read_rewards(member.reward, texts, self._tokenizer, member.logistic)
        self.count({member.name: vars(tally)})
        return readings

    def count(self, tallies: Mapping[str, Mapping[str, Tensor | float]]) -> None:
        """Add the tallies of a call: {name of a reward: its tally}, as in `MixedRewards.tallies`."""
        for name, tally in tallies.items():
            before = vars(self.tallies[name])
            self.tallies[name] = JudgeTally(**{field: total + tally[field] for field, total in before.items()})


def _audit(
    ready: Prepared,
    panel: Panel,
    pairs: Sequence[tuple[AuditedText, bool]],
    edits: Sequence[tuple[str, AuditedText]],
    screen: Screen,
) -> Audit:
    recipe, confidence = ready.recipe, ready.recipe.evaluation.confidence
    ids = [text.item.example.id for text, _ in pairs]
    path = recipe.audit.labels
    labels = read_labels(path, ids, ["rejected"], PAIR_SIDES) if path else {"rejected": {}}
    human = {prompt: label.preferred for prompt, label in labels["rejected"].items()}
    readings = panel.ask([text for text, _ in pairs], screen, f"judging {len(pairs):,} rejected answers")
    pair_items = [
        PairItem(text.item.example.id, text.item.prompt_text, text.item.reference_text, text.text, held_out, by_reward)
        for (text, held_out), by_reward in zip(pairs, readings, strict=True)
    ]
    readings = panel.ask([text for _, text in edits], screen, f"judging {len(edits):,} edits and wrong answers")
    edited = zip(edits, readings, strict=True)
    edit_items = [EditItem(text.item.example.id, name, by_reward) for (name, text), by_reward in edited]
    groups, timing = _sample_policy(ready, panel, screen)

    rewards = []
    for subject in panel.subjects:
        scale = figures.mean_size([group.parts.get(subject.name, group.rewards) for group in groups])
        tally = panel.tallies[subject.name]
        rewards.append(figures.reward_figures(subject, pair_items, edit_items, tally, scale, confidence))
    second = [(panel.subjects[0].name, panel.second.name)] if panel.second else []
    compared = [*second, *combinations([member.name for member in panel.own], 2)]
    agreements = [figures.agreement(*names, pair_items, groups, confidence) for names in compared]
    if human:
        agreements.append(figures.agreement_with_people(panel.subjects[0].name, pair_items, human, confidence))
    policy = figures.policy_figures(groups, confidence)
    work, size = workload(ready), (ready.steps, recipe.training.prompts_per_step, recipe.rollout.group_size)
    sampled, comparisons = work.samples + work.answers, work.samples + work.judged
    expected = figures.forecast(timing, *size, sampled, comparisons, judge_forecasts(ready))
    related = [doubt.words for doubt in related_judges(recipe, [recipe.model.path])]
    judgment = verdict(rewards, agreements, policy, expected, related)
    ended = {"status": "finished", "finished": now(), "command": "grao reward audit --config recipe.yaml"}
    manifest = ready.manifest.model_copy(update=ended)
    return Audit(confidence, rewards, agreements, policy, expected, judgment, pair_items, edit_items, groups, manifest)


def _sample_policy(ready: Prepared, panel: Panel, screen: Screen) -> tuple[list[GroupItem], figures.Timing]:
    """Return groups of the run's first steps with all rewards, and times; the second reward rates a sample of each."""
    trial = try_groups(ready, ready.recipe.audit.prompts, screen)
    panel.count(trial.mixed.tallies)
    parts = {name: [missing_as_none(row) for row in part.tolist()] for name, part in trial.mixed.parts.items()}
    if panel.second:
        readings = panel.ask_member(panel.second, [AuditedText(group.item, group.texts[0]) for group in trial.groups])
        parts[panel.second.name] = [[reading.value] for reading in readings]
    return _group_items(trial.groups, trial.mixed.total, parts), trial.timing


def _group_items(groups: Sequence[Group], total: Tensor, parts: dict[str, list[list[float | None]]]) -> list[GroupItem]:
    advantages = group_advantages(total, total.new_zeros(len(total)))  # whatever the method
    best = total.nan_to_num(-math.inf, math.inf, -math.inf).numpy().argmax(axis=1)  # the first of several
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


def _pairs(ready: Prepared) -> list[tuple[AuditedText, bool]]:
    """Return (rejected answer, whether its prompt is held out): held-out prompts first, then others in random order."""
    train, tested = ready.trainer.train_items.items, ready.trainer.eval_items
    shuffled_train = [train[index] for index in shuffled(len(train), draw_key(ready.recipe.seed, "audit"))]
    pool = [*((item, True) for item in (tested.items if tested else [])), *((item, False) for item in shuffled_train)]
    rejected = [(item, item.example.rejected, held_out) for item, held_out in pool]
    pairs = [
        (AuditedText(item, as_reference(item, text)), held_out) for item, text, held_out in rejected if text is not None
    ]
    return pairs[: ready.recipe.audit.pairs]


def _edits(ready: Prepared) -> list[tuple[str, AuditedText]]:
    """Return the first training prompts' references, unchanged and with every edit that changes them; wrong answers."""
    items = ready.trainer.train_items.items[: ready.recipe.audit.edits]
    edits = [
        (name, AuditedText(item, text))
        for item in items
        for name, text in figures.trivial_edits(item.reference_text).items()
    ]
    wrong = figures.wrong_texts([item.example for item in items])
    return edits + [(name, AuditedText(items[index], as_reference(items[index], text))) for name, index, text in wrong]


def _introduce(ready: Prepared, panel: Panel, pairs: int, edits: int, screen: Screen) -> None:
    """Show the number of texts, and the maximum number of questions to each judge on a server."""
    items = ready.trainer.train_items.items
    groups = min(ready.recipe.audit.prompts, len(items))
    samples = groups * ready.recipe.rollout.group_size
    rejected = f"{pairs:,} pairs of reference and rejected answer" if pairs else "no rejected answers, so no accuracy"
    screen.say(f"{rejected}; {edits:,} references, edits of them and wrong answers; {samples:,} samples of the model")
    for member in panel.members:
        comparisons = pairs + edits + (groups if member is panel.second else samples)
        if expected := judge_forecast(member.reward, member.config, items, comparisons):
            screen.say(expected.words)


def as_reference(item: Encoded, answer: str) -> str:
    """Return an answer of the data with the leading white space that encoding gave `item.reference_text`."""
    gap = item.reference_text.removesuffix(item.example.reference)
    return answer if answer[:1].isspace() else gap + answer


def read_rewards(
    reward: Reward, texts: Sequence[AuditedText], tokenizer: PreTrainedTokenizerBase, logistic: bool = False
) -> tuple[list[Reading], JudgeTally]:
    """Return the reading of each text by a reward, and the tally of the questions.

    Unlike in training, a judge is also asked about texts that equal their reference. Their R is 0; only the verdicts of
    the two orders show what it said.

    Args:
        reward: of any kind; for a judge, both orders and the probabilities are kept.
        texts: N answers.
        tokenizer: of the model.
        logistic: read a difference of scores as a Bradley-Terry probability.

    Raises:
        InputError, RewardUnavailableError: as `Reward.relative`.
    """
    if isinstance(reward, JudgeReward):
        pairs = [Pair(text.item.example.prompt, text.text, text.item.reference_text) for text in texts]
        judged = zip(pairs, reward.judge.compare(pairs), strict=True)
        return [_judged(pair, comparison) for pair, comparison in judged], reward.judge.tally
    values = missing_as_none(ask(reward, _batch(texts, tokenizer)).squeeze(1).tolist())
    probabilities = bradley_terry(values) if logistic else [None] * len(values)
    return [Reading(value, probability=p) for value, p in zip(values, probabilities, strict=True)], JudgeTally()


def _summed(mix: Mix, parts: Sequence[Sequence[Reading]]) -> list[Reading]:
    """Return the sum of a mix, from its rewards' readings of the same texts; each text is its own group."""
    values = [[math.nan if reading.value is None else reading.value for reading in part] for part in parts]
    total = mix.combine(list(torch.tensor(values, dtype=torch.float64)[..., None]))
    return [Reading(value) for value in missing_as_none(total.squeeze(1).tolist())]


def _judged(pair: Pair, comparison: JudgedPair) -> Reading:
    better = comparison.probabilities
    value, probability = missing_as_none([comparison.value, better[0] + better[1] / 2 if better else math.nan])
    first, second = (order.reward if order else None for order in (comparison.a_first, comparison.b_first))
    return Reading(0.0 if pair.a.strip() == pair.b.strip() else value, first, second, probability)


def _batch(texts: Sequence[AuditedText], tokenizer: PreTrainedTokenizerBase) -> RewardBatch:
    """Return N groups of one answer, each ending with the same token as its reference."""
    items, answers = [text.item for text in texts], [text.text for text in texts]
    ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
    closed = [
        item.reference_ids if answer == item.reference_text else (*tokens, item.reference_ids[-1])
        for item, answer, tokens in zip(items, answers, ids, strict=True)
    ]
    references = [(item.reference_text, item.reference_ids) for item in items]
    return single_batch([item.example for item in items], list(zip(answers, closed, strict=True)), references)


def _kind(config: RewardConfig) -> str:
    sources = {"judge": config.judge, "reward model": config.model, "rule": config.rule}
    return next((kind for kind, source in sources.items() if source), "function")
