"""`grao train --dry-run`: what a run will take, from its recipe, its data and the model's config.json.

The data go through the template, and what does not depend on samples is counted exactly (`forecast.py`). For the memory
the model stands on the meta device, and its own passes are counted in shapes (`grao.engine.footprint`). Nothing is
written, and no judge is asked unless that is allowed. Where the weights are here, they are loaded for the time alone.
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
from grao.studies.forecast import Workload, forecasts, timed
from grao.studies.prepare import Screen
from grao.training.ahead import check_ahead
from grao.training.arguments import check_needs, check_trainer_fields, drop_too_long
from grao.training.stages import split_look_prompts
from grao.types import Example, TokenIds

_GIB = 1 << 30
_DRIVER = _GIB
"""Bytes of a card for its driver, compiled kernels and gaps between blocks."""
_WORTHWHILE = 1024
"""Tokens of a micro-batch below which other remedies come first."""
_VLLM, _LEAST_SHARE = "vLLM", 0.05
"""What its memory is called, and the share of a card below which it is of no use."""
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Field of `training.trainer` -> mixed precision."""


@dataclass(frozen=True)
class Plan:
    """The memory of a run, in bytes."""

    card: int
    """What there is."""
    kept: dict[str, int]
    """From the first step on, whatever the run does."""
    rollout: dict[str, int]
    """Beside it while completions are sampled."""
    update: dict[str, int]
    """Beside it while gradients are made."""
    rows: int
    """Completions that are sampled at once."""
    tokens: int
    """Of the largest micro-batch."""
    longest: int
    """Tokens of the longest sequence, which a micro-batch must hold."""
    activations: PerToken

    def peak(self, phase: dict[str, int]) -> int:
        """Of one phase."""
        return sum(self.kept.values()) + sum(phase.values())

    @property
    def fits(self) -> bool:
        """Whether both phases do."""
        return max(self.peak(self.rollout), self.peak(self.update)) <= self.card

    def lines(self) -> list[str]:
        """What is printed."""
        phases = {"rollout": self.rollout, "update": self.update}
        rows = [*self.kept.items()]
        rows += [(f"{phase}: {name}", size) for phase, parts in phases.items() for name, size in parts.items()]
        rows = [(f"  {name}", size) for name, size in rows if size]
        rows += [(f"peak of the {phase}", self.peak(parts)) for phase, parts in phases.items()]
        return [
            f"{'memory, GiB':<48}",
            *(f"{name:<48}{size / _GIB:8.2f}" for name, size in [*rows, ("there is", self.card)]),
        ]

    def remedy(self, recipe: Recipe) -> str:
        """What to set where it does not fit, the least change first."""
        share = (self.card - sum(self.kept.values())) / (self.card + _DRIVER)
        if _VLLM in self.rollout and self.peak(self.rollout) > self.card and share > _LEAST_SHARE:
            return f"set rollout.vllm.memory_share: {math.floor(100 * share) / 100}"
        if self.peak(self.rollout) > max(self.card, self.peak(self.update)) and self.rows > recipe.rollout.group_size:
            room = self.card - sum(self.kept.values())
            rows = int(self.rows * room / max(sum(self.rollout.values()), 1))
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
        return "take shorter answers (rollout.max_new_tokens), a smaller model or a larger card"


