"""`GRAOTrainer`: transformers' Trainer for weighted groups of answers.

Mixed precision, data parallelism, callbacks and `report_to` come from transformers. The state that method, watch and
log carry from step to step is saved in `grao_state.json` of each checkpoint.
"""

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object, set_seed
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainerState

from grao.chat import set_arguments
from grao.config.library import GRAOConfig, check_arguments, in_place_of
from grao.config.stages import joint_needs, most_steps, stages_of
from grao.data.encoding import EncodedSet, encode_examples, settled_turn
from grao.data.load import examples_from_dataset
from grao.engine.adapters import adapter_disabled
from grao.engine.limits import padding_id
from grao.engine.loading import check_finite, load_tokenizer
from grao.engine.policy import given_policy
from grao.engine.sharded import configure_sharding, sum_over_processes
from grao.errors import InputError
from grao.methods.base import Method
from grao.rewards.mix import Mix, RewardLike, as_mix, check_any_scored
from grao.rollouts.base import Generator, Sampling
from grao.training.accumulate import StepOutput
from grao.training.ahead import check_ahead, read_ahead, write_ahead
from grao.training.arguments import (
    check_library,
    check_needs,
    check_settings,
    drop_too_long,
    library_errors,
    training_arguments,
)
from grao.training.callbacks import MetricsCallback
from grao.training.experience import ExperienceSource
from grao.training.gap import GapWarning, tolerated_gap
from grao.training.learner import Learner, merged_updates, save_head
from grao.training.library import held_out_metrics, write_page
from grao.training.loglines import LogLines
from grao.training.metrics import SUMMED, add_logged, step_metrics
from grao.training.reporting import SampleLog
from grao.training.sampler import make_sampler, rollout_rows, sampling_copy, stop_tokens
from grao.training.staged import StagedTrainer
from grao.training.stages import Conductor, Spent, split_look_prompts
from grao.training.state import CARRIED, CarriedState
from grao.training.watch import Watch
from grao.types import Example

Rows = Iterable[Mapping[str, Any] | Example]
_NONE = EncodedSet([], 0, 0)


