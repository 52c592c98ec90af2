"""Times a step with and without `rollout.ahead`, in turns, where a judge is slow; prints seconds and their ratio.

    python benchmarks/ahead.py [--steps 8] [--repeat 3] [--connections 12]

A local server in another process answers every question after 200 ms (`judge_throughput.py`). A step of 4 prompts with
8 samples of 96 tokens asks it 64 questions over 12 connections: 1.07 s at least. Meanwhile a random Qwen2 (hidden 128,
4 layers) samples and trains on one core; a second reward gives it something to learn.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from common import random_model, text, tokenizer

PROMPTS, SAMPLES, TOKENS = 4, 8, 96
PHASES = ("rollout", "reward", "update", "step")


def train(folder: Path, port: int, ahead: int, steps: int, connections: int) -> dict[str, float]:
    """Return the median seconds of each phase, without the first step and the last, which samples nothing ahead."""
    import torch

    from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig
    from grao.config.rewards import JudgeConfig
    from grao.records.run import read_metrics
    from grao.rewards.functions import FunctionReward
    from grao.rewards.judge.client import Endpoint
    from grao.rewards.judge.ledger import Ledger
    from grao.rewards.judge.reward import JudgeReward
    from grao.rewards.judge.server import ServerJudge
    from grao.rewards.judge.wording import load_template

    def variety(completions: list[str], **_: object) -> list[float]:
        return [float(len(set(answer.split()))) for answer in completions]

    torch.set_num_threads(1)
    endpoint = Endpoint(JudgeConfig("judge", f"http://127.0.0.1:{port}/v1", concurrency=connections))
    judge = ServerJudge(endpoint, load_template("helpful"), Ledger(folder / "ledger.sqlite"))
    config = GRAOConfig(
        folder / "run",
        rollout=RolloutConfig(group_size=SAMPLES, temperature=1.0, max_new_tokens=TOKENS, ahead=ahead),
        training=TrainingConfig(steps=steps, prompts_per_step=PROMPTS, trainer={"use_cpu": True, "disable_tqdm": True}),
    )
    rows = [{"prompt": text(range(3 + row, 67 + row)), "reference": text([5, 6, 7])} for row in range(32)]
    rewards = [JudgeReward(judge), FunctionReward(variety)]
    GRAOTrainer(random_model(128, 4, 1000), rewards, config, rows, processing_class=tokenizer()).train()
    lines = read_metrics(folder / "run")[1:-1]
    return {phase: statistics.median(line[f"seconds/{phase}"] for line in lines) for phase in PHASES}


def main() -> None:
    """Start the server, measure both settings, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--connections", type=int, default=12)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    script = Path(__file__).with_name("judge_throughput.py")
    server = subprocess.Popen([sys.executable, script, "--serve"], stdout=subprocess.PIPE, text=True)
    ratios = []
    try:
        port = int(server.stdout.readline()) if server.stdout else 0
        for _ in range(arguments.repeat):
            by_setting = []
            for ahead in (0, 1):
                with tempfile.TemporaryDirectory() as folder:
                    by_setting.append(train(Path(folder), port, ahead, arguments.steps, arguments.connections))
                timings = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in by_setting[-1].items())
                print(f"rollout.ahead {ahead}: {timings}", flush=True)
            ratios.append(by_setting[0]["step"] / by_setting[1]["step"])
    finally:
        server.kill()
        server.wait()
    print(f"without it, a step takes {', '.join(f'{ratio:.2f}' for ratio in ratios)} times as long")


if __name__ == "__main__":
    main()
