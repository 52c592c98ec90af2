"""The sides of `gpu_step.py`: their shared prompts and completions, their trainers, and how they take turns."""

import json
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common import END, Side, random_model, text, tokenizer


@dataclass(frozen=True)
class Work:
    """The model, and the work of each step."""

    hidden: int = 896
    layers: int = 24
    intermediate: int = 4864
    vocabulary: int = 151_936
    prompts: int = 8
    samples: int = 8
    prompt: int = 512
    completion: int = 256
    varied: bool = False
    rows: int = 8
    """Sequences per micro-batch of TRL; grao's token budget is equally many tokens."""
    steps: int = 10
    warm: int = 3
    """Uncounted warm-up steps, in which kernels are compiled."""
    cpu: bool = False
    update_only: bool = False
    """Give all sides the same completions, sampled beforehand, and time the rest of the step."""

    @property
    def token_budget(self) -> int:
        """Tokens of a full micro-batch of TRL."""
        return self.rows * (self.prompt + self.completion)


TINY = Work(
    hidden=128, layers=2, intermediate=256, vocabulary=1000, prompts=2, samples=4, prompt=12, completion=6, rows=4,
    steps=2, warm=1, cpu=True,
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Prompts, references and completions of all steps; implements `grao.rollouts.base.Generator`."""

    prompts: list[list[int]]
    """Token ids of steps * B prompts, step by step."""
    references: list[list[int]]
    completions: list[list[list[int]]]
    """Token ids of G completions of each prompt; empty unless `update_only`."""
    seconds: float
    """Median time of sampling the completions of a step."""
    device: str

    @staticmethod
    def read(folder: Path) -> "Data":
        """Read what `draw` wrote to a folder."""
        return Data(**json.loads((folder / "data.json").read_text()))

    def samples_of(self, prompt: Sequence[int]) -> list[list[int]]:
        """Return the completions of a prompt; all prompts differ."""
        return self.completions[self.prompts.index(list(prompt))]

    def generate(self, prompts, keys, sampling):
        """See `Generator.generate`."""
        from grao.types import Answer

        return [
            (index, [Answer(tuple(ids)) for ids in self.samples_of(prompt)]) for index, prompt in enumerate(prompts)
        ]

    def sync(self, policy):
        """Do nothing: all completions exist already."""


def draw(folder: Path, work: Work) -> None:
    """Write a random model, prompts and references and, for `update_only`, completions that grao samples from it."""
    import torch
    from transformers.utils import logging

    from grao.rollouts.base import Sampling
    from grao.rollouts.transformers import TransformersGenerator

    logging.disable_progress_bar()
    heads = max(1, work.hidden // 64)
    model = random_model(
        work.hidden, work.layers, work.vocabulary, intermediate_size=work.intermediate, num_attention_heads=heads,
        num_key_value_heads=2 if heads % 2 == 0 else 1, tie_word_embeddings=work.update_only,
        max_position_embeddings=max(2048, work.prompt + work.completion),
    )  # fmt: skip
    if not work.update_only:
        end_at_random(model, 4 / work.completion if work.varied else 0.0)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    device = torch.device("cpu" if work.cpu else "cuda")
    model.to(device, torch.bfloat16)

    rng = random.Random(0)
    count = work.steps * work.prompts
    prompts, references = (
        [[rng.randrange(3, 1000) for _ in range(length)] for _ in range(count)]
        for length in (work.prompt, work.completion - 1)
    )
    name = "CPU" if work.cpu else torch.cuda.get_device_name()
    if not work.update_only:  # each side samples by itself
        (folder / "data.json").write_text(json.dumps(asdict(Data(prompts, references, [], 0.0, name))))
        return
    generator = TransformersGenerator(model, stop_ids=[work.vocabulary], batch_size=work.prompts * work.samples)
    sampling = Sampling(work.samples, 1.0, 1.0, work.completion)
    sampled, seconds = [], []
    for start in range(0, count, work.prompts):
        begin = time.perf_counter()
        indices = range(start, start + work.prompts)
        groups = dict(generator.generate([prompts[index] for index in indices], list(indices), sampling))
        sampled += [groups[index] for index in range(work.prompts)]
        seconds.append(time.perf_counter() - begin)
    completions = [[ended(sample.ids, work, rng) for sample in group] for group in sampled]
    data = Data(prompts, references, completions, statistics.median(seconds), name)
    (folder / "data.json").write_text(json.dumps(asdict(data)))


def ended(ids: Sequence[int], work: Work, rng: random.Random) -> list[int]:
    """Cut a completion and append the end token, at full length or, if varied, at a quarter of it on average."""
    length = work.completion
    if work.varied:
        length = min(length, 4 + int(rng.expovariate(4 / length)))
    return [3 if token == END else token for token in ids[: length - 1]] + [END]


def end_at_random(model, probability: float) -> None:
    """Make every token of a random model end the completion with about this probability.

    All token embeddings get the same first component, from which the output layer computes a nearly constant logit of
    the end token.
    """
    import torch

    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        states = model.model(torch.randint(3, 1000, (1, 64))).last_hidden_state[0]
        others = model.lm_head(states).logsumexp(-1).mean()
        logit = others + math.log(probability / (1 - probability)) if probability else torch.tensor(-1e4)
        model.lm_head.weight[END] = 0.0
        model.lm_head.weight[END, 0] = logit / states[:, 0].mean()


def unequal_rewards(count: int, group: int) -> list[float]:
    """Return powers of two within each group: no reward is the group's mean, so every weight is nonzero."""
    return [2.0 ** (index % group) for index in range(count)]


def grao_side(folder: Path, work: Work, data: Data):
    """Return grao's trainer, and a description of its engine."""
    from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig

    trainer = GRAOTrainer(
        str(folder),
        lambda prompts, completions: unequal_rewards(len(completions), work.samples + 1),
        GRAOConfig(
            output_dir=folder / "grao",
            rollout=RolloutConfig(group_size=work.samples, temperature=1.0, max_new_tokens=work.completion),
            training=TrainingConfig(
                steps=work.steps,
                prompts_per_step=work.prompts,
                learning_rate=1e-5,
                token_budget=work.token_budget,
                trainer={"bf16": True, "use_cpu": work.cpu, "disable_tqdm": True, "logging_nan_inf_filter": False},
            ),
        ),
        [
            {"prompt": text(prompt), "reference": text(reference)}
            for prompt, reference in zip(data.prompts, data.references, strict=True)
        ],
        processing_class=tokenizer(),
    )
    if work.update_only:
        trainer.generator = trainer.source.generator = data
    trainer.source.draws = lambda step: [(0, work.prompts * step + row) for row in range(work.prompts)]
    return trainer, f"{type(trainer.engine).__name__}, {trainer.model.config._attn_implementation}"


def trl_side(folder: Path, work: Work, data: Data, kind: str, attention: str):
    """Return TRL's trainer, and a description of its attention."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    ids_of = {text(prompt): prompt for prompt in data.prompts}

    def stored_completions(prompts, trainer):
        ids = [ids_of[prompt] for prompt in prompts]
        completions = [data.samples_of(prompt)[row % work.samples] for row, prompt in enumerate(ids)]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention),
        reward_funcs=lambda completions, **_: unequal_rewards(len(completions), work.samples),
        args=GRPOConfig(
            output_dir=str(folder / kind),
            loss_type="grpo",
            beta=0.0,
            num_generations=work.samples,
            max_completion_length=work.completion,
            per_device_train_batch_size=work.rows,
            gradient_accumulation_steps=work.prompts * work.samples // work.rows,
            max_steps=work.steps,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            activation_checkpointing=kind == "trl-checkpointing",
            use_liger_kernel=kind == "trl-liger",
            temperature=1.0,
            **({"use_vllm": True, "vllm_mode": "colocate"} if kind == "trl-vllm" else {}),
            bf16=True,
            use_cpu=work.cpu,
            shuffle_dataset=False,
            save_strategy="no",
            logging_steps=1,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list([{"prompt": text(prompt)} for prompt in data.prompts]),
        processing_class=tokenizer(),
        rollout_func=stored_completions if work.update_only else None,
    )
    return trainer, f"GRPOTrainer, {trainer.model.config._attn_implementation}"


def in_turns(side: Side, work: Work, through: str):
    """Return a callback that waits for its turn before each step, and reports the step's time and memory."""
    import torch
    from transformers import TrainerCallback

    gpu = None if work.cpu else torch.cuda

    class Turns(TrainerCallback):
        turns, begin, idle, costs = side.turns(), 0.0, 0, {}

        def on_step_begin(self, *_, **__):
            next(self.turns)
            if gpu:
                gpu.synchronize()
                gpu.reset_peak_memory_stats()
                self.idle = gpu.memory_allocated()
            self.begin = time.perf_counter()

        def on_step_end(self, *_, **__):
            if gpu:
                gpu.synchronize()
            self.costs = {"seconds": time.perf_counter() - self.begin, "through": through}
            if gpu:
                peak = gpu.max_memory_allocated()
                self.costs |= {"peak": peak / 2**20, "activations": (peak - self.idle) / 2**20}

        def on_log(self, *_, logs, **__):
            if "loss" in logs:
                side.answer(self.costs | {name: logs[name] for name in ("loss", "grad_norm")} | tokens_of(logs, work))

    return Turns()


def tokens_of(logs: dict[str, float], work: Work) -> dict[str, int]:
    """Return the numbers of sampled and reference tokens of a step, by the trainer's own count."""
    if "tokens/trained" in logs:
        references = work.prompts * work.completion
        return {"samples": round(logs["tokens/trained"]) - references, "references": references}
    return {"samples": round(logs["completions/mean_length"] * work.prompts * work.samples), "references": 0}


def serve(name: str, folder: Path, attention: str) -> None:
    """Make the data, or train as one side; run in a subprocess."""
    work = Work(**json.loads((folder / "work.json").read_text()))
    if name == "draw":
        return draw(folder, work)
    side, data = Side(), Data.read(folder)
    if name == "grao":
        trainer, through = grao_side(folder, work, data)
    else:
        trainer, through = trl_side(folder, work, data, name, attention)
    trainer.add_callback(in_turns(side, work, through))
    trainer.train()
