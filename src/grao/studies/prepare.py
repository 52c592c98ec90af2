"""From a recipe to objects: data, rewards, model and trainer. Everything that can go wrong before training.

Also what every run and study needs beside them: where it shows how far it is.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed

from grao.command import command
from grao.config.library import GRAOConfig
from grao.config.recipe import Recipe
from grao.config.schema import ADAPTER
from grao.data.load import Split, fingerprint, load_split
from grao.engine.loading import add_adapter, load_tokenizer
from grao.engine.policy import load_policy
from grao.errors import InputError
from grao.evaluation.answers import single_batch
from grao.files import usable_path
from grao.records.lock import locked, no_empty_folders
from grao.records.run import Manifest, now
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.mix import Mix, check_heard, make_reward, make_rewards
from grao.studies.settings import decisive
from grao.training.arguments import check_needs
from grao.training.library import manifest_of
from grao.training.loglines import LogLines
from grao.training.trainer import GRAOTrainer
from grao.training.watch import Watch
from grao.types import Example

_PROBES = 2
"""References that the rewards are tried on."""

Advance = Callable[[int, int], None]
"""Takes what is done and the whole."""


@dataclass(frozen=True)
class LastSample:
    """An answer of the last step, for people to read."""

    prompt: str
    text: str
    reward: float
    """Over the reference; NaN is missing."""


class Stages(Protocol):
    """Where a command shows how far it is."""

    def say(self, line: str) -> None:
        """One line of news."""

    def copyable(self, text: str) -> None:
        """Text whose lines stay whole, whatever the width."""

    def phases(self, count: int) -> None:
        """So many phases follow; each shows its place among them."""

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        """A phase with a bar."""

    def follow(self, recipe: Recipe) -> None:
        """From here on, what the judges on servers of this recipe are asked and paid stands in every phase."""


class Screen(Stages, Protocol):
    """Where a run shows how far it is."""

    def training(
        self, steps: int, samples: Callable[[int], Sequence[LastSample]]
    ) -> AbstractContextManager[TrainerCallback]:
        """The phase of training, followed by its callback; `samples` gives up to so many of the last step."""


class StudyScreen(Stages, Protocol):
    """Where a study shows how far it is."""

    def cell(self, title: str, left: float | None) -> AbstractContextManager[Advance]:
        """One run of the study; `left` are the seconds to the end of the study, if they can be told."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to begin."""

    recipe: Recipe
    trainer: GRAOTrainer
    steps: int
    manifest: Manifest
    note: str = ""
    """What becomes of the adapter that the recipe names as its model, if it does."""
    judges: Mix | None = None
    """What judges answers to the held-out prompts, if that are others than the rewards that are trained on."""

    @property
    def jury(self) -> Mix:
        """What judges answers to the held-out prompts."""
        return self.judges or self.trainer.rewards


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within it, a new run may write into a folder, and no other process does.

    Raises:
        InputError: if it holds another run or is in use, or is no folder and cannot become one.
    """
    check_writable(folder)
    with locked(folder):
        if any((folder / name).exists() for name in ("manifest.json", "metrics.jsonl", "items.jsonl")):
            if (folder / "evaluation.json").exists() and not (folder / "metrics.jsonl").exists():
                raise InputError(f"output: {folder} already holds an evaluation; give --output another folder")
            resume = f"continue it with `{command('train', '--resume', folder)}`"
            raise InputError(f"output: {folder} already holds a run; {resume}, or choose another folder")
        for taken in (folder / "checkpoints", folder / "model"):
            if taken.is_dir() and any(taken.iterdir()):
                raise InputError(f"output: {folder} already holds a folder {taken.name}; choose another folder")
        yield


def check_writable(folder: Path) -> None:
    """Makes sure that a folder is there or can be made.

    Raises:
        InputError: if not.
    """
    try:
        usable_path(os.fspath(folder))
    except ValueError as error:
        raise InputError(f"output: {error}") from error
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise InputError(f"output: {nearest} is a file; choose a folder")
    try:
        with TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"output: {nearest} is not writable ({error.strerror}); choose another folder") from error


def prepare(recipe: Recipe, split: Split | None = None, rewards: Mix | None = None) -> Prepared:
    """Loads and checks everything; writes nothing.

    Args:
        recipe: of the run.
        split: training and held-out examples; by default those of the recipe.
        rewards: its rewards, where they are loaded already.

    Raises:
        InputError: for a mistake in recipe, data, model or rewards.
    """
    plan = recipe.plan  # fails here, not after minutes of loading a model
    split = split or load_split(recipe.data, recipe.seed)
    check_needs(plan, split.train, recipe.watch is not None)
    rewards, chosen, lora, looks = rewards or make_rewards(recipe), recipe.model, recipe.model.lora, recipe.watch
    watch = Watch(make_reward(looks.reward, recipe), looks.every, looks.prompts, looks.stop) if looks else None
    options = {name: getattr(chosen, name) for name in ("dtype", "quantization", "attention", "trust_remote_code")}
    model, note = load_policy(chosen.path, chosen.adapter, vars(lora) if lora else None, **options)
    tokenizer = load_tokenizer(chosen.path, chosen.trust_remote_code)
    for mix in (rewards, *([watch.reward] if watch else [])):
        probe(mix, split.train, tokenizer)
    set_seed(recipe.seed)  # what an adapter begins with must follow from the seed
    policy = add_adapter(model, **vars(lora)) if lora and not isinstance(model, PeftModel) else model
    held_out = split.test if recipe.evaluation.enabled else []
    shared = {name: getattr(recipe, name) for name in ("seed", "data", "rollout", "method", "stages", "training")}
    end, arguments = chosen.end_token, chosen.chat_template_kwargs
    config = GRAOConfig(output_dir=recipe.output, end_token=end, chat_template_kwargs=arguments, **shared)
    with no_empty_folders(Path(config.output_dir, "checkpoints")):
        trainer = GRAOTrainer(policy, rewards, config, split.train, held_out or None, tokenizer, watch=watch)
    trainer.accelerator.wait_for_everyone()
    trainer.remove_callback(LogLines)
    made = manifest_of(trainer)
    told = {
        "status": "running",
        "started": now(),
        "finished": None,
        "command": f"grao train --config {recipe.output}/recipe.yaml --output {recipe.output}-again",
        "config": ADAPTER.dump_python(recipe, mode="json", by_alias=True),
        "decisive": decisive(recipe),
        "data": made.data.model_copy(
            update={
                "left_out": {**split.skipped, **made.data.left_out},
                "fingerprint": fingerprint([*split.train, *split.test]),
            }
        ),
    }
    manifest = made.model_copy(update=told)
    return Prepared(recipe, trainer, trainer.args.max_steps, manifest, note)


def token_ids(tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]) -> list[list[int]]:
    """Of N texts, for rewards that count tokens; empty without a tokenizer."""
    if tokenizer is None:
        return [[] for _ in texts]
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def probe(rewards: Mix, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Asks the rewards about a few references, so that a broken one is found before any work is done."""
    for reward in rewards.rewards:
        if isinstance(reward, JudgeReward):
            reward.judge.check()
    references = [example.reference for example in examples[:_PROBES]]
    answers = list(zip(references, token_ids(tokenizer, references), strict=True))
    check_heard([rewards(single_batch(examples[:_PROBES], answers, answers))])
