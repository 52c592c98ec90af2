"""`grao train --dry-run`: work, memory and time of a run, from its recipe, its data and the model's config.json.

The data goes through the template, and all that does not depend on samples is counted exactly (`forecast.py`). The
memory plan runs the model's own passes on the meta device (`grao.engine.footprint`). Nothing is written; no judge is
asked unless that is allowed. Weights are loaded only to estimate the time, if they are on this machine.
"""

import math
import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from grao.chat import set_arguments
from grao.config.library import GRAOConfig
from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig
from grao.config.stages import joint_needs, most_steps
from grao.config.vllm import VLLMConfig
from grao.data.encoding import EncodedSet, encode_examples, end_token_id, settled_turn
from grao.data.facts import short_facts, spread
from grao.data.load import load_split
from grao.engine import footprint
from grao.engine.adapters import has_weights
from grao.engine.flops import Cost, Work, matmul_peak
from grao.engine.interface import checkpoint_activations, transformers_model
from grao.engine.loading import load_tokenizer, parameter_count, stop_token_ids
from grao.engine.memory import MOST_ROWS, ROWS, TOKENS, UPDATE_SHARE, PerToken, affordable_rows
from grao.engine.output_layer import tile_bytes
from grao.engine.policy import policy_shape
from grao.errors import InputError, one_line
from grao.reports.tables import duration, number
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.server import ServerJudge
from grao.rollouts.captured import bucket
from grao.rollouts.copies import copy_bytes, copy_dtype
from grao.studies.forecast import Workload, forecasts, time_estimate
from grao.studies.prepare import Screen
from grao.training.ahead import check_ahead
from grao.training.arguments import check_needs, check_trainer_fields, drop_too_long
from grao.training.stages import split_look_prompts
from grao.types import Example, TokenIds

