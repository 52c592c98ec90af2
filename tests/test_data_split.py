"""Train and held-out side: disjoint by prompt, independent of the order of rows."""

import json
import random
from pathlib import Path

import pytest

from grao.config.recipe import DataConfig
from grao.data import load
from grao.data.load import drop_shared_prompts, load_split, split_examples
from grao.errors import InputError
from grao.types import Example

EXAMPLES = [Example(f"question {i % 40}", f"answer {i}", None, {}, i + 1) for i in range(100)]
"""40 prompts in 100 rows."""


def _prompts(examples: list[Example]) -> set[str]:
    return {str(example.prompt) for example in examples}


def test_all_rows_of_a_prompt_are_on_one_side() -> None:
    split = split_examples(EXAMPLES, held_out=12, seed=0)
    assert len(_prompts(split.test)) == 12
    assert not _prompts(split.train) & _prompts(split.test)
    assert sorted(split.train + split.test, key=lambda e: e.row) == EXAMPLES
    assert [e.row for e in split.train] == sorted(e.row for e in split.train)


def test_order_of_rows_does_not_matter_but_the_seed_does() -> None:
    shuffled = random.Random(5).sample(EXAMPLES, len(EXAMPLES))
    chosen = _prompts(split_examples(EXAMPLES, 12, seed=0).test)
    assert _prompts(split_examples(shuffled, 12, seed=0).test) == chosen
    assert _prompts(split_examples(EXAMPLES, 12, seed=1).test) != chosen


def test_more_held_out_prompts_include_the_fewer() -> None:
    few, many = (_prompts(split_examples(EXAMPLES, n, seed=0).test) for n in (5, 12))
    assert few < many


def test_at_most_half_is_held_out() -> None:
    assert len(_prompts(split_examples(EXAMPLES, 300, seed=0).test)) == 20
    assert len(_prompts(split_examples(EXAMPLES[:3], 300, seed=0).test)) == 1


def test_nothing_is_held_out() -> None:
    assert split_examples(EXAMPLES[:1], 0, seed=0).train == EXAMPLES[:1]


@pytest.mark.parametrize(("rows", "held_out"), [(1, 1), (0, 5), (0, 0)])
def test_too_few_prompts(rows: int, held_out: int) -> None:
    with pytest.raises(InputError, match=rf"too few different prompts \({rows}\) to hold out {held_out}"):
        split_examples(EXAMPLES[:rows], held_out, seed=0)


def test_test_data_wins_over_training_data() -> None:
    split = drop_shared_prompts(EXAMPLES, EXAMPLES[:3])
    assert len(split.test) == 3
    assert not _prompts(split.train) & _prompts(split.test)
    assert split.skipped == {"prompt is in the test data too": 9}  # rows 1-3, 41-43 and 81-83
    assert drop_shared_prompts(EXAMPLES[5:10], EXAMPLES[:5]).skipped == {}
    with pytest.raises(InputError, match=r"test_path: contains every prompt of data\.path"):
        drop_shared_prompts(EXAMPLES[40:42], EXAMPLES[:3])


def test_test_path(tmp_path: Path) -> None:
    ask = "\n\nHuman: {}\n\nAssistant:"
    for name, prompts in (("train", "abcda"), ("test", "ee!b")):
        lines = [
            {"chosen": ask.format(p) + f" yes{i}", "rejected": ask.format(p) + ("" if p == "!" else " no")}
            for i, p in enumerate(prompts)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = DataConfig(
        path=str(tmp_path / "train.jsonl"), test_path=str(tmp_path / "test.jsonl"), format="hh", held_out=1
    )
    split = load_split(config, seed=0)
    assert [e.prompt[0]["content"] for e in split.train] == ["a", "c", "d"]
    assert [e.prompt[0]["content"] for e in split.test] == ["e", "b"]
    assert split.skipped == {
        "prompt occurred before": 2,
        "empty rejected answer": 1,
        "prompt is in the test data too": 1,
    }


def test_hub_id_as_test_path_means_its_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"train": "abc", "test": "cd"}

    def load_dataset(path: str, subset: str, data_dir: str | None, split: str) -> list[dict[str, str]]:
        assert (path, subset) == ("someone/pairs", "small")
        return [{"prompt": prompt, "reference": "yes"} for prompt in rows[split]]

    monkeypatch.setattr(load, "load_dataset", load_dataset)
    split = load_split(DataConfig(path="someone/pairs", test_path="someone/pairs", subset="small"), seed=0)
    assert ([e.prompt for e in split.train], [e.prompt for e in split.test]) == (["a", "b"], ["c", "d"])
