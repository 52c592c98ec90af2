"""Times an optimizer step of grao and of TRL's GRPOTrainer on the same work, interleaved, one process per side.

    python benchmarks/step_vs_trl.py             the table, about 25 minutes
    python benchmarks/step_vs_trl.py --quick     two rows, about 3 minutes
    python benchmarks/step_vs_trl.py --memory    peak memory at a vocabulary of 32,768, several micro-batch sizes

Model, prompts and completion lengths are the same: both samplers must end each row at a given random length, because
free sampling would give the sides unequal work. grao also trains on the reference, a ninth
sequence per group. TRL runs with loss_type grpo, beta 0, one iteration and no activation checkpointing. Memory is the
peak resident memory of the step above that after loading the model. TRL's depends on its per-device batch, so
`--memory` tries several, with gradient accumulation to the same step.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PROMPTS, SAMPLES = 4, 8
END = 1
TRL = ("trl", "trl-completion")
"""TRL as installed, and with logits of completion tokens only."""


@dataclass(frozen=True)
class Work:
    """The work of one step."""

    name: str
    prompt: int
    completion: int
    varied: bool
    silent: float = 0.0
    """Share of groups in which all rewards are equal, so that every weight is 0."""

    def lengths(self, step: int) -> list[int]:
        """Return the lengths of the step's B * G completions: full, or a quarter on average with a long tail."""
        draw = random.Random(step)
        count = PROMPTS * SAMPLES
        if not self.varied:
            return [self.completion] * count
        return [min(self.completion, 4 + int(draw.expovariate(1 / (0.25 * self.completion)))) for _ in range(count)]

    def prompts(self, step: int) -> list[list[int]]:
        """Return the token ids of the step's B prompts."""
        draw = random.Random(1000 + step)
        return [[draw.randrange(3, 100) for _ in range(self.prompt)] for _ in range(PROMPTS)]


WORKS = (
    Work("prompt 256, completion 128, full", 256, 128, False),
    Work("prompt 256, completion 128, varied", 256, 128, True),
    Work("the same, half of the groups silent", 256, 128, True, 0.5),
    Work("prompt 64, completion 128, full", 64, 128, False),
    Work("prompt 64, completion 128, varied", 64, 128, True),
)


def resident(peak: bool) -> float:
    """Return the resident memory in MiB: now, or its peak since the last call of `forget_peak`."""
    field = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> None:
    """Reset the peak of the resident memory."""
    Path("/proc/self/clear_refs").write_text("5")


