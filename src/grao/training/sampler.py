"""Set up sampling in training: the engine, the number of concurrent completions, and the stop tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.chat import Turn
from grao.config.library import GRAOConfig
from grao.config.recipe import RolloutConfig
from grao.data.encoding import encode_examples, end_token_id, token_texts
from grao.engine.footprint import cache_bytes, drawing_bytes, kept_bytes
from grao.engine.loading import extend_stops, likeliest_stop, stop_token_ids
from grao.engine.memory import MOST_ROWS, ROWS, affordable_rows, free_bytes
from grao.engine.sharded import half_precision, split_over
from grao.rollouts.base import Generator, make_generator
from grao.rollouts.copies import copy_bytes, copy_dtype, sampler_of
from grao.types import Example

_PROBES = 16
"""Number of references used to find out which of several stop tokens a model prefers."""


@dataclass(frozen=True)
class SamplingCopy:
    """The copy of the policy used for sampling, if any."""

    rounded: torch.dtype | None
    """Its dtype if it is a copy in lower precision, else None."""
    split: bool
    """Whether the policy is sharded over processes; the copy is not."""
    bytes: int
    """Memory it takes; 0 without a copy."""


def sampling_copy(
    policy: PreTrainedModel | PeftModel, rollout: RolloutConfig, accelerator: Accelerator
) -> SamplingCopy:
    """Describe the copy of the policy that sampling needs.

    Args:
        policy: before it is wrapped.
        rollout: the section of the recipe.
        accelerator: the trainer's accelerator.
    """
    half = None if rollout.engine_settings else half_precision(accelerator)
    rounded = copy_dtype(policy, half, accelerator.device.type == "cuda")
    split = split_over(accelerator) > 1 and not rollout.engine_settings
    return SamplingCopy(rounded, split, copy_bytes(policy, rounded, rollout.merge_adapter, split))


def make_sampler(
    policy: PreTrainedModel | PeftModel,
    rollout: RolloutConfig,
    copy: SamplingCopy,
    stops: Sequence[int],
    pad_id: int,
    rows: int,
    alone: bool,
) -> Generator:
    """Create the sampling engine named by the recipe.

    Args:
        policy: the model to sample from.
        rollout: the section that names the engine.
        copy: describes the policy's copy for sampling.
        stops: token ids that end a completion.
        pad_id: the tokenizer's padding token.
        rows: number of concurrent completions.
        alone: whether this is the only process.
    """
    return sampler_of(
        policy,
        lambda model: make_generator(rollout.engine, model, stops, pad_id, rows, alone, **rollout.engine_settings),
        copy.rounded,
        rollout.merge_adapter,
        copy.split,
    )


def rollout_rows(
    policy: PreTrainedModel | PeftModel, config: GRAOConfig, copy: SamplingCopy, accelerator: Accelerator, prompt: int
) -> int:
    """Return the number of concurrent completions: `rollout.batch_size`, or as many as fit into memory.

    Args:
        policy: before it is wrapped.
        config: the run's settings.
        copy: the policy's copy for sampling, which takes memory too.
        accelerator: the trainer's accelerator.
        prompt: tokens of the longest prompt.
    """
    rollout, free = config.rollout, free_bytes(accelerator.device)
    if isinstance(rollout.batch_size, int):
        return rollout.batch_size
    if free is None or rollout.engine_settings:
        return ROWS if free is None else MOST_ROWS  # vLLM sizes its cache itself
    row = cache_bytes(policy, prompt + rollout.max_new_tokens) + drawing_bytes(policy)
    optimizer, parts = str(config.training.trainer.get("optim", "")), split_over(accelerator)
    reserved = copy.bytes + kept_bytes(policy, optimizer, parts, half_precision(accelerator))
    return affordable_rows(free - reserved, row, rollout.group_size)


def stop_tokens(
    policy: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: GRAOConfig,
    turn: Turn,
) -> tuple[tuple[int, ...], int, Turn]:
    """Find the stop tokens of sampling and the end token of references.

    Args:
        policy: if its generation config lacks the end token, it is added there.
        tokenizer: of the policy.
        examples: training examples; if the end token is ambiguous, the one the policy finds likeliest after their
            references is taken.
        config: the run's settings.
        turn: format of answers in chats.

    Returns:
        Stop token ids; the end token id; `turn` with the texts of the stop tokens.
    """
    stops = stop_token_ids(policy, tokenizer)
    likely: Sequence[int] = stops
    if len(stops) > 1 and not tokenizer.chat_template and not config.end_token:
        probes = encode_examples(examples[:_PROBES], tokenizer, stops[0], config.data.max_prompt_tokens, "truncate")
        prompts = [item.prompt_ids for item in probes.items]
        likely = [likeliest_stop(policy, stops, prompts, [item.reference_ids[:-1] for item in probes.items])]
    end = end_token_id(tokenizer, likely, config.end_token, turn)
    all_stops = tuple(dict.fromkeys((*stops, end)))
    if end not in stops:
        extend_stops(policy, all_stops, str(tokenizer.convert_ids_to_tokens(end)))
    texts = token_texts(tokenizer, dict.fromkeys((*all_stops, tokenizer.eos_token_id)))
    return all_stops, end, replace(turn, stops=tuple(texts))
