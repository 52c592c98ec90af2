import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import RewardConfig as TRLRewardConfig
from trl import RewardTrainer

from grao.chat import conversation_ids
from grao.cli.main import main
from grao.cli.parser import parse_arguments
from grao.config.load import dump_recipe, load_config, load_recipe
from grao.config.recipe import BackboneConfig, LoraConfig, PairsConfig, RewardModelRecipe, RewardTrainingConfig
from grao.engine.loading import load_reward_model, new_reward_model
from grao.errors import InputError
from grao.evaluation.metrics import pair_scores
from grao.records.reward_model import read_reward_model
from grao.rewards.base import RewardBatch, sign_relative
from grao.rewards.mix import make_rewards
from grao.rewards.model import RewardModel
from grao.studies.reward_model import train_reward_model
from tiny import letter_tokenizer, saved_model, tiny_model

CHAT = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "So?"})
RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes" / "reward").glob("*.yaml"))


def classifier(seed: int = 0) -> LlamaForSequenceClassification:
    """A random reward model of two layers."""
    config = tiny_model(seed=seed).config
    config.num_labels = 1
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config).eval()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """120 pairs: the better answer ends politely. The answers are otherwise the same and equally long."""
    draw = random.Random(0)
    lines = []
    for number in range(120):
        start = "".join(draw.choice("abcdefgh ") for _ in range(draw.randint(3, 12)))
        lines.append({"prompt": f"say {number}.", "chosen": f"{start} please", "rejected": f"{start} now now"[:-1]})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(pairs: Path, tmp_path: Path, **training) -> RewardModelRecipe:
    settings = {"epochs": 8, "pairs_per_step": 8, "pairs_at_once": 3, "learning_rate": 1e-2, **training}
    return RewardModelRecipe(
        model=BackboneConfig(path=str(saved_model(tmp_path / "base"))),
        data=PairsConfig(path=str(pairs), held_out=40),
        output=tmp_path / "out" / "reward",
        training=RewardTrainingConfig(**settings),
    )