def tokenizer():
    """Return a tokenizer whose words are numbered tokens, `w3` for id 3."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<end>": END, "<unk>": 2} | {f"w{index}": index for index in range(3, 1000)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def rewards_of(count: int, silent: float) -> list[float]:
    """Return rewards that differ within each group, except for the first `silent` share of groups."""
    group = count // PROMPTS
    return [0.0 if index // group < silent * PROMPTS else float(index % group) for index in range(count)]


def grao_side(folder: Path, work: Work, steps: int, token_budget: int):
    """Return a function that runs a step and returns the seconds of the step and of its training part."""
    import torch

    import grao.rollouts.transformers as sampling
    from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig

    original, lengths = sampling.draw_tokens, []

    def forced_draw(logits, uniforms, temperature, top_p):
        logits[:, END] = -1e4  # never drawn, but finite, because infinite logits stop a run
        return torch.where(uniforms >= 1, END, original(logits, uniforms.clamp(max=0.999), temperature, top_p))

    def forced_uniforms(keys, settings):
        uniforms = torch.rand(len(keys) * settings.samples, settings.max_new_tokens, dtype=torch.float64)
        uniforms[torch.arange(len(uniforms)), torch.tensor(lengths) - 1] = 2.0
        return uniforms

    prompts = [prompt for step in range(steps) for prompt in work.prompts(step)]
    rows = [{"prompt": text(prompt), "reference": text(prompt[:32])} for prompt in prompts]
    trainer = GRAOTrainer(
        str(folder),
        lambda prompts, completions: with_references(rewards_of(PROMPTS * SAMPLES, work.silent)),
        GRAOConfig(
            output_dir=folder / "grao",
            rollout=RolloutConfig(
                group_size=SAMPLES, temperature=1.0, max_new_tokens=work.completion, batch_size=PROMPTS * SAMPLES
            ),
            training=TrainingConfig(
                steps=steps,
                prompts_per_step=PROMPTS,
                learning_rate=1e-5,
                token_budget=token_budget,
                trainer={"use_cpu": True},
            ),
        ),
        rows,
        processing_class=tokenizer(),
    )
    # Patched after construction, because the trainer checks its sampling when it is built.
    sampling.draw_tokens, sampling.keyed_uniforms = forced_draw, forced_uniforms
    trainer.source.draws = lambda step: [(0, PROMPTS * step + row) for row in range(PROMPTS)]  # in TRL's order
    trainer.create_optimizer_and_scheduler(steps)

    def step(number: int) -> dict[str, float]:
        lengths[:] = work.lengths(number)
        begin = time.perf_counter()
        trainer.training_step(trainer.model, {"step": number})
        optimize(trainer.model, trainer.optimizer)
        spent = time.perf_counter() - begin
        rollout = trainer._steps.pop()["seconds/rollout"]
        return {"step": spent, "train": spent - rollout}

    return step


def with_references(rewards: list[float]) -> list[float]:
    """Add to each group the reward of its reference, which grao scores too: that of the first sample."""
    groups = [rewards[start : start + SAMPLES] for start in range(0, len(rewards), SAMPLES)]
    return [reward for group in groups for reward in (*group, group[0])]


def trl_side(folder: Path, work: Work, steps: int, per_device: int, completion_only: bool):
    """Return the same as `grao_side` for TRL; with `completion_only`, it computes logits of completion tokens only."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList
    from trl import GRPOConfig, GRPOTrainer

    lengths: list[int] = []

    class Forced(LogitsProcessor):
        def __call__(self, ids, scores):
            at_end = torch.tensor(lengths) == ids.shape[1] - work.prompt + 1
            scores[:, END] = -torch.inf
            scores[at_end] = torch.full_like(scores[at_end], -torch.inf)
            scores[at_end, END] = 0.0
            return scores

    prompts = [prompt for step in range(steps) for prompt in work.prompts(step)]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=lambda completions, **_: rewards_of(len(completions), work.silent),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            loss_type="grpo",
            beta=0.0,
            num_generations=SAMPLES,
            max_completion_length=work.completion,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=PROMPTS * SAMPLES // per_device,
            learning_rate=1e-5,
            temperature=1.0,
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list([{"prompt": text(prompt)} for prompt in prompts]),
        processing_class=tokenizer(),
    )
    if completion_only:
        score_completions_only(trainer)
    trainer.create_optimizer_and_scheduler(steps)
    generate, generating = trainer.model.generate, []
    trainer.model.generate = lambda *a, **k: generate(*a, **k, logits_processor=LogitsProcessorList([Forced()]))
    rollout = trainer._generate_and_score_completions

    def timed(inputs):
        begin = time.perf_counter()
        result = rollout(inputs)
        generating.append(time.perf_counter() - begin)
        return result

    trainer._generate_and_score_completions = timed
    trainer.current_gradient_accumulation_steps = PROMPTS * SAMPLES // per_device

    def step(number: int) -> dict[str, float]:
        lengths[:] = work.lengths(number)
        batch = [{"prompt": text(prompt)} for prompt in work.prompts(number) for _ in range(SAMPLES)]
        begin = time.perf_counter()
        for _ in range(PROMPTS * SAMPLES // per_device):
            trainer.training_step(trainer.model, batch, None)
        optimize(trainer.model, trainer.optimizer)
        spent = time.perf_counter() - begin
        return {"step": spent, "train": spent - generating.pop()}

    return step


def score_completions_only(trainer) -> None:
    """Patch TRL to compute log-probabilities from logits of completion positions only, as it does on a GPU."""
    import torch

    def logps(model, input_ids, attention_mask, logits_to_keep, **_):
        logits = model(
            input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep + 1, use_cache=False
        ).logits[:, :-1]
        logp = torch.log_softmax(logits / trainer.temperature, dim=-1)
        chosen = logp.gather(-1, input_ids[:, -logits_to_keep:, None]).squeeze(-1)
        with torch.no_grad():
            entropy = -(logp.exp() * logp).sum(-1)
        return chosen, entropy, None

    trainer._get_per_token_logps_and_entropies = logps


def optimize(model, optimizer) -> None:
    """Clip gradients, step the optimizer and zero the gradients, alike on both sides."""
    import torch

    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def text(ids: list[int]) -> str:
    """Return the text that the tokenizer encodes as these ids."""
    return " ".join(f"w{index}" for index in ids)


def side(name: str, folder: Path, work: Work, steps: int) -> None:
    """Serve one side, named as in `measure`: read a step number, run the step, write a JSON line."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    kind, _, size = name.partition(":")
    if kind == "grao":
        step = grao_side(folder, work, steps, int(size or 16384))
    else:
        step = trl_side(folder, work, steps, int(size or PROMPTS * SAMPLES), kind == "trl-completion")
    loaded = resident(peak=False)
    answer = os.fdopen(os.dup(1), "w")
    print("ready", file=answer, flush=True)
    for line in sys.stdin:
        forget_peak()
        times = step(int(line))
        print(json.dumps({**times, "memory": resident(peak=True) - loaded}), file=answer, flush=True)


def make_model(folder: Path, hidden: int, layers: int, vocabulary: int) -> None:
    """Save a random Qwen2 model and its tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=END,
        pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def measure(
    folder: Path, work: Work, steps: int, names: Sequence[str] = ("grao", "trl", "trl-completion")
) -> dict[str, dict[str, float]]:
    """Run the sides' steps in turn and return the medians of each side.

    `grao:2048` is grao with that token budget, `trl:8` is TRL with that per-device batch.
    """
    sides = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--side", name, "--folder", str(folder), "--work", json.dumps(asdict(work)),
             "--steps", str(steps)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        for name in names
    }  # fmt: skip
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for process in sides.values():
        while (line := process.stdout.readline()) and line.strip() != "ready":
            pass
    for step in range(steps):
        for name, process in sides.items():
            process.stdin.write(f"{step}\n")
            process.stdin.flush()
            while not (line := process.stdout.readline()).startswith("{"):
                if not line:
                    raise SystemExit(f"{name} ended early; run it with --side {name} to see why")
            measured[name].append(json.loads(line))
    for process in sides.values():
        process.stdin.close()
        process.wait()
    warm = 1 if steps > 2 else 0
    return {
        name: {key: statistics.median(row[key] for row in rows[warm:]) for key in ("step", "train", "memory")}
        for name, rows in measured.items()
    }