def dry_run(recipe: Recipe, card: int | None, gpus: int, ask: bool, screen: Screen) -> None:
    """Prints what a run will take.

    Args:
        recipe: of the run.
        card: bytes of the GPU to plan for; None takes the device at hand.
        gpus: how many of them the model is split over (FSDP2).
        ask: whether judges on servers may be asked about a few answers, to time them.
        screen: where it is shown.

    Raises:
        InputError: for a mistake in recipe, data or model, or if the run does not fit.
    """
    check_trainer_fields(recipe.training.trainer, TrainingArguments, {})
    chosen, split = recipe.model, load_split(recipe.data, recipe.seed)
    tokenizer = load_tokenizer(chosen.path, chosen.trust_remote_code)
    lora = vars(chosen.lora) if chosen.lora else None
    if gpus > recipe.training.prompts_per_step:
        raise InputError(f"--gpus: {gpus} are more than training.prompts_per_step; each needs a prompt")
    if gpus > 1 and chosen.quantization:
        raise InputError("model.quantization: weights of 4 bits are not split; leave --gpus out")
    model = policy_shape(chosen.path, chosen.adapter, lora, chosen.dtype, chosen.trust_remote_code, chosen.quantization)
    check_needs(recipe.plan, split.train, recipe.watch is not None)
    check_ahead(recipe.rollout.ahead, recipe.plan, any(map(_early, recipe.rewards)))
    encoded = encoded_as_run(recipe, split.train, tokenizer, model)
    train = replace(encoded, items=split_look_prompts(encoded.items, recipe.plan, recipe.seed)[0])
    size, group = recipe.training.prompts_per_step, recipe.rollout.group_size
    most = most_steps(recipe.plan, recipe.training.steps, len(train.items), size, group)
    test = split.test if recipe.evaluation.enabled else []
    tested = encoded_as_run(recipe, split.train, tokenizer, model, test) if test else None
    held_out, long = len(tested.items) if tested else 0, train.dropped + (tested.dropped if tested else 0)
    work = Workload.of(recipe, train.items, most, held_out)

    trained, whole = (parameter_count(model, trainable) for trainable in (True, False))
    screen.say(f"{len(train.items):,} prompts, {held_out:,} held out; {trained:,} of {whole:,} weights are trained")
    for reason, count in {**split.skipped, **({"prompt too long": long} if long else {})}.items():
        screen.say(f"left out: {count:,} rows, {reason}")
    for line in (*short_facts(train, tested, recipe.data, recipe.rollout.max_new_tokens), _lengths(train)):
        screen.say(line)
    for line in (*work.lines(recipe), *_questions(recipe, train, work, gpus)):
        screen.say(line)
    screen.say(_work(recipe, model, train, most, card is None))

    plan = make_plan(recipe, model, train, card, gpus)
    for line in plan.lines():
        screen.say(line)
    if not plan.fits:
        short = max(plan.peak(plan.rollout), plan.peak(plan.update)) - plan.card
        raise InputError(f"the run does not fit, {short / _GIB:.1f} GiB are missing; {plan.remedy(recipe)}")
    screen.say(f"it fits: micro-batches of up to {plan.tokens:,} tokens, {plan.rows:,} completions at once")
    here = card is None and gpus == 1
    models = [section.model or (section.judge and section.judge.local) for section in recipe.rewards]
    if not here or not all(map(has_weights, [chosen.path, *(each.path for each in models if each)])):
        screen.say(f"time: not planned, {'the weights are not here' if here else 'for this is another device'}")
        return
    for line in timed(recipe, split, work, _judges(recipe), ask, screen):
        screen.say(line)


