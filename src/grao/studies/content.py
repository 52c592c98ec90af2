"""Tests whether a reward ignores content: before training, in an evaluation, and in every audit.

Three texts that are wrong answers in any task are compared with the reference: the reference of another prompt, the
reference with its words shuffled, and the prompt itself. A reward that tells right from wrong rates them lower. One
that sees only form (a full stop, a number of words) lets the first one tie, or win half of the time, and so does a
judge that decides by chance, length or position.
"""

from collections.abc import Sequence
from contextlib import suppress

from transformers import PreTrainedTokenizerBase

from grao.config.recipe import Recipe
from grao.errors import InputError, RewardUnavailableError
from grao.evaluation.answers import missing_as_none, single_batch
from grao.evaluation.audit_figures import WRONG, share_as_good, wrong_texts
from grao.evaluation.inference import proportion
from grao.records.audit import Wrong
from grao.records.run import Doubt
from grao.reports.tables import interval, percent
from grao.rewards.base import RewardBatch
from grao.rewards.functions import FunctionReward
from grao.rewards.mix import Mix, WeightedReward
from grao.studies.audit_verdict import BLIND
from grao.studies.prepare import token_ids
from grao.types import Example

_PROMPTS = 32
"""Maximum number of prompts."""


def short_audit(
    recipe: Recipe,
    rewards: Mix,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase | None,
    main: bool,
) -> list[Doubt]:
    """Return `content_doubts`; empty if the recipe says `skip`, and on all processes but the main one.

    A reward that fails is ignored here: it fails again in training, where the error is handled.
    """
    if recipe.audit.before_training == "skip" or not main:
        return []
    with suppress(InputError, RewardUnavailableError):
        return content_doubts(rewards, examples, tokenizer)
    return []


def content_doubts(rewards: Mix, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None) -> list[Doubt]:
    """Ask the rewards about wrong answers to some prompts; return the doubts that follow.

    Nothing is logged, and no training state changes; a judge on a server stores its answers in its ledger.

    Args:
        rewards: the mix under test.
        examples: training examples.
        tokenizer: for rewards that count tokens.

    Raises:
        InputError, RewardUnavailableError: as `Reward.relative`.
    """
    if not (texts := _texts(examples)):
        return []
    mixed = _unlogged(rewards)(content_batch(examples, tokenizer))
    values = missing_as_none(mixed.total.squeeze(1).tolist())
    blind = []
    for name in WRONG:
        wrong = share_as_good(name, [value for (kind, _, _), value in zip(texts, values, strict=True) if kind == name])
        if wrong and wrong.as_good.low > BLIND:
            blind.append(_words(wrong))
    warning = f"The reward may ignore content: {'; '.join(blind)}."
    doubts = [Doubt("content-blind", warning)] if blind else []
    for judge, judged in mixed.judged.items():
        flips = [pair.flipped for pair in judged.values() if pair.a_first and pair.b_first]
        if flips and (flipped := proportion(sum(flips), len(flips))).low > BLIND:
            share = percent(flipped.value, 1)
            warning = f"{judge} contradicts itself on obviously wrong texts: its verdict changes with their order"
            doubts.append(Doubt("judge-contradicts-itself", f"{warning} in {share} of {len(flips):,}."))
    return doubts


def _words(wrong: Wrong) -> str:
    """Return the finding as a clause."""
    share = wrong.as_good
    return f"{wrong.text} is rated as good as the right one in {percent(share.value, 1)} ({interval(share)})"


def _unlogged(rewards: Mix) -> Mix:
    """Return the same rewards, with functions that log nothing into a training."""
    return Mix(
        [
            WeightedReward(
                FunctionReward(part.reward.function, part.reward.compare, part.reward.name)
                if isinstance(part.reward, FunctionReward)
                else part.reward,
                *(part.weight, part.normalise, part.constraint),
            )
            for part in rewards.objectives
        ]
    )


def content_batch(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None) -> RewardBatch:
    """Return the wrong texts of `content_doubts`, each as a group of one; empty if there are none."""
    chosen, texts = [], []
    for _, index, text in _texts(examples):
        chosen.append(examples[index])
        texts.append(text)
    references = [example.reference for example in chosen]
    ids = [token_ids(tokenizer, column) for column in (texts, references)]
    return single_batch(chosen, list(zip(texts, ids[0], strict=True)), list(zip(references, ids[1], strict=True)))


def _texts(examples: Sequence[Example]) -> list[tuple[str, int, str]]:
    """Return `wrong_texts` of the first examples; empty if they all have the same prompt."""
    examples = examples[:_PROMPTS]
    return list(wrong_texts(examples)) if len({example.id for example in examples}) > 1 else []
