"""A readable line per logged step when a script trains, in place of transformers' dictionaries."""

import sys
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerState


class LogLines(TrainerCallback):
    """Print a line per step and per evaluation. `trainer.remove_callback(LogLines)` turns it off."""

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Print the line, on the main process."""
        words = " ".join(filter(None, (evaluation_words(logs or {}), step_words(logs or {}))))
        if state.is_world_process_zero and words:
            width = len(str(state.max_steps))
            position = f"step {state.global_step:>{width}}/{state.max_steps}" if state.max_steps else "step 0"
            sys.stdout.write(f"{position}  {words}\n")
            sys.stdout.flush()


def step_words(logs: Mapping[str, Any]) -> str:
    """Return verdicts and reward of a step's samples, or its loss if it has none; empty for other log lines.

    Args:
        logs: one log line, named as in `metrics.jsonl`.
    """
    if "reward/mean" in logs:
        verdicts = f"wins {logs['verdict/win']:.0%}  ties {logs['verdict/tie']:.0%}"
        reward = f"reward {logs['reward/mean']:+.2f} over the reference"
        return f"{verdicts}  {reward}  {logs['completion/tokens']:.0f} tokens"
    return f"loss {float(logs['loss']):.3f}" if "loss" in logs else ""


def evaluation_words(logs: Mapping[str, Any]) -> str:
    """Return the measurements of `evaluate`; empty for other log lines."""
    if "eval_reward" not in logs:
        return ""
    verdicts = f"wins {logs['eval_win']:.0%}  ties {logs['eval_tie']:.0%}"
    return f"held-out prompts: {verdicts}  reward {logs['eval_reward']:+.2f} over the reference"
