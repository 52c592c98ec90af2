"""One audit from a recipe: what is asked, in which order, and what it leaves.

audit.json   all figures with what they rest on, and the verdict
audit.html   the same to look at

Everything is asked as in training: the samples are those of the run's first steps, drawn with the same keys, so that a
judge's ledger has their verdicts when the run begins. No weight moves.
Left out: several processes, and the rewards' behaviour on texts that training has not yet led the model to.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

from grao.config import Recipe
from grao.config.reward import RewardConfig
from grao.errors import InputError, RewardUnavailableError
from grao.evaluation.audit.edits import edited
from grao.evaluation.audit.figures import agreement, reward_figures
from grao.evaluation.audit.forecast import Plan, Timing, forecast
from grao.evaluation.audit.groups import mean_size, policy_figures
from grao.evaluation.audit.readings import Text, as_reference
from grao.records.audit import Agreement, Audit, EditItem, Forecast, GroupItem, PairItem, RewardFigures, write_audit
from grao.records.manifest import Manifest, now
from grao.reports.audit.page import write_audit_page
from grao.rewards import Mix, Reward
from grao.rewards.judge import JudgeReward, JudgeTally
from grao.rollouts import draw_key
from grao.studies.audit.panel import Panel
from grao.studies.audit.samples import sample_policy
from grao.studies.audit.verdict import verdict
from grao.studies.judges import judge_forecast, words
from grao.studies.prepare import Prepared, check_writable, expected_of_judges, prepare, probe
from grao.studies.rewards import make_reward
from grao.studies.screen import Screen
from grao.training.experience import shuffled


def audit_folder(recipe: Recipe) -> Path:
    """Where the audit of a recipe goes."""
    return recipe.audit.output or recipe.output.with_name(f"{recipe.output.name}-audit")


def audit_rewards(recipe: Recipe, screen: Screen) -> Audit:
    """Asks, reckons, judges, and writes both files; an earlier audit in the folder is replaced.

    Raises:
        InputError: for a mistake in recipe, data, model or rewards.
        RewardUnavailableError: if a reward cannot be had.
        KeyboardInterrupt: after Ctrl-C; its text says what is kept.
    """
    folder = audit_folder(recipe)
    check_writable(folder)
    ready = prepare(recipe)
    if ready.trainer.accelerator.num_processes > 1:
        raise InputError("grao reward audit runs as one process; start it without a launcher")
    panel = Panel(ready.trainer.rewards, recipe.rewards, _second(ready), ready.trainer.tokenizer)
    pairs = _pairs(ready)
    texts = _edited(ready)
    _introduce(ready, panel, len(pairs), len(texts), screen)
    with _nothing_lost(panel):
        audit = _audit(ready, panel, pairs, texts, screen)
    write_audit(folder, audit)
    write_audit_page(folder, audit)
    return audit


def _audit(
    ready: Prepared, panel: Panel, pairs: Sequence[tuple[Text, bool]], texts: Sequence[tuple[str, Text]], screen: Screen
) -> Audit:
    recipe, confidence = ready.recipe, ready.recipe.evaluation.confidence
    with screen.stage("pairs") as advance:
        said = panel.ask([text for text, _ in pairs], advance)
    pair_items = [
        PairItem(
            id=text.item.example.id,
            prompt=text.item.prompt_text,
            reference=text.item.reference_text,
            rejected=text.text,
            held_out=held_out,
            readings=readings,
        )
        for (text, held_out), readings in zip(pairs, said, strict=True)
    ]
    with screen.stage("trivial edits") as advance:
        said = panel.ask([text for _, text in texts], advance)
    edit_items = [
        EditItem(text.item.example.id, name, readings) for (name, text), readings in zip(texts, said, strict=True)
    ]
    groups, timing = sample_policy(ready.trainer, panel, recipe.audit.prompts, recipe.rollout.batch_size, screen)
    rewards = _figures(panel, pair_items, edit_items, groups, confidence)
    agreements = _agreements(panel, pair_items, groups, confidence)
    policy, expected = policy_figures(groups, confidence), _forecast(ready, timing)
    return Audit(
        confidence=confidence,
        rewards=rewards,
        agreements=agreements,
        policy=policy,
        forecast=expected,
        verdict=verdict(rewards, agreements, policy, expected),
        pairs=pair_items,
        edits=edit_items,
        groups=groups,
        manifest=_manifest(ready),
    )


def _second(ready: Prepared) -> tuple[Reward, RewardConfig] | None:
    """The reward to compare with: that of `audit`, else that of `watch`."""
    recipe, watch = ready.recipe, ready.trainer.watch
    if recipe.audit.second:
        reward = make_reward(recipe.audit.second, recipe)
        probe(Mix([reward]), [item.example for item in ready.trainer.train_items.items], ready.trainer.tokenizer)
        return reward, recipe.audit.second
    if watch and recipe.watch:
        return watch.reward.rewards[0], recipe.watch.reward
    return None


def _pairs(ready: Prepared) -> list[tuple[Text, bool]]:
    """The rejected answers, and whether their prompts are held out: those first, then training prompts by lot."""
    train, tested = ready.trainer.train_items.items, ready.trainer.eval_items
    drawn = [train[place] for place in shuffled(len(train), draw_key(ready.recipe.seed, "audit"))]
    pool = [*((item, True) for item in (tested.items if tested else [])), *((item, False) for item in drawn)]
    pairs = [
        (Text(item, as_reference(item, item.example.rejected)), held_out)
        for item, held_out in pool
        if item.example.rejected is not None
    ]
    return pairs[: ready.recipe.audit.pairs]


def _edited(ready: Prepared) -> list[tuple[str, Text]]:
    """References of the first training prompts, each as it is and with every edit that changes it."""
    items = ready.trainer.train_items.items[: ready.recipe.audit.edits]
    return [(name, Text(item, text)) for item in items for name, text in edited(item.reference_text).items()]


def _figures(
    panel: Panel,
    pairs: Sequence[PairItem],
    edits: Sequence[EditItem],
    groups: Sequence[GroupItem],
    confidence: float,
) -> list[RewardFigures]:
    scales = {name: mean_size([group.parts[name] for group in groups]) for name in groups[0].parts}
    total = mean_size([group.rewards for group in groups])
    return [
        reward_figures(
            subject,
            pairs,
            edits,
            panel.tallies.get(subject.name, JudgeTally()),
            scales.get(subject.name, total),
            confidence,
        )
        for subject in panel.subjects
    ]


def _agreements(
    panel: Panel, pairs: Sequence[PairItem], groups: Sequence[GroupItem], confidence: float
) -> list[Agreement]:
    """What decides beside the second reward, and the rewards of a sum two by two."""
    deciding, *_ = (subject.name for subject in panel.subjects)
    beside = [(deciding, panel.second.subject.name)] if panel.second else []
    both = [*beside, *combinations([member.subject.name for member in panel.own], 2)]
    return [agreement(first, second, pairs, groups, confidence) for first, second in both]


def _forecast(ready: Prepared, timing: Timing) -> Forecast:
    recipe, data = ready.recipe, ready.manifest["data"]
    plan = Plan(ready.steps, recipe.training.prompts_per_step, recipe.rollout.group_size, data["held_out"])
    return forecast(timing, plan, expected_of_judges(ready))


def _manifest(ready: Prepared) -> Manifest:
    ended = {"status": "finished", "finished": now()}
    return {**ready.manifest, **ended, "command": "grao reward audit --config recipe.yaml"}


def _introduce(ready: Prepared, panel: Panel, pairs: int, texts: int, screen: Screen) -> None:
    """What there is to ask about, and what each judge on a server will be asked at most."""
    items, settings = ready.trainer.train_items.items, ready.recipe.audit
    groups = min(settings.prompts, len(items))
    samples = groups * ready.recipe.rollout.group_size
    found = f"{pairs:,} pairs of reference and rejected answer" if pairs else "no rejected answers, so no accuracy"
    screen.say(f"{found}; {texts:,} references and edits of them; {samples:,} samples of the model")
    for member in panel.members:
        of_samples = groups if member is panel.second else samples
        expected = judge_forecast(member.reward, member.config, items, pairs + texts + of_samples)
        if expected:
            screen.say(words(expected))


@contextmanager
def _nothing_lost(panel: Panel) -> Iterator[None]:
    """An audit that ends early writes nothing, but what was paid for is in the ledger, and the user reads so."""
    asked = any(isinstance(member.reward, JudgeReward) for member in panel.members)
    kept = "; the answers of a judge on a server are kept, the same command goes on from there" if asked else ""
    try:
        yield
    except RewardUnavailableError as error:
        raise RewardUnavailableError(f"{error}{kept}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped, nothing is written{kept}") from None
