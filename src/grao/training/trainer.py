"""`GRAOTrainer`: transformers' Trainer around weighted sequences. It knows nothing of rewards or advantages.

Checkpoints, resume, mixed precision, data parallelism, callbacks and `report_to` come from transformers.
Left out: models split over processes (FSDP, DeepSpeed stage 3), which sampling does not support yet.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from grao.config.recipe import GRAOConfig, total_steps
from grao.data import EncodedSet, Example, encode_examples, end_token_id, examples_from_dataset
from grao.errors import InputError
from grao.groups import reward_groups, sample_groups
from grao.methods import make_method
from grao.models import likeliest_stop, load_model, load_tokenizer, stop_token_ids
from grao.rewards import Mix, Reward, as_mix
from grao.rollouts import HuggingFaceGenerator, Sampling, draw_key
from grao.training.arguments import check_needs, check_settings, fitting, training_arguments
from grao.training.callbacks import MetricsCallback, WatchCallback
from grao.training.critic import without_head
from grao.training.experience import ExperienceSource, Update
from grao.training.kl_control import KLControl
from grao.training.learner import Learner, together
from grao.training.metrics import step_metrics
from grao.training.watch import Watch

Rows = Sequence[Example] | Sequence[Mapping[str, Any]]

_PROBES = 16
"""References on which a model with several stop tokens is asked which one it uses."""


class GRAOTrainer(Trainer):
    """Aligns a model with GRAO.

    Args:
        model: a causal language model, or its folder or hub id.
        args: settings; defaults are the paper's.
        train_dataset: a `datasets.Dataset` or list of rows with columns `prompt` and `reference`, or Examples;
            further columns go to the rewards.
        reward_funcs: a function in TRL's convention f(prompts, completions, **columns) -> list[float | None],
            anything that satisfies `grao.rewards.Reward`, a list of these, or a `Mix` with weights.
        eval_dataset: rows for `evaluate()`, as `train_dataset`.
        processing_class: the tokenizer; by default the one beside the model.
        peft_config: trains an adapter instead of all weights.
        callbacks: as in transformers.
        watch: a second reward that looks on and warns when the first is hacked.

    Raises:
        InputError: for a mistake in any of these, in one line.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: GRAOConfig,
        train_dataset: Rows,
        reward_funcs: Mix | Reward | Callable[..., Any] | Sequence[Reward | Callable[..., Any]],
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.config, self.rewards, self.watch = args, as_mix(reward_funcs), watch
        self.method = make_method(args.method)
        policy = load_model(model) if isinstance(model, str) else model
        policy = get_peft_model(policy, peft_config) if peft_config else policy
        self.tokenizer = processing_class or load_tokenizer(policy.config._name_or_path)
        self.pad_id = int(self.tokenizer.pad_token_id or 0)

        examples = _examples(train_dataset, args)
        self.stop_ids, self.end_id = self._endings(policy, examples)
        check_needs(self.method, args.method.name, examples, watch is not None)
        self.train_items = self._encode(examples, policy, self.method.needs.rejected)
        self.eval_items = self._encode(_examples(eval_dataset, args), policy) if eval_dataset is not None else None
        steps = total_steps(args.training, len(self.train_items.items))
        arguments = training_arguments(args, steps)
        try:
            super().__init__(
                model=policy,
                args=arguments,
                train_dataset=range(steps),
                eval_dataset=self.eval_items and self.eval_items.items,
                processing_class=self.tokenizer,
                callbacks=[
                    MetricsCallback(args.output_dir),
                    *([WatchCallback(watch, args.output_dir)] if watch else []),
                    *(callbacks or []),
                ],
            )
        except ValueError as error:
            raise InputError(f"training.trainer: {' '.join(str(error).split())}") from error
        check_settings(args.training, self.accelerator, policy)
        self.learner = Learner(policy, self.method, args.training, self.accelerator, self.pad_id)
        self.engine = self.learner.engine
        self._kl_control = KLControl(self.method, args.output_dir)
        self._steps: list[dict[str, float]] = []
        rollout, alone = args.rollout, self.accelerator.num_processes == 1
        self.generator = HuggingFaceGenerator(policy, self.stop_ids, self.pad_id, rollout.batch_size, alone)
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
        )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One batch of prompts: experience, then the gradient of what the method makes of it, once or more."""
        begin, step = time.perf_counter(), inputs["step"] + 1
        update = self.source.update(inputs["step"])
        sampled = time.perf_counter()
        before = self.learner.look(model, update, self._kl_control.method(inputs["step"]))
        seen = [self.learner.gradient(model, update, before)]
        for _ in range(self.method.needs.updates - 1):
            self._optimise(model)
            seen.append(self.learner.gradient(model, update, before))
        watched = self.watch.numbers(update.experience) if self.watch and self.watch.due(step) else {}
        more = {**self.learner.operations(update), **watched}
        metrics = step_metrics(update, together(seen), self.method, self.accelerator, more)
        if self.watch and watched:
            metrics |= self.watch.look(step, metrics)
        metrics |= self._kl_control.steer(before, update.batch.lengths()[1], self.accelerator)
        metrics |= {f"seconds/{phase}": spent for phase, spent in update.experience.seconds.items()}
        end = time.perf_counter()
        metrics |= {"seconds/update": end - sampled, "seconds/step": end - begin}
        self._steps.append(metrics | self.learner.speed(metrics))
        return seen[0].loss

    def _optimise(self, model: nn.Module) -> None:
        """An optimiser step between two updates on the same samples; transformers makes the last one."""
        if self.args.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
        cast(Optimizer, self.optimizer).step()

    def time_update(self, update: Update) -> float:
        """Seconds for the gradient of an update, which is thrown away: no weight moves, nothing is logged."""
        policy = cast(PreTrainedModel | PeftModel, self.model)
        if self.args.gradient_checkpointing:
            policy.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        model = self.accelerator.prepare_model(policy)
        begin = time.perf_counter()
        before = self.learner.look(model, update, self.method)
        for _ in range(self.method.needs.updates):
            self.learner.gradient(model, update, before).loss.item()
        seconds = time.perf_counter() - begin
        model.zero_grad()
        return seconds

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Step numbers: every process gets all of them and takes its share of the step's prompts."""
        return DataLoader(self.train_dataset, batch_size=1, collate_fn=lambda steps: {"step": steps[0]})  # type: ignore[arg-type]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training line what the steps since the last one showed, averaged."""
        if "loss" in logs and self._steps:
            steps, self._steps = self._steps, []
            for name in dict.fromkeys(name for step in steps for name in step):
                seen = [step[name] for step in steps if name in step]
                logs = logs | {name: sum(seen) / len(seen)}
        super().log(logs, start_time)

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: Rows | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """One answer for each held-out prompt: mean reward, and shares of wins, ties and losses to the reference.

        For intervals, and for before against after, see `grao evaluate`.
        """
        encoded = self.eval_items
        if eval_dataset is not None:
            policy = self.accelerator.unwrap_model(self.model)
            encoded = self._encode(_examples(eval_dataset, self.config), policy)
        if encoded is None:
            raise InputError("evaluate: there is no eval_dataset; give one to GRAOTrainer or to evaluate()")
        rollout = self.config.rollout
        sampling = Sampling(1, rollout.temperature, rollout.top_p, rollout.max_new_tokens)
        keys = [draw_key(self.config.seed, "evaluate", item.example.id) for item in encoded.items]
        groups = sample_groups(encoded.items, keys, self.generator, sampling, self.tokenizer)
        rewards = reward_groups(groups, self.rewards).total
        scored = rewards[~rewards.isnan()]
        shares = {"reward": scored, "win": scored > 0, "tie": scored == 0, "lose": scored < 0}
        metrics = {f"{metric_key_prefix}_{name}": share.double().mean().item() for name, share in shares.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_checkpoint(self) -> None:
        """Weights, optimiser and state as they are after the last complete step."""
        self._save_checkpoint(self.model_wrapped, trial=None)

    def _encode(self, examples: Sequence[Example], policy: nn.Module, with_rejected: bool = False) -> EncodedSet:
        data, tokens = self.config.data, self.config.data.max_prompt_tokens
        encoded = encode_examples(examples, self.tokenizer, self.end_id, tokens, data.long_prompts, with_rejected)
        return fitting(self.config, policy, encoded)

    def _endings(self, policy: PreTrainedModel | PeftModel, examples: Sequence[Example]) -> tuple[tuple[int, ...], int]:
        """Tokens at which sampling stops, and the one that closes a reference."""
        stops = stop_token_ids(policy, self.tokenizer)
        likely: Sequence[int] = stops
        if len(stops) > 1 and not self.tokenizer.chat_template and not self.config.end_token:
            data = self.config.data
            probes = encode_examples(examples[:_PROBES], self.tokenizer, stops[0], data.max_prompt_tokens, "truncate")
            prompts = [item.prompt_ids for item in probes.items]
            likely = [likeliest_stop(policy, stops, prompts, [item.reference_ids[:-1] for item in probes.items])]
        end = end_token_id(self.tokenizer, likely, self.config.end_token)
        return tuple(dict.fromkeys((*stops, end))), end

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The policy as a plain language model, and its critic beside it."""
        critic = self.learner.critic
        if critic is not None:
            critic.save(output_dir or str(self.args.output_dir))
            state_dict = without_head(state_dict or self.accelerator.unwrap_model(self.model).state_dict())
        super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.learner.critic is not None:
            self.learner.critic.load(resume_from_checkpoint)


def _examples(rows: Rows, config: GRAOConfig) -> list[Example]:
    examples = [row for row in rows if isinstance(row, Example)]
    return examples or examples_from_dataset(cast(Iterable[Mapping[str, Any]], rows), config.data)
