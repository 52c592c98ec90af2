"""Whether a reward looks at what a text says: before training, in an evaluation, and as a part of every audit.

Three texts that are wrong answers whatever the task, each against the reference: the reference of another prompt, the
reference with its words shuffled, and the prompt repeated back. A reward that knows right from wrong lets them lose.
One that looks at form alone (a full stop, a number of words) lets the first draw level or win half of the time, and a
judge that answers by chance, by length or by place does the same.
"""

from collections.abc import Sequence
from contextlib import suppress

from transformers import PreTrainedTokenizerBase

from grao.config.recipe import Recipe
from grao.errors import InputError, RewardUnavailableError
from grao.evaluation.answers import missing_as_none, single_batch
from grao.evaluation.audit_figures import WRONG, as_good, wrong_texts
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
"""That are looked at."""


def short_audit(
    recipe: Recipe,
    rewards: Mix,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase | None,
    main: bool,
) -> list[Doubt]:
    """`content_doubts`, unless a recipe says `skip`. Only the main process asks.

    A reward that fails here fails where it counts too, and is dealt with there.
    """
    if recipe.audit.before_training == "skip" or not main:
        return []
    with suppress(InputError, RewardUnavailableError):
        return content_doubts(rewards, examples, tokenizer)
    return []


def content_doubts(rewards: Mix, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None) -> list[Doubt]:
    """Asks the rewards about the wrong texts to some prompts.

    Nothing is logged, and no state of training is touched; a judge on a server keeps its answers in its ledger.

    Args:
        rewards: what decides, as a sum.
        examples: of the training data.
        tokenizer: of the model, for rewards that count tokens.

    Raises:
        InputError, RewardUnavailableError: as `Reward.relative`.
    """
    if not (texts := _texts(examples)):
        return []
    mixed = _apart(rewards)(content_batch(examples, tokenizer))
    values = missing_as_none(mixed.total.squeeze(1).tolist())
    blind = []
    for name in WRONG:
        found = as_good(name, [value for (kind, _, _), value in zip(texts, values, strict=True) if kind == name])
        if found and found.as_good.low > BLIND:
            blind.append(words(found))
    about = f"The reward may ignore content: {'; '.join(blind)}."
    doubts = [Doubt("content-blind", about)] if blind else []
    for judge, judged in mixed.judged.items():
        twice = [each.flipped for each in judged.values() if each.a_first and each.b_first]
        if twice and (flipped := proportion(sum(twice), len(twice))).low > BLIND:
            share = percent(flipped.value, 1)
            clear = f"{judge} contradicts itself on texts that are plainly wrong: its verdict changes with their order"
            doubts.append(Doubt("judge-contradicts-itself", f"{clear} in {share} of {len(twice):,}."))
    return doubts


def words(wrong: Wrong) -> str:
    """In a clause."""
    share = wrong.as_good
    return f"{wrong.text} does as well as the right one in {percent(share.value, 1)} ({interval(share)})"


def _apart(rewards: Mix) -> Mix:
    """The same rewards, whose functions log nothing into a training."""
    return Mix(
        [
            WeightedReward(
                FunctionReward(each.reward.function, each.reward.compare, each.reward.name)
                if isinstance(each.reward, FunctionReward)
                else each.reward,
                *(each.weight, each.normalise, each.constraint),
            )
            for each in rewards.objectives
        ]
    )


def content_batch(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None) -> RewardBatch:
    """The wrong texts that `content_doubts` asks about, a group each; without any there is no group."""
    chosen, texts = [], []
    for _, index, text in _texts(examples):
        chosen.append(examples[index])
        texts.append(text)
    references = [example.reference for example in chosen]
    ids = [token_ids(tokenizer, column) for column in (texts, references)]
    return single_batch(chosen, list(zip(texts, ids[0], strict=True)), list(zip(references, ids[1], strict=True)))


def _texts(examples: Sequence[Example]) -> list[tuple[str, int, str]]:
    """Of the first examples; see `wrong_texts`."""
    examples = examples[:_PROMPTS]
    return list(wrong_texts(examples)) if len({example.id for example in examples}) > 1 else []
