"""Times sampling per token of four models at 64 and 256 rows: plain loop against captured steps.

    python benchmarks/gpu/sampling_table.py               about 6 minutes and 60 GB on one H200
    python benchmarks/gpu/sampling_table.py --vllm        vLLM too, which takes minutes to start
    python benchmarks/gpu/sampling_table.py --dry-run     one tiny model on a CPU; its numbers mean nothing

Each model is measured in its own process (`benchmarks/gpu_sampling.py`). `to reach` is the goal for captured steps.
Exits with 1 if greedy tokens differ between the engines in single precision.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "gpu_sampling.py"
GOAL = {
    ("0.5b", 64): 3.1, ("0.5b", 256): 5.0, ("1.5b", 64): 4.5, ("7b", 64): 6.5, ("7b", 256): 11.0,
    ("moonlight", 64): 20.0, ("moonlight", 256): None,
}  # fmt: skip


def main() -> int:
    """Print the table; return 1 if greedy tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vllm", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if options.vllm and not importlib.util.find_spec("vllm"):
        raise SystemExit("vllm is not installed")
    engines = ["plain", "captured", *(["vllm"] if options.vllm else [])]
    records = []
    for size in ["tiny"] if options.dry_run else dict.fromkeys(size for size, _ in GOAL):
        rows = [str(count) for name, count in GOAL if name == size] or ["16"]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "records.json")
            command = [sys.executable, SCRIPT, "--size", size, "--rows", *rows, "--json", file, "--engines", *engines]
            if subprocess.run([*command, *(["--dry-run"] if options.dry_run else [])]).returncode:
                print(f"{size}: failed", flush=True)
                continue
            records += json.loads(file.read_text())
    print(f"\n{'':18}" + "".join(f"{name:>10}" for name in (*engines, "to reach")))
    times = {(row["size"], row["rows"], row["engine"]): row["milliseconds"] for row in records if "milliseconds" in row}
    for size, rows in dict.fromkeys(key[:2] for key in times):
        numbers = [times.get((size, rows, name)) for name in engines] + [GOAL.get((size, rows))]
        print(f"{size:10} {rows:4} rows" + "".join(f"{'' if n is None else f'{n:.1f}':>10}" for n in numbers))
    unequal = [row["size"] for row in records if row.get("equal") == 0]
    print(f"greedy tokens differ: {', '.join(unequal)}" if unequal else "greedy tokens are equal")
    return int(bool(unequal))


if __name__ == "__main__":
    sys.exit(main())