class GRAOTrainer(StagedTrainer):
    """Aligns a model with GRAO or another method. The order of the arguments is that of TRL's trainers.

    Args:
        model: a causal language model, a `PeftModel` with a trained adapter, or the folder or hub id of either. An
            adapter is trained further; with `peft_config` it is merged first.
        reward_funcs: a function in TRL's convention f(prompts, completions, **columns) -> list[float | None], a
            reward model (folder, hub id, model, or a pair of model and tokenizer), anything that satisfies
            `grao.rewards.base.Reward`, a list of these, or a `Mix` with weights.
        args: settings; required. Their defaults are those of the paper, except for `method.sign` (docs/method.md).
        train_dataset: rows with columns `prompt` and `reference` in anything `examples_from_dataset` reads (a
            `datasets.Dataset`, a data frame, a list), or Examples; further columns are passed to the rewards.
        eval_dataset: held-out rows for `evaluate()`, like `train_dataset`.
        processing_class: the tokenizer; by default that of the model.
        peft_config: train this adapter instead of all weights.
        callbacks: as in transformers.
        watch: a second reward that warns when the first is hacked.
        method: replaces `args.method`; it may come from outside the package.
        generator: the sampling engine, replaces the one named by `args.rollout.engine`.
        others: arguments of other trainers; rejected with the name they have here.

    Raises:
        InputError: if any argument is wrong, in one line.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: Mix | RewardLike | Sequence[RewardLike] | None = None,
        args: GRAOConfig | None = None,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        watch: Watch | None = None,
        method: Method | None = None,
        generator: Generator | None = None,
        **others: Any,
    ) -> None:
        check_arguments(others)
        if not isinstance(args, GRAOConfig):
            kind = "nothing" if args is None else type(args).__name__
            example = f"such as {in_place_of(args)}; docs/from-trl.md has the names of its settings"
            raise InputError(f"args must be a GRAOConfig, got {kind}; {example}")
        if reward_funcs is None:
            raise InputError("reward_funcs is missing: f(prompts, completions, **columns) -> list[float], or a model")
        if train_dataset is None:
            raise InputError("train_dataset is missing: rows with columns prompt and reference")
        self.folder, self.config, self.rewards, self.watch = args.output_dir, args, as_mix(reward_funcs), watch
        if method and args.stages:
            raise InputError("method and args.stages are both given; leave one out")
        plan = stages_of(method or args.method, args.stages, args.training.schedule)
        self.method, self.custom_method = plan[0].method, method
        self.max_bad_steps, self.save_async = args.training.max_bad_steps, args.training.save_async
        set_seed(args.seed)  # the initial weights of an adapter must depend on the seed only
        policy = given_policy(model, peft_config)
        check_finite(policy, "model")
        source = model if isinstance(model, str) else policy.config._name_or_path
        self.tokenizer = processing_class or load_tokenizer(source)
        if args.chat_template_kwargs:
            self.tokenizer = deepcopy(self.tokenizer)
            set_arguments(self.tokenizer, args.chat_template_kwargs, "model.chat_template_kwargs")
        self.pad_id = padding_id(self.tokenizer, policy)

        examples = examples_from_dataset(train_dataset, args.data)
        needs = joint_needs(plan)
        turn = settled_turn(self.tokenizer, examples, needs.references)
        self.stop_ids, self.end_id, self.turn = stop_tokens(policy, self.tokenizer, examples, args, turn)
        check_needs(plan, examples, watch is not None)
        check_ahead(args.rollout.ahead, plan, self.rewards.early)
        held_out = examples_from_dataset(eval_dataset, args.data) if eval_dataset is not None else []
        for mix in self._mixes():
            mix.check_columns({name for example in (*examples, *held_out) for name in example.columns})
        encoded = self._encode(examples, policy, needs.rejected)
        items, look_items = split_look_prompts(encoded.items, plan, args.seed)
        self.train_items = replace(encoded, items=items)
        self.eval_items = self._encode(held_out, policy) if eval_dataset is not None else None
        size = args.training.prompts_per_step
        most = most_steps(plan, args.training.steps, len(items), size, args.rollout.group_size)
        self.conductor, steps = Conductor(self, plan, most, look_items), sum(most)
        arguments = training_arguments(args, steps)
        with library_errors(args.training.trainer):
            super().__init__(
                model=policy,
                args=arguments,
                train_dataset=range(steps),
                eval_dataset=self.eval_items and self.eval_items.items,
                processing_class=self.tokenizer,
                callbacks=[
                    *(MetricsCallback(args.output_dir), LogLines(), self.conductor),
                    *filter(None, [watch]),
                    *(callbacks or []),
                ],
            )
            check_library(self, steps)
        self.is_fsdp_enabled = configure_sharding(self.accelerator, policy)
        check_settings(args.training, plan, self.accelerator, policy)
        # Adapters with other initialisations also change the base weights.
        plain = peft_config is not None and isinstance(getattr(peft_config, "init_lora_weights", True), bool)
        without = partial(adapter_disabled, cast(PeftModel, policy)) if plain else None
        rollout, alone = args.rollout, self.accelerator.num_processes == 1
        copy = sampling_copy(policy, rollout, self.accelerator)
        self.learner = Learner(policy, self.method, args.training, self.accelerator, self.pad_id, without, copy.bytes)
        self.engine = self.learner.engine
        self._method_state = self.method.start()
        self._steps: list[dict[str, float]] = []
        self._logged: dict[str, list[float]] = defaultdict(list)
        longest = max(len(item.prompt_ids) for item in (*items, *look_items, *(self.eval_items or _NONE).items))
        self.rows = rollout_rows(policy, args, copy, self.accelerator, longest)
        self.generator = generator or make_sampler(policy, rollout, copy, self.stop_ids, self.pad_id, self.rows, alone)
        explained = rollout.ahead or arguments.neftune_noise_alpha or not self.is_world_process_zero()
        self._gap = GapWarning(math.inf if explained else tolerated_gap(policy, self.accelerator, self.generator))
        self.source = ExperienceSource(
            items=self.train_items.items,
            generator=self.generator,
            rewards=self.rewards,
            method=self.method,
            tokenizer=self.tokenizer,
            sampling=Sampling(rollout.group_size, rollout.temperature, rollout.top_p, rollout.max_new_tokens),
            prompts_per_step=args.training.prompts_per_step,
            seed=args.seed,
            drop_truncated=args.training.drop_truncated,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            ahead=rollout.ahead,
            steps=most[0],
            total=partial(sum_over_processes, self.accelerator),
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(SampleLog(args.output_dir, self, self.source, args.training.sample_every))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run one step: sample and score a batch of prompts, then take one or more gradient steps on it.

        Args:
            model: the policy as wrapped by the trainer.
            inputs: `{"step": number of the step, from 0}`.
            num_items_in_batch: unused.

        Returns:
            The loss of the first gradient step, detached.
        """
        begin, step = time.perf_counter(), inputs["step"] + 1
        if self.conductor.reached.over:
            self.hand_over()
        self._logged.clear()
        for mix in self._mixes():
            mix.surround(trainer_state=self.state, log_metric=self._log_metric)
        self.begin_step(step)
        method = self.source.method = self.method.at(self._method_state)
        self.sampler()
        update = self.source.update(self.conductor.step(inputs["step"]))
        if method.needs.samples:
            scored, samples = self._total(update.experience.scored_counts)
            if not scored:  # over all processes, so that all of them stop
                check_any_scored([update.experience.rewards], int(samples))
        look_due = self.watch and self.watch.due(step) and update.experience.sampled
        watched = self.watch.numbers(update.experience) if self.watch and look_due else {}
        sampled = time.perf_counter()
        before = self.learner.before(model, update, method)
        outputs: list[StepOutput] = []
        while len(outputs) < method.needs.updates and not self.step_skipped:
            outputs.append(self.learner.gradient(model, update, before, method))
            if not math.isfinite(*self._total(outputs[-1].loss[None])):
                self.skip_step("loss", model)
                return torch.zeros_like(outputs[0].loss)
            if len(outputs) < method.needs.updates:
                self._optimise(model)
        more = {**self.learner.operations(update), **watched}
        metrics = step_metrics(update, merged_updates(outputs), method, self.accelerator, more)
        self._gap.check(step, metrics.get("sampler/gap", math.nan))
        if self.watch and watched:
            metrics |= self.watch.look(step, metrics)
        lengths = update.batch.lengths
        self._method_state, adapted = self.method.adapt(self._method_state, before, lengths, self._total, metrics)
        metrics |= adapted | {f"seconds/{phase}": spent for phase, spent in update.experience.seconds.items()}
        end = time.perf_counter()
        metrics |= {"seconds/update": end - sampled, "seconds/step": end - begin}
        metrics |= self.learner.speedometer.metrics(metrics)
        counted = (round(metrics[f"tokens/{name}"]) for name in ("sampled", "forwarded", "backwarded"))
        if len(self.conductor.plan) > 1:
            metrics["stage"] = self.conductor.reached.stage + 1
        self.conductor.spend(Spent(method.needs.updates, *counted))
        self._steps.append(add_logged(metrics, self._logged, self.accelerator))
        if step == 1 and metrics.get("verdict/tie") == 1 and self.is_world_process_zero():
            names = " + ".join(reward.name for reward in self.rewards.rewards)
            warnings.warn(
                f"the reward ({names}) scores every answer of step 1 the same as its reference; "
                "nothing can be learned while it does",
                stacklevel=2,
            )
        return outputs[0].loss

    def sampler(self) -> Generator:
        """Return the sampling engine, synchronised with the current weights."""
        self.generator.sync(self.accelerator.unwrap_model(self.model))
        return self.generator

    def note(self, numbers: Mapping[str, float]) -> None:
        """Add metrics to the last step's log line, if it is not written yet."""
        if self._steps:
            self._steps[-1] |= numbers

    def _mixes(self) -> list[Mix]:
        """Return the training rewards, and the watch's if there is one."""
        return [self.rewards, *([self.watch.reward] if self.watch else [])]

    def _log_metric(self, name: str, value: float) -> None:
        """Log a metric of this step; passed to reward functions as `log_metric`."""
        self._logged[str(name)].append(float(value))

    def _total(self, values: Tensor) -> list[float]:
        """Return the sums of the values over all processes."""
        return sum_over_processes(self.accelerator, values)

    def _optimise(self, model: nn.Module) -> None:
        """Take an optimizer step between two gradients on the same samples; transformers takes the last one."""
        limit = self.args.max_grad_norm or math.inf
        self._get_grad_norm(model, self.accelerator.clip_grad_norm_(model.parameters(), limit))
        self.between_steps &= self.step_skipped
        cast(Optimizer, self.optimizer).step()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Yield step numbers; every process gets all of them, and takes its share of each step's prompts."""
        steps = range(self.args.max_steps)
        return DataLoader(steps, batch_size=1, collate_fn=lambda steps: {"step": steps[0]})  # type: ignore[arg-type]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics of the steps since the last line: means, and sums of judge requests and costs."""
        if "learning_rate" in logs and self._steps:
            steps, self._steps = self._steps, []
            for name in dict.fromkeys(name for step in steps for name in step):
                values = [step[name] for step in steps if name in step]
                logs = logs | {name: sum(values) / (1 if name.endswith(SUMMED) else len(values))}
        super().log(logs, start_time)

    def evaluate(  # type: ignore[override]
        self, eval_dataset: Rows | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Sample one answer to each held-out prompt; return mean reward and shares of wins, ties and losses.

        For the trainer's own held-out prompts, before or after training, the result also has RAS and, after training,
        NAG; answers and results are then recorded in `items.jsonl` and `evaluation.json`, as by `grao train`.

        Args:
            eval_dataset: rows like `train_dataset`; by default the trainer's own held-out prompts.
            ignore_keys: unused.
            metric_key_prefix: prefix of the metrics' names.

        Raises:
            InputError: if there are no held-out prompts, or the records of another evaluation would be overwritten.
        """
        self.between_steps = True  # transformers evaluates after the optimizer step
        encoded = self.eval_items
        if eval_dataset is not None:
            encoded = self._encode(
                examples_from_dataset(eval_dataset, self.config.data), self.accelerator.unwrap_model(self.model)
            )
        if encoded is None:
            raise InputError("evaluate: eval_dataset is missing; pass it to GRAOTrainer or to evaluate()")
        metrics = held_out_metrics(self, encoded.items, recorded=eval_dataset is None and not self.is_in_train)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def report(self) -> Path:
        """Write the report of the run, `report.html` in its folder, and return its path."""
        return write_page(self)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy; into a checkpoint also the state carried from step to step.

        Args:
            output_dir: as in transformers.
            _internal_call: as in transformers.
        """
        super().save_model(output_dir, _internal_call)
        if self._draft is None or output_dir is None:  # not a checkpoint
            return
        if self.source.ahead:
            share = self.source.share(self.conductor.step(self.state.global_step))
            write_ahead(Path(output_dir), share, self.is_world_process_zero())
        asked = gather_object([self.learner.observer.frozen_texts])
        if self.is_world_process_zero():
            looks, least = self.watch.looks if self.watch else [], self.learner.budget.least
            carried = CarriedState(self._method_state, looks, self._steps, least, self.conductor.reached, asked)
            CARRIED.write(Path(output_dir), carried)

    def _encode(self, examples: Sequence[Example], policy: nn.Module, with_rejected: bool = False) -> EncodedSet:
        data, tokens = self.config.data, self.config.data.max_prompt_tokens
        encoded = encode_examples(
            examples, self.tokenizer, self.end_id, tokens, data.long_prompts, with_rejected, self.turn
        )
        return drop_too_long(self.config, policy, encoded, self.tokenizer)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the policy as a plain language model, and its critic in a separate file."""
        if self.learner.critic is not None and self.args.should_save:
            weights = state_dict or self._policy.state_dict()
            state_dict = save_head(weights, output_dir or str(self.args.output_dir))
        super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        carried = CARRIED.read(Path(resume_from_checkpoint))
        if folder := self.conductor.start_folder:
            self.load_stage_weights(folder)
            self.begin_stage()
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.learner.critic is not None:
            self.learner.critic.load(resume_from_checkpoint)
        if self.source.ahead:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint, "trainer_state.json")))
            samples = read_ahead(Path(resume_from_checkpoint), self.source.prompts_per_step)
            self.source.restore(self.conductor.step(state.global_step), samples)
        if carried:
            self._method_state, self._steps = carried.method, carried.steps
            self.learner.budget.at_most(carried.token_budget)
            if carried.frozen_texts:
                self.learner.observer.resume(carried.frozen_texts[self.args.process_index % len(carried.frozen_texts)])
            if self.watch:
                self.watch.looks = carried.looks
