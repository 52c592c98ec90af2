"""Who comes from TRL or transformers is told the name used here, in one line, wherever the other one is written."""

import re
from pathlib import Path

import pytest

from grao import GRAOConfig, RolloutConfig
from grao.cli.main import main
from grao.config.load import load_recipe
from grao.config.other_trainers import ABSENT, OTHER_NAMES, OTHER_VALUES, WORDS
from grao.config.recipe import Recipe
from grao.config.schema import field_facts
from grao.errors import InputError

PAGE = Path(__file__).parents[1] / "docs" / "from-trl.md"
NEEDED = "model: {path: m}\ndata: {path: d}\nrewards: [{function: 'r:r'}]\noutput: o\n"
RENAMED = [name for name, field in OTHER_NAMES.items() if name not in GRAOConfig.__dataclass_fields__]


@pytest.mark.parametrize("name", [*RENAMED, *ABSENT])
def test_in_python(name: str):
    with pytest.raises(InputError) as error:
        GRAOConfig(output_dir="x", **{name: 1})
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(f"GRAOConfig: {name} ")
    assert (OTHER_NAMES.get(name) or ABSENT[name]) in said


@pytest.mark.parametrize("name", ["num_generations", "max_completion_length", "learning_rate", "bf16", "beta"])
def test_what_python_is_told_to_write_can_be_written(name: str):
    import grao

    with pytest.raises(InputError) as error:
        GRAOConfig(output_dir="x", **{name: True if name == "bf16" else 2})
    section, value = str(error.value).rpartition("here: ")[2].split("=", 1)
    made = eval(value, {name: getattr(grao, name) for name in grao.__all__})
    assert getattr(GRAOConfig(output_dir="x", **{section: made}), section) == made


@pytest.mark.parametrize("name", ["num_generations", "lr", "bf16", "per_device_train_batch_size", "top_k"])
def test_in_a_recipe_and_on_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{NEEDED}{name}: 1\n")
    with pytest.raises(InputError, match=re.escape(OTHER_NAMES.get(name) or ABSENT[name])):
        load_recipe(recipe)
    recipe.write_text(f"{NEEDED}training: {{{name}: 1}}\n")
    with pytest.raises(InputError, match=re.escape(OTHER_NAMES.get(name) or ABSENT[name])):
        load_recipe(recipe)
    assert main(["train", f"--{name}", "1"]) == 2
    assert (OTHER_NAMES.get(name) or ABSENT[name]) in capsys.readouterr().err


def test_every_name_leads_to_a_field():
    fields = field_facts(Recipe)
    for name, field in {**OTHER_NAMES, **WORDS}.items():
        path = tuple(field.partition(" ")[0].split("."))
        assert path[:2] == ("training", "trainer") or path in fields or any(path == at[: len(path)] for at in fields), (
            name
        )
    assert set(OTHER_VALUES) <= {*OTHER_NAMES, *WORDS}
    assert not OTHER_NAMES.keys() & WORDS.keys()


def test_the_page_has_every_name():
    page = PAGE.read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| `([\w.]+)`", page, re.MULTILINE))
    own = {name for name, field in OTHER_NAMES.items() if field == f"training.trainer.{name}"}
    assert table == {name: field.partition(" ")[0] for name, field in OTHER_NAMES.items() if name not in own}
    assert all(f"`{name}`" in page and why in page for name, why in ABSENT.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"group_size": 1}, "RolloutConfig: group_size must be greater than or equal to 2, got 1"),
        ({"group_sise": 4}, "RolloutConfig has no group_sise; did you mean group_size?"),
        ({"temperature": "hot"}, "RolloutConfig: temperature must be a valid number"),
        ({"engine": "vllm", "merge_adapter": True}, "RolloutConfig: merge_adapter has no effect with vLLM"),
    ],
)
def test_a_mistake_in_a_section_is_one_line(values: dict[str, object], message: str):
    with pytest.raises(InputError) as error:
        RolloutConfig(**values)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_all_mistakes_of_a_section_stand_in_one_line():
    with pytest.raises(
        InputError, match=r"no group_sise; did you mean group_size\? RolloutConfig has no zzz, only grou"
    ):
        RolloutConfig(group_sise=1, zzz=2)
    with pytest.raises(
        InputError, match=r"^RolloutConfig: group_size must be .*, got 1; temperature must be a valid n"
    ):
        RolloutConfig(group_size=1, temperature="hot")


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match=r"^GRAOConfig: output_dir is missing$"):
        GRAOConfig()
