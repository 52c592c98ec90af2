"""Builds data, rewards, model and trainer from a recipe, with all checks that are possible before training.

Also the protocols of the screens on which runs and studies show progress.
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
from grao.rewards.mix import Mix, check_any_scored, make_reward, make_rewards
from grao.studies.settings import deciding_settings
from grao.training.arguments import check_needs
from grao.training.library import manifest_of
from grao.training.loglines import LogLines
from grao.training.trainer import GRAOTrainer
from grao.training.watch import Watch
from grao.types import Example

_PROBES = 2
"""References on which the rewards are tested."""

Advance = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class LastSample:
    """A completion of the last step, to show to the user."""

    prompt: str
    text: str
    reward: float
    """R relative to the reference; NaN if missing."""


class Progress(Protocol):
    """Shows the progress of a command."""

    def say(self, line: str) -> None:
        """Show one line."""

    def copyable(self, text: str) -> None:
        """Show text without wrapping its lines."""

    def phases(self, count: int) -> None:
        """Set the number of phases that follow; each shows its number."""

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        """Return the context of a phase with a progress bar."""

    def follow(self, recipe: Recipe) -> None:
        """Show questions and cost of this recipe's judges on servers in every phase from here on."""


class Screen(Progress, Protocol):
    """Shows the progress of a run."""

    def training(
        self, steps: int, samples: Callable[[int], Sequence[LastSample]]
    ) -> AbstractContextManager[TrainerCallback]:
        """Return the context of training, which its callback updates; `samples(n)` gives up to n of the last step."""


class StudyScreen(Progress, Protocol):
    """Shows the progress of a study."""

    def cell(self, title: str, left: float | None) -> AbstractContextManager[Advance]:
        """Return the context of one run of the study; `left` are the seconds to the end of the study, if known."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start."""

    recipe: Recipe
    trainer: GRAOTrainer
    steps: int
    manifest: Manifest
    note: str = ""
    """How the adapter is used, if the recipe's model is one."""
    judges: Mix | None = None
    """Rewards that judge the held-out answers, if they are not the training rewards."""

    @property
    def jury(self) -> Mix:
        """The rewards that judge the held-out answers."""
        return self.judges or self.trainer.rewards


@contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for a new run.

    Raises:
        InputError: if it contains another run or is in use, or is not a folder and cannot be created.
    """
    check_writable(folder)
    with locked(folder):
        if any((folder / name).exists() for name in ("manifest.json", "metrics.jsonl", "items.jsonl")):
            if (folder / "evaluation.json").exists() and not (folder / "metrics.jsonl").exists():
                raise InputError(f"output: {folder} already holds an evaluation; give --output another folder")
            resume = f"continue it with `{command('train', '--resume', folder)}`"
            raise InputError(f"output: {folder} already holds a run; {resume}, or choose another folder")
        for path in (folder / "checkpoints", folder / "model"):
            if path.is_dir() and any(path.iterdir()):
                raise InputError(f"output: {folder} already holds a folder {path.name}; choose another folder")
        yield


def check_writable(folder: Path) -> None:
    """Check that a folder exists or can be created.

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
    """Load and check everything; write nothing.

    Args:
        recipe: of the run.
        split: training and held-out examples; by default those of the recipe.
        rewards: its rewards, if already loaded.

    Raises:
        InputError: for a mistake in recipe, data, model or rewards.
    """
    plan = recipe.plan  # an invalid plan fails here, not after minutes of loading a model
    split = split or load_split(recipe.data, recipe.seed)
    check_needs(plan, split.train, recipe.watch is not None)
    rewards, chosen, lora, setup = rewards or make_rewards(recipe), recipe.model, recipe.model.lora, recipe.watch
    watch = Watch(make_reward(setup.reward, recipe), setup.every, setup.prompts, setup.stop) if setup else None
    options = {name: getattr(chosen, name) for name in ("dtype", "quantization", "attention", "trust_remote_code")}
    model, note = load_policy(chosen.path, chosen.adapter, vars(lora) if lora else None, **options)
    tokenizer = load_tokenizer(chosen.path, chosen.trust_remote_code)
    for mix in (rewards, *([watch.reward] if watch else [])):
        probe(mix, split.train, tokenizer)
    set_seed(recipe.seed)  # initial adapter weights must depend only on the seed
    policy = add_adapter(model, **vars(lora)) if lora and not isinstance(model, PeftModel) else model
    held_out = split.test if recipe.evaluation.enabled else []
    shared = {name: getattr(recipe, name) for name in ("seed", "data", "rollout", "method", "stages", "training")}
    end, arguments = chosen.end_token, chosen.chat_template_kwargs
    config = GRAOConfig(output_dir=recipe.output, end_token=end, chat_template_kwargs=arguments, **shared)
    with no_empty_folders(Path(config.output_dir, "checkpoints")):
        trainer = GRAOTrainer(policy, rewards, config, split.train, held_out or None, tokenizer, watch=watch)
    trainer.accelerator.wait_for_everyone()
    trainer.remove_callback(LogLines)
    base = manifest_of(trainer)
    details = {
        "status": "running",
        "started": now(),
        "finished": None,
        "command": f"grao train --config {recipe.output}/recipe.yaml --output {recipe.output}-again",
        "config": ADAPTER.dump_python(recipe, mode="json", by_alias=True),
        "decisive": deciding_settings(recipe),
        "data": base.data.model_copy(
            update={
                "left_out": {**split.skipped, **base.data.left_out},
                "fingerprint": fingerprint([*split.train, *split.test]),
            }
        ),
    }
    manifest = base.model_copy(update=details)
    return Prepared(recipe, trainer, trainer.args.max_steps, manifest, note)


def token_ids(tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]) -> list[list[int]]:
    """Return token ids of N texts, for rewards that count tokens; empty without a tokenizer."""
    if tokenizer is None:
        return [[] for _ in texts]
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def probe(rewards: Mix, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Score a few references, so that a broken reward fails before any work is done."""
    for reward in rewards.rewards:
        if isinstance(reward, JudgeReward):
            reward.judge.check()
    references = [example.reference for example in examples[:_PROBES]]
    answers = list(zip(references, token_ids(tokenizer, references), strict=True))
    check_any_scored([rewards(single_batch(examples[:_PROBES], answers, answers))])