def make_plan(
    recipe: Recipe, model: PreTrainedModel | PeftModel, train: EncodedSet, card: int | None, gpus: int = 1
) -> Plan:
    """The memory plan of a run, of one of its processes.

    Args:
        recipe: of the run.
        model: on the meta device; it is of no use behind.
        train: the prompts.
        card: as for `dry_run`.
        gpus: as for `dry_run`.

    Raises:
        InputError: if the model cannot be run on shapes alone.
    """
    training, rollout, needs, extra = recipe.training, recipe.rollout, joint_needs(recipe.plan), recipe.training.trainer
    gpu = card is not None or torch.cuda.is_available()
    room = (_device_bytes() if card is None else card) - (_DRIVER if gpu else 0)
    half = _half(recipe)
    prompt = max(len(item.prompt_ids) for item in train.items)
    reference = max(len(item.reference_ids) for item in train.items)
    new = rollout.max_new_tokens
    if extra.get("gradient_checkpointing"):
        checkpoint_activations(model, extra.get("gradient_checkpointing_kwargs"))

    quantized, optimizer = recipe.model.quantization is not None, str(extra.get("optim", ""))
    copied = (needs.frozen or training.measure_kl) and recipe.model.lora is None
    rounded = copy_dtype(model, None if rollout.engine_settings or quantized else half, gpu)
    gradients = footprint.trained_bytes(model, gpus, half)
    gathered = footprint.gathered_bytes(model, half) if gpus > 1 else 0  # before the model is of no use
    sampler = copy_bytes(model, rounded, rollout.merge_adapter)
    if gpus > 1 and not rollout.engine_settings:  # what was the whole model samples from now on
        sampler = sum(weight.numel() * (rounded or weight.dtype).itemsize for weight in model.parameters())
    kept = {
        "weights that stay": footprint.frozen_bytes(model, quantized) // gpus,
        "weights that are trained": gradients,
        "a copy of them as they were": gradients if copied else 0,
        "a copy of the model, which samples": sampler,
        "state of the optimiser": footprint.optimizer_bytes(model, optimizer)
        * gradients
        // footprint.trained_bytes(model),
    }
    if gpus > 1 and half:  # what is gathered is in half precision, and is no copy beside another
        cast(nn.Module, model).to(half)
        half = None
    left = room - sum(kept.values())
    weight = transformers_model(model).get_output_embeddings().weight
    drawing = footprint.drawing_bytes(model)
    try:
        with footprint.shapes_only(model):
            activations = footprint.activation_bytes(model, half)
            reading = footprint.reading_bytes(model)
            row = footprint.cache_bytes(model, bucket(prompt + new) if gpu else prompt + new)
    except Exception as error:  # whatever a model's code makes of tensors without numbers
        name = type(transformers_model(model)).__name__
        raise InputError(f"--dry-run: {name} cannot be run on shapes alone: {one_line(error)}") from error

    def tile(tokens: int) -> int:
        return tile_bytes(weight, tokens, half is not None, cpu=not gpu)

    needed = replace(activations, fixed=activations.fixed + tile(TOKENS))
    auto = needed.within(UPDATE_SHARE * (left - gradients - gathered), TOKENS) if gpu else TOKENS
    budget = training.token_budget if isinstance(training.token_budget, int) else auto
    longest = prompt + max(new if needs.samples else 0, reference)
    prompts = math.ceil(training.prompts_per_step / gpus)
    step = prompts * (prompt + reference + needs.samples * rollout.group_size * new)
    tokens = max(longest, min(budget, step))
    auto = affordable_rows(left, row + drawing, rollout.group_size) if gpu else ROWS
    auto = MOST_ROWS if rollout.engine_settings else auto  # vLLM sizes its cache itself
    rows = max(rollout.group_size, rollout.batch_size if isinstance(rollout.batch_size, int) else auto)
    rows = min(rows, max(prompts * rollout.group_size, recipe.data.held_out))
    own = {
        f"cache of {rows} rows of {prompt + new:,} tokens": rows * row,
        "reading prompts, drawing tokens": max(reading.at(prompt * max(1, rows // rollout.group_size)), rows * drawing),
    }
    share = (rollout.vllm or VLLMConfig()).memory_share
    by_vllm = {"vllm": {_VLLM: round(share * (room + _DRIVER))}, "vllm-server": {}}
    return Plan(
        card=room,
        kept=kept,
        rollout=by_vllm.get(rollout.engine, own),
        update={
            "gradients": gradients,
            "layers that are gathered": gathered,
            f"activations of {tokens:,} tokens": activations.at(tokens),
            "a tile of the output layer": tile(tokens),
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
    """The training prompts as the run will have them, or those that are held out; where a model knows several end
    tokens, the first counts."""
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


def _columns(train: EncodedSet) -> tuple[list[TokenIds], list[TokenIds]]:
    """Prompts and references."""
    return [item.prompt_ids for item in train.items], [item.reference_ids for item in train.items]


def _lengths(train: EncodedSet) -> str:
    named = zip(("prompts", "references"), _columns(train), strict=True)
    cut = f"; {train.truncated:,} prompts are cut" if train.truncated else ""
    return spread("tokens", {name: list(map(len, ids)) for name, ids in named}) + cut


def _work(recipe: Recipe, model: PreTrainedModel | PeftModel, train: EncodedSet, most: list[int], here: bool) -> str:
    """The operations of the run, and the least time that they take on the device at hand."""
    prompt, answer = (sum(map(len, ids)) // len(train.items) for ids in _columns(train))
    cost, size, operations = Cost.of(model), recipe.training.prompts_per_step, 0.0
    for stage, steps in zip(recipe.plan, most, strict=True):
        needs = stage.method.needs
        sampled = [answer] * recipe.rollout.group_size if needs.samples else []
        work, forwards = Work.of([(prompt, [*sampled, answer])] * size), int(needs.old)
        forwards += needs.frozen or recipe.training.measure_kl
        operations += steps * (needs.updates * cost.update(work) + forwards * cost.forward(work))
        operations += steps * cost.forward(Work.of([(prompt, sampled)] * size))
    said = f"{sum(most):,} steps are {number(operations / 1e15)} PFLOP if answers are as long as references"
    if not here:
        return said
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = _half(recipe)
    peak = matmul_peak(device, half or next(model.parameters()).dtype)
    return f"{said}: at least {duration(operations / peak)} here; sampling waits for memory and takes longer"


def _questions(recipe: Recipe, train: EncodedSet, work: Workload, gpus: int) -> Iterator[str]:
    """What judges on servers are asked at most, and what that costs."""
    judges = _judges(recipe)
    for expected in forecasts(recipe, judges, train.items, work, gpus):
        yield expected.words
    ledgers = {each.judge.ledger.path for each in judges if each and isinstance(each.judge, ServerJudge)}
    yield from (f"what {path} knows already is not asked again" for path in sorted(ledgers) if path.exists())


def _half(recipe: Recipe) -> torch.dtype | None:
    """Of mixed precision; None without."""
    return next((dtype for name, dtype in _HALF.items() if recipe.training.trainer.get(name)), None)


def _early(section: RewardConfig) -> bool:
    """Whether a reward may work while this process samples: a judge on a server does, a function can."""
    return bool(section.function or (section.judge and not section.judge.local))


def _judges(recipe: Recipe) -> list[JudgeReward | None]:
    """The judges on servers in the order of the rewards, none of which can ask; None for any other reward."""
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
