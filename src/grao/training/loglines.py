"""A line for each logged step, where a script trains: for people, in place of transformers' dictionaries."""

import sys
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerState


class LogLines(TrainerCallback):
    """Prints how each step went and what each evaluation measured. `trainer.remove_callback(LogLines)` stops it."""

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Prints the line, in the first process."""
        words = " ".join(filter(None, (evaluation_words(logs or {}), step_words(logs or {}))))
        if state.is_world_process_zero and words:
            width = len(str(state.max_steps))
            place = f"step {state.global_step:>{width}}/{state.max_steps}" if state.max_steps else "step 0"
            sys.stdout.write(f"{place}  {words}\n")
            sys.stdout.flush()


def step_words(logs: Mapping[str, Any]) -> str:
    """How a step went: verdicts and reward of its samples, or its loss where it has none; empty of other logs.

    Args:
        logs: one line of the log, named as in `metrics.jsonl`.
    """
    if "reward/mean" in logs:
        verdicts = f"wins {logs['verdict/win']:.0%}  ties {logs['verdict/tie']:.0%}"
        reward = f"reward {logs['reward/mean']:+.2f} over the reference"
        return f"{verdicts}  {reward}  {logs['completion/tokens']:.0f} tokens"
    return f"loss {float(logs['loss']):.3f}" if "loss" in logs else ""


def evaluation_words(logs: Mapping[str, Any]) -> str:
    """What `evaluate` measured; empty of other logs."""
    if "eval_reward" not in logs:
        return ""
    verdicts = f"wins {logs['eval_win']:.0%}  ties {logs['eval_tie']:.0%}"
    return f"held-out prompts: {verdicts}  reward {logs['eval_reward']:+.2f} over the reference"
