"""What samples in a training: the engine, how many completions at once, and where both the policy and it stop."""

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
"""References on which a model with several stop tokens is asked which one it uses."""


@dataclass(frozen=True)
class SamplingCopy:
    """The copy of the policy that samples, where there is one."""

    rounded: torch.dtype | None
    split: bool
    """Whether the policy's weights are split over processes, which the copy's are not."""
    bytes: int


def sampling_copy(
    policy: PreTrainedModel | PeftModel, rollout: RolloutConfig, accelerator: Accelerator
) -> SamplingCopy:
    """What will be copied of the policy for its samples, before it is wrapped."""
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
    """The engine that a recipe names.

    Args:
        policy: that is sampled from.
        rollout: names the engine.
        copy: of the policy, for the samples.
        stops: token ids that end a completion.
        pad_id: of the tokenizer.
        rows: completions at once.
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
    """Completions at once, as told, or for whose caches there is room beside what training keeps.

    Args:
        policy: before it is wrapped.
        config: of the run.
        copy: takes memory too.
        accelerator: of the trainer.
        prompt: tokens of the longest prompt.
    """
    rollout, free = config.rollout, free_bytes(accelerator.device)
    if isinstance(rollout.batch_size, int):
        return rollout.batch_size
    if free is None or rollout.engine_settings:
        return ROWS if free is None else MOST_ROWS  # vLLM sizes its cache itself
    row = cache_bytes(policy, prompt + rollout.max_new_tokens) + drawing_bytes(policy)
    optimizer, parts = str(config.training.trainer.get("optim", "")), split_over(accelerator)
    kept = copy.bytes + kept_bytes(policy, optimizer, parts, half_precision(accelerator))
    return affordable_rows(free - kept, row, rollout.group_size)


def stop_tokens(
    policy: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: GRAOConfig,
    turn: Turn,
) -> tuple[tuple[int, ...], int, Turn]:
    """Tokens at which sampling stops, the one that closes a reference, and how answers stand in chats, these included.

    Args:
        policy: its generation config learns a token that closes references and is not in it.
        tokenizer: of the policy.
        examples: to train on; where it is not clear, the policy is asked which token ends their references.
        config: of the run.
        turn: how answers stand in chats.
    """
    stops = stop_token_ids(policy, tokenizer)
    likely: Sequence[int] = stops
    if len(stops) > 1 and not tokenizer.chat_template and not config.end_token:
        probes = encode_examples(examples[:_PROBES], tokenizer, stops[0], config.data.max_prompt_tokens, "truncate")
        prompts = [item.prompt_ids for item in probes.items]
        likely = [likeliest_stop(policy, stops, prompts, [item.reference_ids[:-1] for item in probes.items])]
    end = end_token_id(tokenizer, likely, config.end_token, turn)
    everything = tuple(dict.fromkeys((*stops, end)))
    if end not in stops:
        extend_stops(policy, everything, str(tokenizer.convert_ids_to_tokens(end)))
    texts = token_texts(tokenizer, dict.fromkeys((*everything, tokenizer.eos_token_id)))
    return everything, end, replace(turn, stops=tuple(texts))
