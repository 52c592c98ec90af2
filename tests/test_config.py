import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grao.config.library import GRAOConfig
from grao.config.load import dump_recipe, load_recipe
from grao.config.recipe import (
    DataConfig,
    LoraConfig,
    ModelConfig,
    PromptsConfig,
    Recipe,
    RewardModelRecipe,
)
from grao.config.rewards import RewardConfig
from grao.config.schema import field_facts, names, sections
from grao.config.strict_yaml import read_yaml, write_inline, write_yaml
from grao.errors import InputError
from grao.methods.base import METHODS
from grao.methods.grao import GRAO

fuzz = settings(max_examples=60, deadline=None, derandomize=True, database=None)

VALID = """\
model:
  path: some-org/some-model
data:
  path: prompts-of-nobody.jsonl
rewards:
  - function: my.rewards:score
  - function: my.rewards:length
    weight: -0.5
output: runs/x
rollout:
  group_size: 4
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes `recipe.yaml` into an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def put(text: str) -> Path:
        Path("recipe.yaml").write_text(text, encoding="utf-8")
        return Path("recipe.yaml")

    return put


def recipe(**changes: Any) -> Recipe:
    small = Recipe(
        model=ModelConfig(path="m"), data=DataConfig(path="d"), rewards=[RewardConfig(function="a:b")], output=Path("o")
    )
    return replace(small, **changes)


def test_file_and_defaults(write: Write) -> None:
    loaded = load_recipe(write(VALID))
    assert loaded.rollout.group_size == 4
    assert loaded.rollout.temperature == 0.7
    assert loaded.output == Path("runs/x")
    assert [reward.weight for reward in loaded.rewards] == [1.0, -0.5]
    assert loaded.method.lambda_ == 0.6


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E6", 1e6),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("True", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("-.inf", float("-inf")),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    read = read_yaml(text).value
    assert read == value
    assert type(read) is type(value)


def test_every_value_has_its_line() -> None:
    lines = read_yaml("a:\n  b: 1\n\nc:\n- x: 1\n  y:\n    - 2\n").lines
    assert lines == {
        ("a",): 1,
        ("a", "b"): 2,
        ("c",): 4,
        ("c", "0"): 5,
        ("c", "0", "x"): 5,
        ("c", "0", "y"): 6,
        ("c", "0", "y", "0"): 7,
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("group_size", "group_sise", "line 11: rollout.group_sise is unknown; did you mean group_size?"),
        ("rollout:\n  g", "g", "line 10: group_size is unknown; did you mean rollout.group_size?"),
        (
            "rollout:\n  g",
            "temperature: 1\nrollout:\n  g",
            "line 10: temperature is unknown; did you mean rollout.temperature or evaluation.temperature?",
        ),
        (
            "rollout:\n  g",
            "rollout.g",
            "line 10: rollout.group_size is unknown; in a file, write group_size below rollout, indented",
        ),
        ("    weight", "    wait", "line 8: rewards.1.wait is unknown; did you mean weight?"),
        ("rollout:\n", "method: {lambda_: 1}\nrollout:\n", "line 10: method.lambda_ is unknown; did you mean lambda?"),
        (
            "group_size",
            "qqq",
            "line 11: rollout.qqq is unknown; rollout has group_size, temperature, top_p, max_new_tokens, batch_size",
        ),
        ("4", "1", "line 11: rollout.group_size must be at least 2, got 1"),
        ("4", "four", "line 11: rollout.group_size must be a whole number, got four"),
        ("4", "'4'", "line 11: rollout.group_size must be a whole number, got '4'"),
        ("4", "4.5", "line 11: rollout.group_size must be a whole number, got 4.5"),
        ("4", "true", "line 11: rollout.group_size must be a whole number, got true"),
        ("4", "", "line 11: rollout.group_size must be a whole number, got null"),
        ("group_size: 4", "temperature: 0", "line 11: rollout.temperature must be above 0, got 0"),
        ("group_size: 4", "temperature: .inf", "line 11: rollout.temperature must be a finite number, got .inf"),
        ("group_size: 4", "temperature: warm", "line 11: rollout.temperature must be a number, got warm"),
        ("group_size: 4", "top_p: 1.5", "line 11: rollout.top_p must be at most 1, got 1.5"),
        ("-0.5", ".nan", "line 8: rewards.1.weight must be a finite number, got .nan"),
        ("some-org/some-model", "7", "line 2: model.path must be text in quotes, got 7"),
        ("some-org/some-model", "''", "line 2: model.path must be non-empty text, got ''"),
        ("some-org/some-model", "[x]", "line 2: model.path must be text, got [x]"),
        ("some-model", "m\n  dtype: int8", "line 3: model.dtype must be auto, float32 or bfloat16, got int8"),
        (
            "some-model",
            "m\n  trust_remote_code: yes",
            "line 3: model.trust_remote_code must be true or false, got yes",
        ),
        (
            "some-model",
            "m\n  lora: {target_modules: 5}",
            "line 3: model.lora.target_modules must be text in quotes or a list, got 5",
        ),
        ("some-model", "m\n  lora: 8", "line 3: model.lora must be a section (keys with values), got 8"),
        ("rollout:\n  group_size: 4", "rollout:", "line 10: rollout must be a section (keys with values), got null"),
        (
            "rollout:\n  group_size: 4",
            "training: {trainer: x}",
            "line 10: training.trainer must be a mapping (keys with values), got x",
        ),
        ("rollout", "seed: 4294967296\nrollout", "line 10: seed must be below 4294967296, got 4294967296"),
        (
            "    weight",
            "    tie_band: 1\n    weight",
            "line 7: rewards.1: tie_band has no effect with relative: difference; set relative: sign",
        ),
        (
            "  path: some-org/some-model",
            "  dtype: auto",
            "line 1: model.path is missing, for example path: Qwen/Qwen2.5-0.5B-Instruct",
        ),
        ("output: runs/x\n", "", "recipe.yaml: output is missing, for example output: runs/first"),
        (
            "data:\n  path: prompts-of-nobody.jsonl\n",
            "",
            "recipe.yaml: data is missing, for example data: {path: prompts.jsonl}",
        ),
        (
            "- function: my.rewards:score",
            "- weight: 1",
            "line 6: rewards.0: a reward must be exactly one of function, judge",
        ),
    ],
)
def test_mistake_names_line_field_and_remedy(write: Write, old: str, new: str, message: str) -> None:
    text = VALID.replace(old, new, 1)
    assert text != VALID
    with pytest.raises(InputError) as caught:
        load_recipe(write(text))
    start = "" if message.startswith("recipe.yaml") else "recipe.yaml, "
    assert str(caught.value).startswith(start + message)
    assert "\n" not in str(caught.value)


def test_rewards_must_not_be_empty(write: Write) -> None:
    text = re.sub(r"rewards:\n.*?(?=output)", "rewards: []\n", VALID, flags=re.S)
    with pytest.raises(InputError, match=r"^recipe.yaml, line 5: rewards must be a list of at least 1, got \[\]$"):
        load_recipe(write(text))


def test_missing_rewards_show_an_example(write: Write) -> None:
    text = re.sub(r"rewards:\n.*?(?=output)", "", VALID, flags=re.S)
    message = r"^recipe.yaml: rewards is missing, for example rewards: \[\{function: 'rewards.py:score'\}\]$"
    with pytest.raises(InputError, match=message.replace("'", "'?")):
        load_recipe(write(text))


def test_all_unknown_keys_are_named_before_anything_else(write: Write) -> None:
    text = VALID.replace("some-org/some-model", "7").replace("group_size: 4", "group_sise: 4\n  topp: 3\n  top_p: 3")
    text = text.replace("output: runs/x\n", "")
    with pytest.raises(InputError) as unknown:
        load_recipe(write(text), [("training.lr", "1")])
    said = "--training.lr is unknown; use --training.learning_rate; recipe.yaml, line 10: "
    said += "rollout.group_sise is unknown; did you mean group_size? line 11: rollout.topp is unknown; "
    assert str(unknown.value) == f"{said}did you mean top_p? (and 3 more mistakes)"
    with pytest.raises(InputError) as wrong:
        load_recipe(write(text.replace("group_sise", "group_size").replace("  topp: 3\n", "")))
    said = "recipe.yaml, line 2: model.path must be text in quotes, got 7; line 11: rollout.top_p must be at most 1, "
    assert str(wrong.value) == f"{said}got 3; output is missing, for example output: runs/first"
    many = VALID + "training: {" + ", ".join(f"q{number}: 1" for number in range(20)) + "}\n"
    with pytest.raises(InputError, match=r"line 12: training.q11 is unknown \(and 8 more mistakes\)$"):
        load_recipe(write(many))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe.yaml is empty; a recipe needs model, data, rewards, output"),
        ("# nothing\n", "recipe.yaml is empty"),
        ("- a\n", "recipe.yaml, line 1: a recipe must be a mapping of sections"),
        ("model", "recipe.yaml, line 1: a recipe must be a mapping of sections"),
        ("model:\n  path: a: b\n", "recipe.yaml, line 2: not valid YAML: mapping values are not allowed here"),
        ("model: [\n", "recipe.yaml, line 2: not valid YAML"),
        ("model:\n\tpath: a\n", "recipe.yaml, line 2: not valid YAML"),
        ("model:\n  path: \x01\n", "recipe.yaml, line 2: not valid YAML: unprintable character"),
        (
            "seed: 1\nmodel:\n  path: a\nseed: 2\n",
            "recipe.yaml, line 4: 'seed' appears twice (first in line 1)",
        ),
        ("model:\n  path: a\n  path: b\n", "recipe.yaml, line 3: 'path' appears twice (first in line 2)"),
        ("a: &x 1\n", "recipe.yaml, line 1: not valid YAML: anchors and aliases"),
        ("a: 1\nb: *x\n", "recipe.yaml, line 2: not valid YAML: anchors and aliases"),
        ("a: 1\n--- \nb: 1\n", "recipe.yaml, line 2: not valid YAML: but found another document"),
        ("a: !!python/name:os.system x\n", "recipe.yaml, line 1: 'x' is not a valid python/name:os.system"),
        ("a: !!python/object/apply:os.system [x]\n", "recipe.yaml, line 1: the tag tag:yaml.org,2002:python/object"),
        ("a: !!int x\n", "recipe.yaml, line 1: 'x' is not a valid int"),
        ("[1]: 2\n", "recipe.yaml, line 1: a key must be plain text"),
        ("a: " + "[" * 5000 + "\n", "recipe.yaml, line 1: not valid YAML: nested too deeply"),
        ("seed: " + "9" * 5000 + "\n", "recipe.yaml, line 1: an integer of 5000 digits is too large"),
        ('output: "\\ud800"\n', "recipe.yaml, line 1: '\\ud800' is not a valid str"),
    ],
)
def test_unreadable_text(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(write(text))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.yaml does not exist"):
        load_recipe(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="is a folder"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"output: \xff\n")
    with pytest.raises(InputError, match=r"latin.yaml is not UTF-8 text"):
        load_recipe(tmp_path / "latin.yaml")
    (tmp_path / "bom.yaml").write_text(VALID, encoding="utf-8-sig")
    assert load_recipe(tmp_path / "bom.yaml").rollout.group_size == 4


def test_options_replace_what_the_file_says(write: Write) -> None:
    options = [
        ("rollout.group_size", "2"),
        ("rollout.group_size", "6"),
        ("training.learning_rate", "1e-5"),
        ("rewards.0.weight", "2"),
        ("rewards.2.function", "c:d"),
        ("model.lora.rank", "8"),
        ("method.lambda", "0"),
        ("training.trainer", "{bf16: true}"),
        ("training.trainer.report_to", "[none]"),
        ("data.subset", "2024"),
        ("output", "7"),
    ]
    loaded = load_recipe(write(VALID), options)
    assert loaded.rollout.group_size == 6
    assert loaded.training.learning_rate == 1e-5
    assert [(reward.function, reward.weight) for reward in loaded.rewards] == [
        ("my.rewards:score", 2.0),
        ("my.rewards:length", -0.5),
        ("c:d", 1.0),
    ]
    assert loaded.model.lora == LoraConfig(rank=8)
    assert loaded.method.lambda_ == 0.0
    assert loaded.training.trainer == {"bf16": True, "report_to": ["none"]}
    assert loaded.data.subset == "2024"
    assert loaded.output == Path("7")


def test_an_option_can_remove_a_section_and_make_it_again(write: Write) -> None:
    path = write(VALID.replace("data:", "  lora: {rank: 3, alpha: 1}\ndata:"))
    assert load_recipe(path).model.lora == LoraConfig(rank=3, alpha=1)
    assert load_recipe(path, [("model.lora", "null")]).model.lora is None
    again = load_recipe(path, [("model.lora", "null"), ("model.lora.rank", "2")])
    assert again.model.lora == LoraConfig(rank=2)
    replaced = load_recipe(path, [("rewards", "[{function: a:b}]")])
    assert replaced.rewards == [RewardConfig(function="a:b")]


def test_options_alone_make_a_recipe() -> None:
    options = [("model.path", "m"), ("data.path", "d"), ("rewards.0.function", "a:b"), ("output", "o")]
    assert load_recipe(None, options) == recipe()
    with pytest.raises(InputError, match=r"^--data.path is missing, for example --data.path prompts.jsonl$"):
        load_recipe(None, [options[0], *options[2:]])
    short = [("model", "m"), ("data", "d"), *options[2:]]
    assert load_recipe(None, short) == recipe()
    needed = "--data.path prompts.jsonl --rewards.0.function rewards.py:score --output runs/first"
    named = "--data.path, --rewards.0.function and --output are missing, for example"
    with pytest.raises(InputError, match=f"^{named} {needed}$"):
        load_recipe(None, options[:1])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rollout.group_sise", "4", "--rollout.group_sise is unknown; did you mean --rollout.group_size?"),
        ("model.group_size", "4", "--model.group_size is unknown; did you mean --rollout.group_size?"),
        ("rollout.group_size", "1", "--rollout.group_size must be at least 2, got 1"),
        ("rollout", "{group_size: 1}", "--rollout: rollout.group_size must be at least 2, got 1"),
        ("rewards.1.weight", "x", "--rewards.1.weight must be a number, got x"),
        ("rewards.2.weight", "1", "--rewards.2.weight: rewards.2: a reward must be exactly one of function, judge"),
        ("rewards.3.weight", "1", "--rewards.3.weight: rewards has 2 entries; the next index is 2"),
        ("rewards.x", "1", "--rewards.x: rewards has 2 entries; the next index is 2"),
        ("data.path.x", "1", "--data.path.x is unknown; data.path is not a section"),
        ("rollout.group_size", "[", "--rollout.group_size: not valid YAML: "),
        ("rollout..x", "1", "--rollout.''.x: rollout.'' is unknown; rollout has group_size"),
        ("rolout.top_p", "1", "--rolout.top_p: rolout is unknown; did you mean rollout?"),
        ("model.path", "", "--model.path must be text, got null"),
    ],
)
def test_mistake_in_an_option_names_the_option(write: Write, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(write(VALID), [(name, text)])
    assert str(caught.value).startswith(message)


def test_an_option_hides_a_mistake_in_the_file(write: Write) -> None:
    path = write(VALID.replace("group_size: 4", "group_size: 1"))
    assert load_recipe(path, [("rollout.group_size", "3")]).rollout.group_size == 3


def test_paths_are_found_here_or_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, folder = tmp_path / "here", tmp_path / "recipes"
    here.mkdir()
    folder.mkdir()
    monkeypatch.chdir(here)
    for path in (folder / "train.jsonl", folder / "rewards.py", folder / "both.jsonl", here / "both.jsonl"):
        path.touch()
    (folder / "recipe.yaml").write_text(
        "model: {path: org/hub-id}\n"
        "data: {path: train.jsonl, test_path: both.jsonl}\n"
        "rewards: [{function: 'rewards.py:f'}, {function: 'package.rewards:f'}, {function: 'absent.py:f'}]\n"
        "output: out\n"
    )
    loaded = load_recipe(Path("../recipes/recipe.yaml"))
    assert loaded.model.path == "org/hub-id"
    assert loaded.data.path == "../recipes/train.jsonl"
    assert loaded.data.test_path == "both.jsonl"
    functions = [reward.function for reward in loaded.rewards]
    assert functions == ["../recipes/rewards.py:f", "package.rewards:f", "absent.py:f"]
    assert loaded.output == Path("out")
    overridden = load_recipe(Path("../recipes/recipe.yaml"), [("data.path", "train.jsonl")])
    assert overridden.data.path == "train.jsonl"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATHS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="~"), min_size=1).map(
    lambda text: text[:20]
)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats() | TEXT | st.sampled_from(["1e-6", "no", "~"])
)
TREES = st.recursive(SCALARS, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3))
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@fuzz
@given(TREES.filter(lambda tree: "nan" not in repr(tree)))
def test_yaml_is_read_back_as_written(tree: Any) -> None:
    assert read_yaml(write_yaml(tree)).value == tree
    assert read_yaml(write_inline(tree)).value == tree
    assert "\n" not in write_inline(tree)


@fuzz
@given(
    text=PATHS,
    note=TEXT | st.none(),
    weights=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=3),
    rate=st.floats(min_value=1e-300, max_value=1e30),
    lora=st.none() | st.builds(LoraConfig, rank=st.integers(1, 99), target_modules=TEXT | st.lists(TEXT, max_size=3)),
    trainer=st.dictionaries(TEXT, st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT, max_size=3),
)
def test_recipe_survives_yaml(
    text: str, note: str | None, weights: list[float], rate: float, lora: LoraConfig | None, trainer: dict[str, Any]
) -> None:
    trainer = {key: value for key, value in trainer.items() if type(value) is not int or abs(value) < 10**17}
    full = recipe(
        model=ModelConfig(path=text, lora=lora, end_token=note),
        rewards=[RewardConfig(function=text, weight=weight, name=note) for weight in weights],
        method=GRAO(lambda_=0.25),
    )
    full = replace(full, training=replace(full.training, learning_rate=rate, trainer=trainer))
    values = read_yaml(dump_recipe(full)).value
    assert values["method"]["lambda"] == 0.25
    assert load_recipe(None, [(name, write_inline(value)) for name, value in values.items()]) == full


def test_dump_is_read_back_from_a_file_and_says_what_each_field_is(write: Write) -> None:
    full = load_recipe(write(VALID))
    text = dump_recipe(full)
    assert load_recipe(write(text)) == full
    assert "\n\n# How completions are sampled.\nrollout:\n  # Completions per prompt, G.\n  group_size: 4\n" in text
    assert "  # Peak learning rate (Adam).\n  learning_rate: 1.0e-06\n" in text
    assert "  lambda: 0.6\n" in text
    assert text.count("# Factor in the sum.") == 1
    assert not any(line != line.rstrip() for line in text.split("\n"))


@pytest.mark.parametrize("name", METHODS)
def test_the_dump_of_every_method_is_read_back(write: Write, name: str) -> None:
    full = load_recipe(write(VALID), [("method", f"{{name: {name}}}")])
    assert load_recipe(write(dump_recipe(full))) == full


JARGON = re.compile(r"Input should|Field required|pydantic|dataclass|keyword|validation|JSON|loc=|type=")


def complaint(path: Path, overrides: list[tuple[str, str]] | None = None) -> str | None:
    """What is said of a recipe; None if it loads."""
    try:
        load_recipe(path, overrides or [])
    except InputError as error:
        return str(error)
    return None


def check_loads_or_explains(text: str, path: Path) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    said = complaint(path)
    assert said is None or (said.startswith(str(path)) and len(said.splitlines()) == 1)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "recipe.yaml"


@fuzz
@given(text=st.text(max_size=60) | st.text("ab:-[]{}'\"&*!|>%@#,?\n\t ~", max_size=40))
def test_any_text_is_a_recipe_or_one_line(scratch: Path, text: str) -> None:
    check_loads_or_explains(text, scratch)


@fuzz
@given(cut=st.integers(0, len(VALID)), length=st.integers(0, 12), text=st.text(":-[]{} \n7a.", max_size=6))
def test_a_damaged_recipe_is_a_recipe_or_one_line(scratch: Path, cut: int, length: int, text: str) -> None:
    check_loads_or_explains(VALID[:cut] + text + VALID[cut + length :], scratch)


@fuzz
@given(
    name=st.sampled_from([(*path, key) for path, keys in names().items() for key in keys]).map(".".join)
    | st.text("rewards.01lout_ x", max_size=12),
    value=TREES,
)
def test_any_value_in_any_field_is_a_recipe_or_plain_words(scratch: Path, name: str, value: Any) -> None:
    scratch.write_text(VALID, encoding="utf-8")
    said = complaint(scratch, [(name, write_inline(value))])
    assert said is None or len(said.splitlines()) == 1
    assert said is None or not JARGON.search(said.replace(write_inline(value), ""))


def test_the_trainer_takes_a_data_section_or_only_what_it_says_of_rows() -> None:
    assert GRAOConfig(Path("o")).data == PromptsConfig()
    assert GRAOConfig(Path("o"), data=PromptsConfig(prompt="question")).data.prompt == "question"
    whole = DataConfig(path="d", max_prompt_tokens=5)
    assert GRAOConfig(Path("o"), data=whole).data is whole


def test_sections_that_share_fields_keep_their_order_and_their_words() -> None:
    data = [item for section in sections() if section.path == ("data",) for item in section.fields]
    assert [item.path[-1] for item in data] == [
        *(
            "path",
            "test_path",
            "subset",
            "folder",
            "split",
            "format",
            "prompt",
            "reference",
            "rejected",
            "chat",
            "columns",
        ),
        *("held_out", "limit", "max_prompt_tokens", "long_prompts"),
    ]
    pairs = {path[-1]: facts for path, facts in field_facts(RewardModelRecipe).items() if path[0] == "data"}
    assert list(pairs)[-3:] == ["held_out", "limit", "max_tokens"]
    assert pairs["split"].doc.startswith("Split of a hub dataset, or of a folder")
    assert pairs["rejected"].doc == "Column of the worse answer."
    assert all(facts.doc for facts in field_facts(RewardModelRecipe).values())


def test_every_field_and_section_is_described() -> None:
    for facts in field_facts().values():
        assert facts.doc, facts.path
        assert facts.example is not None or not facts.required, facts.path
    assert all(section.doc for section in sections())
