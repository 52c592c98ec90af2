"""Start the services of `report_to`, and send them sampled completions beside the metrics of the steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import proxy

import pandas  # type: ignore[import-untyped]
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.integrations import integration_utils

from grao.records.samples import Sample, SampledGroup, append_group, keep_groups_until
from grao.training.arguments import library_errors
from grao.training.experience import Experience, ExperienceSource

_COLUMNS = ("step", "prompt", "completion", "reward", "weight", "reference")


def begin_reporting(trainer: Trainer, section: Mapping[str, Any]) -> None:
    """Connect the services of `report_to` before training, so that a missing key or network fails early.

    Args:
        trainer: has the services as callbacks.
        section: the section `training.trainer`.

    Raises:
        InputError: if a service cannot be connected.
    """
    with library_errors(section):
        for callback in trainer.callback_handler.callbacks:
            if type(callback).__module__ != integration_utils.__name__:
                continue
            if hasattr(callback, "setup"):
                callback.setup(trainer.args, trainer.state, trainer.model)
            elif hasattr(callback, "logging_dir"):  # TensorBoard's default is the working directory
                callback.logging_dir = callback.logging_dir or str(
                    Path(str(trainer.args.output_dir)).parent / "tensorboard"
                )


class SampleLog(TrainerCallback):
    """Every few steps, log the first group of the step to `samples.jsonl` and to the services of `report_to`.

    Args:
        folder: the folder of the run.
        trainer: has the services as callbacks.
        source: holds the experience of the last step.
        every: log every so many steps; 0 never logs.
    """

    def __init__(self, folder: Path, trainer: Trainer, source: ExperienceSource, every: int) -> None:
        self._folder, self._source, self._every = folder, source, every
        self._trainer = proxy(trainer)  # a reference would be a cycle, and keep the model in memory

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Drop the groups of steps that a resumed run repeats."""
        if state.is_world_process_zero:
            keep_groups_until(self._folder, state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Log the first group if this step is due."""
        experience, step = self._source.last, state.global_step
        due = self._every and (self._every == 1 or step % self._every == 1)
        if due and state.is_world_process_zero and experience and experience.sampled:
            group = first_group(experience, step, self._source.drop_truncated)
            append_group(self._folder, group)
            rows = table_rows(group)
            for callback in self._trainer.callback_handler.callbacks:
                if send := _SENDERS.get(type(callback).__name__):
                    send(callback, rows, step)


def first_group(experience: Experience, step: int, drop_truncated: bool = False) -> SampledGroup:
    """Return a step's first group with rewards and weights; `drop_truncated` zeroes those of truncated samples."""
    group, weights = experience.groups[0], experience.weighted.weights
    rewards, factors = experience.rewards.total[0].tolist(), weights.samples[0].tolist()
    samples = [
        Sample(
            answer.text,
            len(answer.ids),
            answer.truncated,
            reward,
            0.0 if drop_truncated and answer.truncated else factor,
        )
        for answer, reward, factor in zip(group.samples, rewards, factors, strict=True)
    ]
    item = group.item
    return SampledGroup(
        item.example.id, item.prompt_text, item.reference_text, step, samples, weights.reference[0].item()
    )


def table_rows(group: SampledGroup) -> list[tuple[Any, ...]]:
    """Return a row per completion, with the columns `_COLUMNS`."""
    return [
        (group.step, group.prompt, sample.text, sample.reward, sample.weight, group.reference)
        for sample in group.samples
    ]


def _to_tensorboard(callback: Any, rows: Sequence[tuple[Any, ...]], step: int) -> None:
    if callback.tb_writer:
        texts = "\n\n".join("\n".join(f"    {line}" for line in _words(row).splitlines()) for row in rows)
        callback.tb_writer.add_text("samples", texts, step)


def _to_wandb(callback: Any, rows: Sequence[tuple[Any, ...]], step: int) -> None:
    table = callback._wandb.Table(columns=list(_COLUMNS), data=[list(row) for row in rows])
    callback._wandb.log({"samples": table, "train/global_step": step})


def _to_trackio(callback: Any, rows: Sequence[tuple[Any, ...]], step: int) -> None:
    table = callback._trackio.Table(dataframe=pandas.DataFrame(rows, columns=_COLUMNS))
    callback._trackio.log({"samples": table, "train/global_step": step})


def _words(row: tuple[Any, ...]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in zip(_COLUMNS, row, strict=True))


_SENDERS = {"TensorBoardCallback": _to_tensorboard, "WandbCallback": _to_wandb, "TrackioCallback": _to_trackio}
"""Services that accept texts; the others get only numbers."""