_GIB = 1 << 30
_DRIVER = _GIB
"""Bytes reserved on a card for its driver, compiled kernels and fragmentation."""
_WORTHWHILE = 1024
"""Tokens of a micro-batch below which other remedies are suggested first."""
_VLLM, _LEAST_SHARE = "vLLM", 0.05
"""Label of vLLM's memory, and the share of a card below which it is useless."""
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Field of `training.trainer` -> dtype of mixed precision."""


@dataclass(frozen=True)
class Plan:
    """The memory of a run, in bytes."""

    card: int
    """Available memory."""
    permanent: dict[str, int]
    """Held throughout the run."""
    rollout: dict[str, int]
    """Additional memory while sampling."""
    update: dict[str, int]
    """Additional memory while computing gradients."""
    rows: int
    """Completions sampled at once."""
    tokens: int
    """Tokens of the largest micro-batch."""
    longest: int
    """Tokens of the longest sequence, which must fit into a micro-batch."""
    activations: PerToken

    def peak(self, phase: dict[str, int]) -> int:
        """Return the memory at the peak of one phase."""
        return sum(self.permanent.values()) + sum(phase.values())

    @property
    def fits(self) -> bool:
        """Whether both phases fit into memory."""
        return max(self.peak(self.rollout), self.peak(self.update)) <= self.card

    def lines(self) -> list[str]:
        """Return the memory table."""
        phases = {"rollout": self.rollout, "update": self.update}
        rows = [*self.permanent.items()]
        rows += [(f"{phase}: {name}", size) for phase, parts in phases.items() for name, size in parts.items()]
        rows = [(f"  {name}", size) for name, size in rows if size]
        rows += [(f"peak of the {phase}", self.peak(parts)) for phase, parts in phases.items()]
        return [
            f"{'memory, GiB':<48}",
            *(f"{name:<48}{size / _GIB:8.2f}" for name, size in [*rows, ("available", self.card)]),
        ]

    def remedy(self, recipe: Recipe) -> str:
        """Return the smallest change of settings that may make the run fit."""
        share = (self.card - sum(self.permanent.values())) / (self.card + _DRIVER)
        if _VLLM in self.rollout and self.peak(self.rollout) > self.card and share > _LEAST_SHARE:
            return f"set rollout.vllm.memory_share: {math.floor(100 * share) / 100}"
        if self.peak(self.rollout) > max(self.card, self.peak(self.update)) and self.rows > recipe.rollout.group_size:
            free = self.card - sum(self.permanent.values())
            rows = int(self.rows * free / max(sum(self.rollout.values()), 1))
            if rows >= recipe.rollout.group_size:
                return f"set rollout.batch_size: {rows}"
        others = self.peak(self.update) - self.activations.at(self.tokens)
        tokens = self.activations.within(self.card - others, TOKENS)
        if tokens >= max(self.longest, _WORTHWHILE):
            return f"set training.token_budget: {tokens}"
        if not recipe.training.trainer.get("gradient_checkpointing"):
            return "set training.trainer.gradient_checkpointing: true"
        if recipe.model.lora is None:
            return "train an adapter (model.lora)"
        if recipe.model.dtype == "float32" and not recipe.model.quantization:
            return "set model.dtype: bfloat16"
        if not recipe.model.quantization:
            return "set model.quantization: 4bit"
        return "use shorter answers (rollout.max_new_tokens), a smaller model or a larger card"


def dry_run(recipe: Recipe, card: int | None, gpus: int, ask: bool, screen: Screen) -> None:
    """Print the work, memory and time that a run needs.

    Args:
        recipe: of the run.
        card: bytes of the GPU to plan for; None means this machine's device.
        gpus: number of GPUs that the model is split across (FSDP2).
        ask: ask judges on servers about a few answers, to time them.
        screen: shows the plan.

    Raises:
        InputError: for a mistake in recipe, data or model, or if the run does not fit.
    """
    check_trainer_fields(recipe.training.trainer, TrainingArguments, {})
    chosen, split = recipe.model, load_split(recipe.data, recipe.seed)
    tokenizer = load_tokenizer(chosen.path, chosen.trust_remote_code)
    lora = vars(chosen.lora) if chosen.lora else None
    if gpus > recipe.training.prompts_per_step:
        raise InputError(f"--gpus: {gpus} exceeds training.prompts_per_step; each GPU needs a prompt")
    if gpus > 1 and chosen.quantization:
        raise InputError("model.quantization: 4-bit weights cannot be split across GPUs; omit --gpus")
    model = policy_shape(chosen.path, chosen.adapter, lora, chosen.dtype, chosen.trust_remote_code, chosen.quantization)
    check_needs(recipe.plan, split.train, recipe.watch is not None)
    check_ahead(recipe.rollout.ahead, recipe.plan, any(map(_concurrent, recipe.rewards)))
    encoded = encoded_as_run(recipe, split.train, tokenizer, model)
    train = replace(encoded, items=split_look_prompts(encoded.items, recipe.plan, recipe.seed)[0])
    size, group = recipe.training.prompts_per_step, recipe.rollout.group_size
    max_steps = most_steps(recipe.plan, recipe.training.steps, len(train.items), size, group)
    test = split.test if recipe.evaluation.enabled else []
    tested = encoded_as_run(recipe, split.train, tokenizer, model, test) if test else None
    held_out, too_long = len(tested.items) if tested else 0, train.dropped + (tested.dropped if tested else 0)
    work = Workload.of(recipe, train.items, max_steps, held_out)

    trained, total = (parameter_count(model, trainable) for trainable in (True, False))
    screen.say(f"{len(train.items):,} prompts, {held_out:,} held out; {trained:,} of {total:,} weights are trained")
    for reason, count in {**split.skipped, **({"prompt too long": too_long} if too_long else {})}.items():
        screen.say(f"left out: {count:,} rows, {reason}")
    for line in (*short_facts(train, tested, recipe.data, recipe.rollout.max_new_tokens), _lengths(train)):
        screen.say(line)
    for line in (*work.lines(recipe), *_questions(recipe, train, work, gpus)):
        screen.say(line)
    screen.say(_flops(recipe, model, train, max_steps, card is None))

    plan = make_plan(recipe, model, train, card, gpus)
    for line in plan.lines():
        screen.say(line)
    if not plan.fits:
        excess = max(plan.peak(plan.rollout), plan.peak(plan.update)) - plan.card
        raise InputError(f"out of memory by {excess / _GIB:.1f} GiB; {plan.remedy(recipe)}")
    screen.say(f"it fits: micro-batches of up to {plan.tokens:,} tokens, {plan.rows:,} completions at once")
    local = card is None and gpus == 1
    models = [section.model or (section.judge and section.judge.local) for section in recipe.rewards]
    if not local or not all(map(has_weights, [chosen.path, *(used.path for used in models if used)])):
        screen.say(f"time: unknown, {'no weights on this machine' if local else 'the plan is for another device'}")
        return
    for line in time_estimate(recipe, split, work, _judges(recipe), ask, screen):
        screen.say(line)


def make_plan(
    recipe: Recipe, model: PreTrainedModel | PeftModel, train: EncodedSet, card: int | None, gpus: int = 1
) -> Plan:
    """Return the memory plan of one process of a run.

    Args:
        recipe: of the run.
        model: on the meta device; unusable afterwards.
        train: the prompts.
        card: as for `dry_run`.
        gpus: as for `dry_run`.

    Raises:
        InputError: if the model cannot run on the meta device.
    """
    training, rollout, needs, extra = recipe.training, recipe.rollout, joint_needs(recipe.plan), recipe.training.trainer
    gpu = card is not None or torch.cuda.is_available()
    memory = (_device_bytes() if card is None else card) - (_DRIVER if gpu else 0)
    half = _half(recipe)
    prompt = max(len(item.prompt_ids) for item in train.items)
    reference = max(len(item.reference_ids) for item in train.items)
    new = rollout.max_new_tokens
    if extra.get("gradient_checkpointing"):
        checkpoint_activations(model, extra.get("gradient_checkpointing_kwargs"))

    quantized, optimizer = recipe.model.quantization is not None, str(extra.get("optim", ""))
    copy_start = (needs.frozen or training.measure_kl) and recipe.model.lora is None
    dtype = copy_dtype(model, None if rollout.engine_settings or quantized else half, gpu)
    gradients = footprint.trained_bytes(model, gpus, half)
    gathered = footprint.gathered_bytes(model, half) if gpus > 1 else 0  # before the model becomes unusable
    sampler = copy_bytes(model, dtype, rollout.merge_adapter)
    if gpus > 1 and not rollout.engine_settings:  # the unsplit model samples
        sampler = sum(weight.numel() * (dtype or weight.dtype).itemsize for weight in model.parameters())
    permanent = {
        "frozen weights": footprint.frozen_bytes(model, quantized) // gpus,
        "trained weights": gradients,
        "copy of the start weights": gradients if copy_start else 0,
        "sampling copy of the model": sampler,
        "optimizer state": footprint.optimizer_bytes(model, optimizer) * gradients // footprint.trained_bytes(model),
    }
    if gpus > 1 and half:  # gathered layers are in half precision already
        cast(nn.Module, model).to(half)
        half = None
    free = memory - sum(permanent.values())
    weight = transformers_model(model).get_output_embeddings().weight
    sampling = footprint.drawing_bytes(model)
    try:
        with footprint.shapes_only(model):
            activations = footprint.activation_bytes(model, half)
            prefill = footprint.reading_bytes(model)
            row = footprint.cache_bytes(model, bucket(prompt + new) if gpu else prompt + new)
    except Exception as error:  # model code may fail in any way on tensors without data
        name = type(transformers_model(model)).__name__
        raise InputError(f"--dry-run: {name} cannot run on the meta device: {one_line(error)}") from error

    def tile(tokens: int) -> int:
        return tile_bytes(weight, tokens, half is not None, cpu=not gpu)

    needed = replace(activations, fixed=activations.fixed + tile(TOKENS))
    auto = needed.within(UPDATE_SHARE * (free - gradients - gathered), TOKENS) if gpu else TOKENS
    budget = training.token_budget if isinstance(training.token_budget, int) else auto
    longest = prompt + max(new if needs.samples else 0, reference)
    prompts = math.ceil(training.prompts_per_step / gpus)
    step = prompts * (prompt + reference + needs.samples * rollout.group_size * new)
    tokens = max(longest, min(budget, step))
    auto = affordable_rows(free, row + sampling, rollout.group_size) if gpu else ROWS
    auto = MOST_ROWS if rollout.engine_settings else auto  # vLLM sizes its cache itself
    rows = max(rollout.group_size, rollout.batch_size if isinstance(rollout.batch_size, int) else auto)
    rows = min(rows, max(prompts * rollout.group_size, recipe.data.held_out))
    in_process = {
        f"cache of {rows} rows of {prompt + new:,} tokens": rows * row,
        "prompt pass, token sampling": max(prefill.at(prompt * max(1, rows // rollout.group_size)), rows * sampling),
    }
    share = (rollout.vllm or VLLMConfig()).memory_share
    by_vllm = {"vllm": {_VLLM: round(share * (memory + _DRIVER))}, "vllm-server": {}}
    return Plan(
        card=memory,
        permanent=permanent,
        rollout=by_vllm.get(rollout.engine, in_process),
        update={
            "gradients": gradients,
            "gathered layers": gathered,
            f"activations of {tokens:,} tokens": activations.at(tokens),
            "output layer tile": tile(tokens),
        },
        rows=rows,
        tokens=tokens,
        longest=longest,
        activations=activations,
    )


def encoded_as_run(
    recipe: Recipe,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | PeftModel,
    held_out: Sequence[Example] = (),
) -> EncodedSet:
    """Return the training prompts as the run encodes them, or the held-out ones if given.

    Of several end tokens of a model, the first is used.
    """
    chosen, data, needs = recipe.model, recipe.data, joint_needs(recipe.plan)
    if chosen.chat_template_kwargs:
        tokenizer = deepcopy(tokenizer)
        set_arguments(tokenizer, chosen.chat_template_kwargs, "model.chat_template_kwargs")
    turn = settled_turn(tokenizer, examples, needs.references)
    end = end_token_id(tokenizer, stop_token_ids(model, tokenizer), chosen.end_token, turn)
    longest, rejected = data.max_prompt_tokens, needs.rejected and not held_out
    encoded = encode_examples(held_out or examples, tokenizer, end, longest, data.long_prompts, rejected, turn)
    config = GRAOConfig(output_dir=recipe.output, rollout=recipe.rollout)
    return drop_too_long(config, model, encoded, tokenizer)


def _prompts_and_references(train: EncodedSet) -> tuple[list[TokenIds], list[TokenIds]]:
    """Return the token ids of all prompts, and of all references."""
    return [item.prompt_ids for item in train.items], [item.reference_ids for item in train.items]


def _lengths(train: EncodedSet) -> str:
    named = zip(("prompts", "references"), _prompts_and_references(train), strict=True)
    cut = f"; {train.truncated:,} prompts are cut" if train.truncated else ""
    return spread("tokens", {name: list(map(len, ids)) for name, ids in named}) + cut


def _flops(recipe: Recipe, model: PreTrainedModel | PeftModel, train: EncodedSet, steps: list[int], local: bool) -> str:
    """Return the number of operations of the run, with the minimum time for them if the plan is `local`."""
    prompt, answer = (sum(map(len, ids)) // len(train.items) for ids in _prompts_and_references(train))
    cost, size, operations = Cost.of(model), recipe.training.prompts_per_step, 0.0
    for stage, count in zip(recipe.plan, steps, strict=True):
        needs = stage.method.needs
        sampled = [answer] * recipe.rollout.group_size if needs.samples else []
        work, forwards = Work.of([(prompt, [*sampled, answer])] * size), int(needs.old)
        forwards += needs.frozen or recipe.training.measure_kl
        operations += count * (needs.updates * cost.update(work) + forwards * cost.forward(work))
        operations += count * cost.forward(Work.of([(prompt, sampled)] * size))
    words = f"{sum(steps):,} steps are {number(operations / 1e15)} PFLOP if answers are as long as references"
    if not local:
        return words
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = _half(recipe)
    peak = matmul_peak(device, half or next(model.parameters()).dtype)
    return f"{words}: at least {duration(operations / peak)} here; sampling is limited by memory and takes longer"


def _questions(recipe: Recipe, train: EncodedSet, work: Workload, gpus: int) -> Iterator[str]:
    """Yield the maximum questions to judges on servers, and their cost."""
    judges = _judges(recipe)
    for expected in forecasts(recipe, judges, train.items, work, gpus):
        yield expected.words
    ledgers = {reward.judge.ledger.path for reward in judges if reward and isinstance(reward.judge, ServerJudge)}
    yield from (f"verdicts in {path} are not asked for again" for path in sorted(ledgers) if path.exists())


def _half(recipe: Recipe) -> torch.dtype | None:
    """Return the dtype of mixed precision; None without it."""
    return next((dtype for name, dtype in _HALF.items() if recipe.training.trainer.get(name)), None)


def _concurrent(section: RewardConfig) -> bool:
    """Whether a reward may work while this process samples: a judge on a server does, a function may."""
    return bool(section.function or (section.judge and not section.judge.local))


def _judges(recipe: Recipe) -> list[JudgeReward | None]:
    """Return for each reward its judge on a server, unable to ask anything; None for other rewards."""
    sections = [*recipe.rewards, *([recipe.watch.reward] if recipe.watch else [])]
    return [
        JudgeReward.from_section(replace(section.judge, replay=True), section, recipe)
        if section.judge and not section.judge.local
        else None
        for section in sections
    ]


def _device_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
