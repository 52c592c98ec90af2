"""What can be a reward: functions, objects, reward models, and files that hold them."""

import pickle
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaForSequenceClassification

from grao import InputError
from grao.records.run import read_metrics
from grao.rewards.functions import load_function
from grao.rewards.mix import as_mix
from test_trl_rewards import batch, length, scaled, trainer
from tiny import letter_tokenizer, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")


def reward_model(**config) -> LlamaForSequenceClassification:
    base = tiny_model().config
    return LlamaForSequenceClassification(type(base)(**{**base.to_dict(), "num_labels": 1, **config})).eval()


class Plain:
    """A reward as an object with a state."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, completions, **kwargs):
        return [self.factor * x for x in length(completions)]


class Later:
    async def __call__(self, completions, **kwargs):
        return length(completions)


@pytest.mark.parametrize(
    ("reward", "name"),
    [(Plain(), "Plain"), (Later(), "Later"), (partial(scaled, 1), "scaled"), (Plain().__call__, "__call__")],
)
def test_objects_and_partial_functions_are_rewards(reward, name: str):
    mix = as_mix([reward])
    assert mix.rewards[0].name == name
    assert mix(batch()).total.tolist() == [[-1, 0, 1]] * 2


class Said:
    """A reward that says R itself; `name` and `relative` are on the class too."""

    name = "said"

    def relative(self, batch):
        return torch.zeros(2, 3).double()


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Plain, "Plain is a class; pass an instance of it"),
        ([length, Said], "Said is a class; pass an instance of it"),
        ([None], "None is not a reward; pass a function or a reward model"),
        ({"length": length}, "is not a reward; pass a function or a reward model"),
        (3, "3 is not a reward"),
        (tiny_model(), "LlamaForCausalLM is not a reward model"),
        ([reward_model(num_labels=2)], "LlamaForSequenceClassification is not a reward model"),
        ([reward_model()], "LlamaForSequenceClassification has no tokenizer; pass a pair of model and tokenizer"),
        ("nowhere/at/all", "^rewards: cannot load the reward model: there is no folder 'nowhere/at/all'"),
        ("nowhere.py:f", "there is no file 'nowhere.py'"),
        (max, "cannot inspect the arguments of this"),
    ],
)
def test_what_is_no_reward_is_refused_at_construction(tmp_path: Path, reward, message: str):
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, reward)


def test_reward_models_come_as_folders_models_and_pairs(tmp_path: Path):
    folder = tmp_path / "liking"
    torch.manual_seed(3)
    reward_model().save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    loaded = LlamaForSequenceClassification.from_pretrained(folder)
    pair = (loaded, letter_tokenizer())
    named = (str(folder), letter_tokenizer())
    found = [as_mix(given)(batch()) for given in (str(folder), [folder], loaded, [loaded], pair, [pair], named)]
    assert [mixed.parts.keys() for mixed in found] == [{"liking"}] * 7
    for mixed in found:
        torch.testing.assert_close(mixed.total, found[0].total)
    assert found[0].total.any()
    made = trainer(tmp_path / "run", [length, str(folder)], steps=1)
    made.train()
    assert {"reward_length/mean", "reward_liking/mean"} <= read_metrics(tmp_path / "run")[0].keys()


# --- reward files -------------------------------------------------------------------------------------------------


def test_reward_files_of_one_name_in_two_folders_import_what_lies_beside_them(tmp_path: Path):
    made = []
    for factor in (1, 2):
        folder = tmp_path / str(factor)
        (folder / "kit").mkdir(parents=True)
        (folder / "helper_of_rewards.py").write_text(f"FACTOR = {factor}\n")
        (folder / "kit" / "__init__.py").write_text("from .size import size\n")
        (folder / "kit" / "size.py").write_text(f"def size(text): return len(text) * {factor}\n")
        (folder / "lazy_helper.py").write_text("BONUS = 0\n")
        (folder / "reward.py").write_text(
            "from __future__ import annotations\n"
            "import dataclasses, helper_of_rewards\n"
            "from kit import size\n"
            "from .helper_of_rewards import FACTOR\n"
            "assert FACTOR == helper_of_rewards.FACTOR\n"
            "@dataclasses.dataclass\nclass Score:\n    value: float\n"
            "def reward(completions):\n"
            "    import lazy_helper\n"
            "    return [Score(size(text) + lazy_helper.BONUS).value for text in completions]\n"
            "instance = Score(1.0)\n"
        )
        made.append(load_function(f"{folder}/reward.py:reward"))
    assert [function(["abc"]) for function in made] == [[3], [6]]
    again = load_function(f"{tmp_path}/1/reward.py:reward")
    assert again(["abc"]) == [3]
    score = sys.modules[made[0].__module__].Score
    assert pickle.loads(pickle.dumps(sys.modules[again.__module__].instance)).value == 1.0
    assert score.__module__ != "reward"


def test_a_reward_file_hides_no_installed_module(tmp_path: Path):
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('never imported')\n")
    (tmp_path / "reward.py").write_text("def reward(completions): return [1.0] * len(completions)\n")
    load_function(f"{tmp_path}/reward.py:reward")
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (
            "class Plain:\n    def __call__(self, completions): return []",
            "Plain",
            "'Plain' in .* is a class; name a func",
        ),
        ("import sys; sys.exit(2)", "f", "cannot import .*: SystemExit: 2"),
        (
            "from nowhere_at_all import x",
            "f",
            "cannot import .*: ModuleNotFoundError: No module named 'nowhere_at_all'",
        ),
        ("from ..above import x", "f", "cannot import .*: ImportError"),
        ("def f(:", "f", "cannot import .*: SyntaxError"),
        ("raise ValueError('two\\nlines')", "f", "cannot import .*: ValueError: two lines"),
    ],
)
def test_a_reward_file_that_cannot_be_used_is_one_line(tmp_path: Path, code: str, name: str, message: str):
    (tmp_path / "broken.py").write_text(f"{code}\n")
    with pytest.raises(InputError, match=message) as caught:
        load_function(f"{tmp_path}/broken.py:{name}")
    assert "\n" not in str(caught.value)