@pytest.mark.parametrize("prompt", ["Once upon", "Once upon a time ", CHAT])
def test_conversations_are_tokenised_as_trl_does(prompt, chat_tokenizer: PreTrainedTokenizerFast):
    row = {"prompt": prompt, "chosen": " yes.", "rejected": "no"}
    if not isinstance(prompt, str):
        row = {
            "prompt": list(prompt),
            "chosen": [{"role": "assistant", "content": " yes."}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
    settings = TRLRewardConfig("x", bf16=False, activation_checkpointing=False)
    (theirs,) = RewardTrainer._prepare_dataset(None, Dataset.from_list([row]), chat_tokenizer, settings, "train")
    ours = conversation_ids(chat_tokenizer, [prompt] * 2, [" yes.", "no"])
    assert ours == [theirs["chosen_ids"], theirs["rejected_ids"]]


def test_without_a_chat_template_messages_become_a_dialogue():
    tokenizer = letter_tokenizer()
    text = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: So?\n\nAssistant: well"
    expected = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert conversation_ids(tokenizer, [CHAT, CHAT], ["well", " well"]) == [expected, expected]


def test_special_tokens_are_not_doubled(words: Callable[[str], PreTrainedTokenizerFast]):
    assert conversation_ids(words("<s> $0 </s>"), ["a b "], ["c"]) == [[0, 3, 4, 5, 1]]
    assert conversation_ids(words("<s> $0"), ["a b "], ["c"]) == [[0, 3, 4, 5, 1]]


def test_a_chat_template_that_refuses_is_one_line(chat_tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(InputError, match="its chat template rejects a conversation: no critics"):
        conversation_ids(chat_tokenizer, [({"role": "critic", "content": "x"},)], ["y"])


def test_scores_are_those_of_each_text_alone():
    model, tokenizer = classifier(), letter_tokenizer()
    prompts = ["once", "upon a time", CHAT, "a", "once"]
    answers = [" there was.", " x", "no", " " + "ab " * 20, " there."]
    naive = [model(torch.tensor([ids])).logits.item() for ids in conversation_ids(tokenizer, prompts, answers)]
    for budget in (1, 40, 10_000):
        scores = RewardModel(model, tokenizer, token_budget=budget).scores(prompts, answers)
        assert scores.tolist() == pytest.approx(naive, abs=1e-5)


def test_the_reward_is_the_difference_or_its_sign():
    model, tokenizer = classifier(), letter_tokenizer()
    texts = [["one", "two", "the reference"], ["x", "yy", "zzz"]]
    batch = RewardBatch(["p", "q"], texts, ["the reference", "y"], [{}, {}], [[(1,)] * 3] * 2, [(1,), (1,)])
    reward = RewardModel(model, tokenizer)
    found = reward.relative(batch)
    scores = reward.scores(["p"] * 3 + ["q"] * 4, [*texts[0], *texts[1], "y"])
    expected = [scores[i] - scores[2] for i in range(3)] + [scores[i] - scores[6] for i in range(3, 6)]
    assert found.flatten().tolist() == pytest.approx([value.item() for value in expected], abs=1e-6)
    assert found[0, 2] == 0  # the very same text, whatever stands beside it
    band = found.abs().max().item() * 0.99
    signs = RewardModel(model, tokenizer, sign_relative(band)).relative(batch)
    assert signs.abs().sum() == 1
    assert signs.flatten()[found.abs().argmax()] == found.flatten()[found.abs().argmax()].sign()


def test_what_is_too_long_is_cut_on_the_left():
    reward = RewardModel(classifier(), letter_tokenizer())  # 256 positions
    far, near = "b" * 50 + "a" * 300, "c" * 50 + "a" * 300
    with pytest.warns(UserWarning, match="texts of more than 256 tokens are truncated"):
        one, other = reward.scores([far, near], ["yes", "yes"])
    assert one == other


def test_a_language_model_is_no_reward_model(tmp_path: Path):
    path = str(saved_model(tmp_path / "lm"))
    with pytest.raises(InputError, match=r"not a reward model: it lacks score.weight; train one with grao reward"):
        load_reward_model(path)
    two = LlamaForSequenceClassification(tiny_model().config)
    two.save_pretrained(tmp_path / "two")
    with pytest.raises(InputError, match="not a reward model: it has 2 outputs, not one"):
        load_reward_model(str(tmp_path / "two"))
    assert new_reward_model(path).config.num_labels == 1
    with pytest.raises(InputError, match="there is no folder"):
        load_reward_model(str(tmp_path / "none"))


def test_pair_scores_by_hand():
    found = pair_scores([1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [5, 9, 3, 3], [4, 3, 3, 8])
    assert found.accuracy.value == 0.5
    assert found.accuracy.n == 4
    assert found.ties == 1
    assert found.mean_margin == 0.5
    assert found.longer.value == 0.5
    assert found.length_correlation == pytest.approx(1.0)  # margins 1, 2, 0, -1; lengths 1, 6, 0, -5
    assert pair_scores([1.0, 1.0], [0.0, 0.0], [5, 9], [4, 3]).length_correlation is None


def test_a_reward_model_is_trained_measured_and_used(pairs: Path, tmp_path: Path, screen):
    told = recipe(pairs, tmp_path)
    record = train_reward_model(told, screen)
    assert record.scores.accuracy.n == 40
    assert record.scores.accuracy.value > 0.9
    assert record.scores.longer.value == 0
    assert record.scores.length_correlation is None
    assert (record.trained, record.steps) == (80, 80)
    assert read_reward_model(told.output) == record
    assert load_config(RewardModelRecipe, told.output / "recipe.yaml") == told
    assert sorted(path.name for path in told.output.iterdir()) == ["model", "recipe.yaml", "reward.json"]
    assert sorted(path.name for path in told.output.parent.iterdir()) == ["reward"]
    assert not list(told.output.rglob("*.bin"))
    assert "80 pairs, 40 held out" in screen.lines

    run = tmp_path / "run.yaml"
    run.write_text(
        "model: {path: m}\ndata: {path: d}\noutput: o\nrewards:\n"
        "  - model: {path: out/reward/model}\n    name: polite\n    relative: sign\n    tie_band: 0.01\n"
    )
    mix = make_rewards(load_recipe(run))
    answers = [["abc please", "abc now no", "abc now no"]]
    batch = RewardBatch(["say 7."], answers, ["abc now no"], [{}], [[(1,)] * 3], [(1,)])
    assert mix(batch).parts["polite"].tolist() == [[1, 0, 0]]


def test_the_same_seed_gives_the_same_model(pairs: Path, tmp_path: Path, screen):
    told = recipe(pairs, tmp_path, steps=3)
    first = train_reward_model(told, screen)
    weights = AutoModelForSequenceClassification.from_pretrained(told.output / "model").state_dict()
    told.output.rename(tmp_path / "first")
    assert train_reward_model(told, screen).scores == first.scores
    again = AutoModelForSequenceClassification.from_pretrained(told.output / "model").state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_an_adapter_is_merged(pairs: Path, tmp_path: Path, screen):
    told = recipe(pairs, tmp_path)
    lora = BackboneConfig(path=told.model.path, lora=LoraConfig(rank=8))
    record = train_reward_model(
        RewardModelRecipe(model=lora, data=told.data, output=told.output, training=told.training), screen
    )
    assert record.scores.accuracy.value > 0.9
    reward = RewardModel.load(str(told.output / "model"))
    better, worse = reward.scores(["say 500."] * 2, ["feed please", "feed now no"])
    assert better > worse
    assert "adapter_config.json" not in {path.name for path in (told.output / "model").iterdir()}


def test_an_interruption_leaves_nothing(pairs: Path, tmp_path: Path, screen, monkeypatch: pytest.MonkeyPatch):
    told = recipe(pairs, tmp_path)
    screen.stage = lambda title: (_ for _ in ()).throw(KeyboardInterrupt)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        train_reward_model(told, screen)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data.rejected": "loser"},
            r"pairs.jsonl: has no column 'loser' \(data.rejected\); its columns are 'prompt', 'chosen'",
        ),
        ({"data.max_tokens": "5"}, "data.max_tokens: every pair is longer than 5 tokens"),
        ({"model.path": "nowhere/at/all"}, "model.path: there is no folder"),
        ({"training.trainer": "{bf61: true}"}, r"training.trainer.bf61 is unknown; did you mean bf16\?"),
        ({"training.trainer": "{learning_rate: 1}"}, "training.trainer.learning_rate is set by training.learning_rate"),
        ({"training.trainer": "{qqqq: 1}"}, "trl.RewardConfig has no such field"),
        ({"model.lora": "{target_modules: [nothing]}"}, "^model.lora.target_modules: No modules were targeted"),
        ({"output": "."}, "output: . is not empty; choose another folder"),
        (
            {"training.learning_rate": "1e30", "training.steps": "3"},
            "became NaN or infinite; lower training.learning_rate",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    change: dict[str, str], message: str, pairs: Path, tmp_path: Path, screen, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("told.yaml").write_text(dump_recipe(recipe(pairs, tmp_path)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        train_reward_model(load_config(RewardModelRecipe, Path("told.yaml"), list(change.items())), screen)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_row_without_a_worse_answer_is_named(pairs: Path, tmp_path: Path, screen):
    lines = pairs.read_text().splitlines()
    lines[6] = json.dumps({"prompt": "say 6.", "chosen": "x", "rejected": None})
    pairs.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"pairs.jsonl, row 7: has no rejected answer; .* data.rejected names"):
        train_reward_model(recipe(pairs, tmp_path), screen)


def test_trl_is_asked_for(pairs: Path, tmp_path: Path, screen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(InputError, match=r"needs TRL: .* -m pip install 'grao\[reward\]'"):
        train_reward_model(recipe(pairs, tmp_path), screen)


def test_the_command(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    told = recipe(pairs, tmp_path, steps=2)
    path = tmp_path / "told.yaml"
    path.write_text(dump_recipe(told))
    assert parse_arguments(["reward", "train", "--config", str(path)]) == ("reward train", told)
    assert main(["reward", "train", "--config", str(path), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "40 held-out pairs" in shown
    assert "the better answer scores higher" in shown
    assert str(told.output / "model") in shown.replace("\n", "")
    assert main(["reward", "train", "--config", str(path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["reward", "train", "--config", str(path), "--print_config"]) == 0
    assert "RewardTrainer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("reward", "the following arguments are required: COMMAND; see grao reward --help"),
        ("reward tran", "grao reward tran is unknown; did you mean grao reward train?"),
        ("reward train", "give --config FILE; see grao reward train --help"),
        ("reward train --rollout.group_size 3", "--rollout.group_size is unknown; see grao reward train --help"),
        ("reward train --training.epoch 3", "--training.epoch is unknown; did you mean --training.epochs?"),
        ("reward train --confg x", "--confg is unknown; did you mean --config?"),
    ],
)
def test_mistakes_on_the_command_line(argv: str, message: str):
    with pytest.raises(InputError) as caught:
        parse_arguments(argv.split())
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("path", [path for path in RECIPES if not path.stem.startswith("real-")], ids=lambda p: p.stem)
def test_recipes_of_reward_models_train(
    path: Path, tmp_path: Path, shared: Path, screen, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(path.parents[2])
    small = [("output", str(tmp_path / "reward")), ("data.limit", "40"), ("training.steps", "1")]
    if "runs/story-pairs" in path.read_text():  # what recipes/prepare_stories.py makes
        stories = shared / "data" / "tinystories-openings"
        small += [("data.path", str(stories / "train.jsonl.gz")), ("data.test_path", str(stories / "test.jsonl.gz"))]
    record = train_reward_model(load_config(RewardModelRecipe, path, small), screen)
    assert record.scores.accuracy.n > 10
