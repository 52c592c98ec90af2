"""Times the list of a run's page in headless Chromium: opening, searching, filtering, sorting and scrolling.

    python benchmarks/page.py [--items 2000 10000]

Times are milliseconds from the event to the next frame after the list is redrawn: median and slowest of 20. Needs the
package playwright and Debian's `chromium`.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from grao.records.run import Estimate, Evaluation, Item, RecordedAnswer, Scores, write_evaluation
from grao.reports.run import write_report

REPEATS = 20
TIME_ACTION = """async ([target, values]) => {
  const frame = () => new Promise(requestAnimationFrame);
  const list = document.querySelector(".list");
  const times = [];
  for (const value of values) {
    await frame();
    const begin = performance.now();
    if (target === "scroll") list.scrollTop = value * (list.scrollHeight - list.clientHeight);
    else {
      const field = document.querySelector(target);
      field.value = value;
      field.dispatchEvent(new Event(field.type === "search" ? "input" : "change", { bubbles: true }));
    }
    await frame();
    list.querySelector(".row")?.getBoundingClientRect();
    times.push(performance.now() - begin);
  }
  return times;
}"""


def write_run(folder: Path, count: int) -> Path:
    """Write the page of a run with `count` held-out prompts, each with three texts of about 80 words."""
    rng = random.Random(0)
    words = [f"{rng.choice('bcdfghlmnprst')}{rng.choice('aeiou')}{index}" for index in range(3_000)]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randrange(40, 120)))

    def answer() -> RecordedAnswer:
        return RecordedAnswer(text(), rng.randrange(40, 120), rng.random() < 0.1, rng.gauss(0, 1), [])

    items = [Item(f"p{index}", text(), text(), {"before": answer(), "after": answer()}) for index in range(count)]
    half = Estimate(0.5, 0.45, 0.55, count)
    scores = Scores(half, half, half, 0, 0.0, 80.0, 0.1)
    write_evaluation(folder, Evaluation(0.95, count, {"before": scores, "after": scores}), items)
    return write_report(folder)


def measure(page: Any) -> dict[str, list[float]]:
    """Return action -> milliseconds of every repetition."""
    actions = {
        "search": ["[type=search]", [f"a{index}" for index in range(REPEATS - 1)] + [""]],
        "filter": ["[name=cut]", ["yes", "no", "yes", "", *(["yes", ""] * (REPEATS // 2 - 2))]],
        "sort": ["[name=sort]", [*["high", "low", "lost", "long"] * (REPEATS // 4)]],
        "scroll": ["scroll", [index / REPEATS for index in range(REPEATS)]],
    }
    return {name: page.evaluate(TIME_ACTION, arguments) for name, arguments in actions.items()}


def main() -> None:
    """Print a line for each number of items and each action."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[2_000, 10_000])
    counts = parser.parse_args().items
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for count in counts:
            path = write_run(Path(folder) / str(count), count)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            begin = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("#browser[data-ready]")
            opened = time.perf_counter() - begin
            print(f"{count:,} items, {path.stat().st_size / 1e6:.1f} MB: opened in {opened:.2f} s")
            for name, times in measure(page).items():
                print(f"  {name:8} median {statistics.median(times):5.0f} ms, slowest {max(times):5.0f} ms")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
