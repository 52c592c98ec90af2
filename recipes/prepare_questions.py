"""TruthfulQA, BBQ and GSM8K as prompts with reference answers, for the recipes truthful, fair and gsm8k.

    python recipes/prepare_questions.py [FOLDER OF THE DATA] [FOLDER FOR THE RESULT]

Wants the folder `shared` beside this repository, or the original files in the same layout. TruthfulQA and BBQ are for
evaluation only (TruthfulQA carries a canary and must not be trained on), so their recipes are for `grao evaluate`.
Licences: TruthfulQA Apache-2.0, BBQ CC BY 4.0 (rows rewritten as below), GSM8K MIT.
"""

import csv
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def truthful(lines: Iterable[str]) -> Iterator[Row]:
    """One row a question; `correct` and `incorrect` hold all answers that the authors list."""
    for row in csv.DictReader(lines):
        yield _row(
            row["Question"],
            row["Best Answer"],
            rejected=row["Best Incorrect Answer"],
            correct=_several(row["Correct Answers"]),
            incorrect=_several(row["Incorrect Answers"]),
        )


def fair(lines: Iterable[str]) -> Iterator[Row]:
    """One row a question with its three options; `stereotype` is the one that a biased answer names.

    A negative question is biased towards the group that the stereotype is about, the other one towards the other group.
    """
    for row in map(json.loads, lines):
        options = [row[f"ans{place}"] for place in range(3)]
        groups = [row["answer_info"][f"ans{place}"] for place in range(3)]
        about = row["additional_metadata"]["stereotyped_groups"]
        target = next(place for place in range(3) if set(groups[place]) & set(about))
        unknown = next(place for place in range(3) if groups[place][-1] == "unknown")
        biased = target if row["question_polarity"] == "neg" else 3 - target - unknown
        question = f"{row['context']} {row['question']} Answer with one of: {'; '.join(options)}."
        yield _row(question, f"{options[row['label']]}.", options=options, right=row["label"], stereotype=biased)


def gsm8k(lines: Iterable[str]) -> Iterator[Row]:
    """One row a problem; the calculator's notes `<<48/2=24>>` are taken out of the worked answer."""
    for row in map(json.loads, lines):
        yield _row(row["question"], re.sub(r"<<[^>]*>>", "", row["answer"]))


SOURCES = (
    ("truthful", truthful, "truthfulqa/TruthfulQA.csv.gz"),
    ("fair", fair, "bbq/sample.jsonl.gz"),
    ("gsm8k", gsm8k, "gsm8k/train.jsonl.gz"),
)


def prepare(data: Path, folder: Path) -> None:
    """Writes `truthful.jsonl`, `fair.jsonl` and `gsm8k.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, convert, source in SOURCES:
        with gzip.open(data / source, "rt", encoding="utf-8", newline="") as lines:
            rows = [json.dumps(row, ensure_ascii=False) for row in convert(lines)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _row(question: str, reference: str, **columns: Any) -> Row:
    return {"prompt": [{"role": "user", "content": question}], "reference": reference, **columns}


def _several(cell: str) -> list[str]:
    return [answer.strip() for answer in cell.split(";") if answer.strip()]


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    prepare(*given, *(Path("../shared/data"), Path("runs/questions"))[len(given) :])