def speed_table(folder: Path, works: Sequence[Work], steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """Print grao's speed relative to TRL on each kind of work."""
    print(f"{'speed relative to TRL':38} step  train | completion-only: step  train | memory, share of TRL's")
    results = {}
    for work in works:
        sides = results[work.name] = measure(folder, work, steps)
        ours, trl, only = sides["grao"], sides["trl"], sides["trl-completion"]
        print(
            f"{work.name:38} {trl['step'] / ours['step']:4.1f}x {trl['train'] / ours['train']:5.1f}x |"
            f" {only['step'] / ours['step']:21.1f}x {only['train'] / ours['train']:5.1f}x |"
            f" {ours['memory'] / trl['memory']:5.2f}, {ours['memory'] / only['memory']:.2f}"
        )
    return results


def memory_table(folder: Path, steps: int) -> dict[str, dict[str, float]]:
    """Print peak memory and time of one step at several micro-batch sizes."""
    budgets = [f"grao:{budget}" for budget in (16384, 2048, 768, 512, 384)]
    names = [*budgets, *(f"{kind}:{size}" for kind in TRL for size in (2, 4, 8, 32))]
    results: dict[str, dict[str, float]] = {}
    for batch in (names[:5], names[5:9], names[9:]):
        results |= measure(folder, WORKS[0], steps, batch)
    print(f"{WORKS[0].name}\n{'':24} {'MiB above the model':>20} {'seconds per step':>16}")
    for name in names:
        print(f"{name:24} {results[name]['memory']:20.0f} {results[name]['step']:16.2f}")
    return results


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("step_vs_trl.json"))
    parser.add_argument("--side")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--work")
    options = parser.parse_args()
    if options.side:
        side(options.side, options.folder, Work(**json.loads(options.work)), options.steps)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder, vocabulary = Path(scratch), 32768 if options.memory else 4096
        make_model(folder, options.hidden, options.layers, options.vocabulary or vocabulary)
        if options.memory:
            results = memory_table(folder, options.steps or 3)
        else:
            works = (WORKS[1], WORKS[4]) if options.quick else WORKS
            results = speed_table(folder, works, options.steps or (4 if options.quick else 8))
    record = {"options": vars(options), "results": results}
    options.output.write_text(json.dumps(record, default=str, indent=2) + "\n")


if __name__ == "__main__":
    main()
