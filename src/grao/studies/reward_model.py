"""`grao reward train`: pairs into a reward model with a record of what it can tell apart.

model/       the result, safetensors, loads with AutoModelForSequenceClassification
recipe.yaml  the recipe with all defaults
reward.json  accuracy on held-out pairs with its interval, dependence on length, versions

The folder appears when everything in it is complete; whatever ends the training early leaves nothing behind.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, set_seed

from grao.config import dump_recipe
from grao.config.fields import adapter
from grao.config.reward_model import RewardModelRecipe
from grao.data import Example, fingerprint, load_split
from grao.errors import InputError
from grao.evaluation.pairs import pair_scores
from grao.models import load_tokenizer
from grao.models.conversation import conversation_ids
from grao.models.loading import new_reward_model
from grao.records.files import replace_text
from grao.records.manifest import git_revision, installed_versions, now
from grao.records.reward_model import PairScores, RewardModelRecord, write_reward_model
from grao.rewards import RewardModel
from grao.studies.prepare import check_writable
from grao.studies.screen import Screen
from grao.training.reward_model import PairIds, train_on_pairs, trl_module

_AT_ONCE = 256
"""Held-out pairs between two signs of progress."""


@dataclass(frozen=True)
class _Pairs:
    """Examples with a worse answer, tokenised, those that are too long left out."""

    examples: list[Example]
    ids: list[PairIds]
    too_long: int


def train_reward_model(recipe: RewardModelRecipe, screen: Screen) -> RewardModelRecord:
    """Trains, measures, and writes the folder `recipe.output`.

    Raises:
        InputError: for a mistake in recipe, data or model, or if TRL is missing.
    """
    _check_new(recipe.output)
    trl_module()
    started = now()
    split = load_split(recipe.data.data, recipe.seed)
    set_seed(recipe.seed)  # the new output layer is drawn
    model = new_reward_model(recipe.model.path, recipe.model.dtype, recipe.model.trust_remote_code)
    tokenizer = load_tokenizer(recipe.model.path, recipe.model.trust_remote_code)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = min(recipe.data.max_tokens, positions or recipe.data.max_tokens)
    train, test = (_pairs(examples, tokenizer, longest, recipe.data.path) for examples in (split.train, split.test))
    long = {f"longer than {longest} tokens": train.too_long + test.too_long}
    left_out = {reason: count for reason, count in {**split.skipped, **long}.items() if count}
    _introduce(screen, train, test, left_out)

    begin = time.perf_counter()
    with screen.stage("training") as advance:
        trained, steps = train_on_pairs(
            model, tokenizer, train.ids, recipe.training, recipe.model.lora, recipe.seed, advance
        )
    seconds = time.perf_counter() - begin
    reward = RewardModel(trained, tokenizer)
    record = RewardModelRecord(
        scores=_measure(reward, test, recipe.confidence, screen),
        trained=len(train.ids),
        left_out=left_out,
        fingerprint=fingerprint([*split.train, *split.test]),
        steps=steps,
        seconds=seconds,
        started=started,
        finished=now(),
        command=f"grao reward train --config {recipe.output}/recipe.yaml --output {recipe.output}-again",
        seed=recipe.seed,
        config=adapter(RewardModelRecipe).dump_python(recipe, mode="json"),
        versions=installed_versions("trl"),
        git=git_revision(),
    )
    if PartialState().is_main_process:
        _write(recipe, reward, record)
    return record


def _pairs(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, longest: int, source: str) -> _Pairs:
    rejected: list[str] = []
    for example in examples:
        if example.rejected is None:
            raise InputError(
                f"{source}, row {example.row}: has no worse answer; fill its cell in the column that data.rejected "
                "names, or leave the row out"
            )
        rejected.append(example.rejected)
    prompts = [example.prompt for example in examples]
    better = conversation_ids(tokenizer, prompts, [example.reference for example in examples])
    worse = conversation_ids(tokenizer, prompts, rejected)
    ids = [PairIds(*pair) for pair in zip(better, worse, strict=True)]
    kept = [place for place, pair in enumerate(ids) if max(len(pair.better), len(pair.worse)) <= longest]
    if not kept:
        shortest = min(max(len(pair.better), len(pair.worse)) for pair in ids)
        raise InputError(
            f"data.max_tokens: every pair is longer than {longest} tokens (the shortest has {shortest}); "
            "raise it, or take a model with more positions"
        )
    return _Pairs([examples[place] for place in kept], [ids[place] for place in kept], len(ids) - len(kept))


def _measure(reward: RewardModel, pairs: _Pairs, confidence: float, screen: Screen) -> PairScores:
    """Scores through the reward as a run uses it, not through the trainer.

    Raises:
        InputError: if a score is no finite number: the training has broken the model.
    """
    scores: dict[bool, list[float]] = {True: [], False: []}
    with screen.stage("held-out pairs") as advance:
        for start in range(0, len(pairs.examples), _AT_ONCE):
            chunk = pairs.examples[start : start + _AT_ONCE]
            prompts = [example.prompt for example in chunk]
            scores[True] += reward.scores(prompts, [example.reference for example in chunk]).tolist()
            scores[False] += reward.scores(prompts, [example.rejected or "" for example in chunk]).tolist()
            advance(len(scores[True]), len(pairs.examples))
    if not all(map(math.isfinite, scores[True] + scores[False])):
        raise InputError("the scores are no finite numbers any more; lower training.learning_rate")
    lengths = [(len(pair.better), len(pair.worse)) for pair in pairs.ids]
    better, worse = (list(side) for side in zip(*lengths, strict=True))
    return pair_scores(scores[True], scores[False], better, worse, confidence)


def _check_new(folder: Path) -> None:
    """Raises: InputError if the folder holds something, or cannot be made."""
    check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"output: {folder} is not empty; choose another folder")


def _write(recipe: RewardModelRecipe, reward: RewardModel, record: RewardModelRecord) -> None:
    folder = recipe.output
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        draft = Path(place, folder.name)
        reward.model.save_pretrained(draft / "model")
        reward.tokenizer.save_pretrained(draft / "model")
        replace_text(draft / "recipe.yaml", dump_recipe(recipe))
        write_reward_model(draft, record)
        draft.rename(folder)


def _introduce(screen: Screen, train: _Pairs, test: _Pairs, left_out: dict[str, int]) -> None:
    screen.say(f"{len(train.ids):,} pairs, {len(test.ids):,} held out")
    for reason, count in left_out.items():
        screen.say(f"left out: {count:,} rows, {reason}")
