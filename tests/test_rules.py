import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import BertConfig, BertModel

from grao.config.load import load_recipe
from grao.config.rewards import (
    ExactRule,
    FormatRule,
    JsonRule,
    Language,
    LanguageRule,
    LengthRule,
    NumericRule,
    OverlapRule,
    RegexRule,
    RewardConfig,
    RuleConfig,
)
from grao.engine.loading import load_encoder
from grao.errors import InputError
from grao.rewards.base import RewardBatch, sign_relative
from grao.rewards.model import EmbeddingSimilarity
from grao.rewards.rules import RULES, SCRIPTS, RuleReward, final_number
from tiny import letter_tokenizer, tiny_model

GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips.\n#### 72"


def score(settings, answer: str, reference: str = "the reference", **columns) -> float | None:
    return RuleReward(settings).rule(answer, reference, columns)


def batch(completions: list[str], reference: str, **columns) -> RewardBatch:
    ids = [[(1,) for _ in completions]]
    return RewardBatch(["p"], [completions], [reference], [columns], ids, [(1,)])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (GSM8K, 72),
        ("#### 1,234.50 dollars, that is 7 more", 1234.5),
        ("so \\boxed{12} and not 13", 12),
        ("\\boxed{1} then \\boxed{x = -2}", -2),
        ("It is 1,000,000.", 1_000_000),
        ("between 3 and 5-4", 4),
        ("minus: -4", -4),
        ("\u22124 degrees", -4),
        ("about .5", 0.5),
        ("6.02e23", 6.02e23),
        ("1, 2, 3.", 3),
        ("no number", None),
        ("72 #### none", None),
        ("9" * 400, None),
    ],
)
def test_the_final_number(text: str, number: float | None):
    assert final_number(text) == number


def test_numeric_match():
    assert score(NumericRule(), "I think it is 72.", GSM8K) == 1
    assert score(NumericRule(), "I think it is 71.", GSM8K) == 0
    assert score(NumericRule(), "I do not know.", GSM8K) == 0
    assert score(NumericRule(tolerance=1), "It is 71.", GSM8K) == 1
    assert score(NumericRule(), "It is 3", "nobody knows") is None
    assert score(NumericRule(column="sum"), "It is 3", "nobody knows", sum=3) == 1


def test_exact_match_is_blind_to_white_space_alone():
    assert score(ExactRule(), " Paris \n is it.", "Paris is it.") == 1
    assert score(ExactRule(), "paris is it.", "Paris is it.") == 0
    assert score(ExactRule(ignore_case=True), "PARIS is it.", "Paris is it.") == 1
    assert score(ExactRule(column="label"), "b", "another text", label="b") == 1
    with pytest.raises(InputError, match=r"^reward exact: the data have no column 'lable'; .*: 'label'$"):
        RuleReward(ExactRule(column="lable")).relative(batch(["b"], "y", label="b"))


def test_patterns_and_sections():
    assert score(RegexRule(pattern=r"(?i)thank you\b"), "I say: Thank you!") == 1
    assert score(RegexRule(pattern=r"thank you\b"), "Thank you!") == 0
    steps = FormatRule(pattern=r"<think>.+</think>\s*<answer>.+</answer>")
    assert score(steps, "<think>a\nb</think>\n<answer>c</answer>\n") == 1
    assert score(steps, "Well: <think>a</think><answer>c</answer>") == 0
    headings = FormatRule(sections=("## Facts", "## Doubts", "## Answer"))
    assert score(headings, "## Facts\nx\n## Doubts\ny\n## Answer\nz") == 1
    assert score(headings, "## Doubts\n## Facts\n## Answer") == pytest.approx(2 / 3)
    assert score(headings, "") == 0


def test_length():
    target = LengthRule(target=4)
    assert [score(target, "w " * n) for n in (0, 2, 4, 8, 40)] == [0, 0.5, 1, 0.5, 0.1]
    limit = LengthRule(at_most=4, unit="characters")
    assert [score(limit, "w" * n) for n in (0, 1, 4, 8)] == [1, 1, 1, 0.5]


def test_overlap_is_what_stands_in_the_reference_word_for_word():
    reference = "The cat sat on the mat, and the dog ate the food."
    rule = OverlapRule(words=3)
    assert score(rule, reference, reference) == -1
    assert score(rule, "THE CAT sat on a chair", reference) == -0.5  # 2 of 4 runs
    assert score(rule, "a cat, on the chair", reference) == 0
    assert score(rule, "The cat", reference) == 0


def test_a_copy_of_the_reference_loses_by_overlap_and_ties_by_exact_match():
    copied = batch(
        ["one two three four five six", "something else altogether here it is"], "one two three four five six"
    )
    assert RuleReward(OverlapRule()).relative(copied).tolist() == [[-1, 0]]
    assert RuleReward(OverlapRule(), sign_relative(0.3)).relative(copied).tolist() == [[-1, 0]]
    assert RuleReward(ExactRule()).relative(copied).tolist() == [[0, -1]]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The quick fox is in the house and it was not with you."),
        ("de", "Der schnelle Fuchs ist nicht im Haus, und ich habe das mit dir gesehen."),
        ("fr", "Le renard est dans la maison et je ne suis pas avec vous."),
        ("es", "El zorro no está en la casa, pero hay una gata muy grande con su cría."),
        ("it", "La volpe non è nella casa, ma una gatta è con il cane."),
        ("pt", "O cão não está em casa, mas uma gata foi ao jardim com os filhos."),
        ("nl", "De vos is niet in het huis, maar een kat zit er wel met de hond."),
        ("ru", "Лиса не в доме."),
        ("el", "Η αλεπού δεν είναι στο σπίτι."),
        ("ar", "الثعلب ليس في البيت"),
        ("he", "השועל לא בבית"),
        ("hi", "लोमड़ी घर में नहीं है"),
        ("th", "สุนัขจิ้งจอกไม่อยู่ในบ้าน"),
        ("ko", "여우는 집에 없다"),
        ("ja", "キツネは家にいない"),
    ],
)
def test_languages_are_told_apart(language: Language, text: str):
    found = {other: score(LanguageRule(language=other), text) for other in get_args(Language)}
    assert found.pop(language) == 1
    found.pop("zh")  # shares the characters of Japanese
    assert max(found.values()) < 0.5


def test_the_language_of_what_says_little_is_not_held_against_it():
    assert score(LanguageRule(language="en"), "42") == 1
    assert score(LanguageRule(language="en"), "Paris.") == 1
    assert score(LanguageRule(language="en"), "No problem!") == 1
    assert score(LanguageRule(language="en"), "我想 fox") == 0.6
    assert score(LanguageRule(language="zh"), "狐狸不在家") == 1
    assert score(LanguageRule(language="zh"), "The fox") == 0


def test_json():
    rule = JsonRule(required=("name", "age"))
    assert score(rule, ' {"name": "x", "age": null}\n') == 1
    assert score(rule, '{"name": "x"}') == 0.5
    assert score(rule, "[1]") == 0
    assert score(JsonRule(), "[1]") == 1
    for broken in ("", "{", "{'a': 1}", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": 1} and more', "[" * 100_000):
        assert score(JsonRule(), broken) == 0
    fenced = '```json\n{"name": 1, "age": 2}\n```'
    assert score(rule, fenced) == 0
    assert score(JsonRule(required=("name", "age"), fenced=True), fenced) == 1


def test_the_relative_reward_of_a_rule_that_looks_at_the_answer_alone():
    groups = batch(["one two three four", "one", "one two"], "a reference of more words than that")
    reward = RuleReward(LengthRule(at_most=2), name="brief")
    assert reward.name == "brief"
    assert reward.relative(groups)[0].tolist() == pytest.approx([0.5 - 2 / 7, 1 - 2 / 7, 1 - 2 / 7])
    assert RuleReward(LengthRule(at_most=2), sign_relative(0.5)).relative(groups).tolist() == [[0, 1, 1]]


def test_a_column_called_reference_does_not_hide_the_reference():
    groups = replace(batch(["b", "c"], "b"), columns=[{"reference": "c"}])
    assert RuleReward(ExactRule()).relative(groups).tolist() == [[0, -1]]
    assert RuleReward(ExactRule(column="reference")).relative(groups).tolist() == [[0, 1]]
    similar = EmbeddingSimilarity(tiny_model().base_model, letter_tokenizer()).relative(groups)[0]
    assert similar[0] == 0 > similar[1]


def test_a_rule_that_does_not_apply_is_missing():
    assert RuleReward(NumericRule()).relative(batch(["1", "2"], "no number here")).isnan().all()


def test_every_language_has_a_script_and_every_rule_a_computation():
    assert set(SCRIPTS) == set(get_args(Language))
    settings = {type(example) for example in EXAMPLES.values()}
    assert settings == set(RULES)


EXAMPLES = {
    "exact": ExactRule(),
    "numeric": NumericRule(),
    "regex": RegexRule(pattern="x"),
    "length": LengthRule(target=3),
    "format": FormatRule(sections=("x",)),
    "overlap": OverlapRule(),
    "language": LanguageRule(language="en"),
    "json": JsonRule(),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_is_a_section_of_its_own(name: str):
    config = RuleConfig(**{name: EXAMPLES[name]})
    assert config.settings == EXAMPLES[name]
    assert config.name == name == RuleReward(EXAMPLES[name]).name


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{}", "rewards.0.rule: a rule must be exactly one of exact, numeric, regex, length, format, overlap, lang"),
        ("{exact: {}, json: {}}", "rewards.0.rule: a rule must be exactly one of exact"),
        ("{exact: }", "rewards.0.rule: a rule must be exactly one of .* write a rule without settings as exact: {}"),
        ("{numerical: {}}", r"rewards.0.rule.numerical is unknown; did you mean numeric\?"),
        ("{numeric: {tolerence: 1}}", r"rewards.0.rule.numeric.tolerence is unknown; did you mean tolerance\?"),
        ("{numeric: {tolerance: -1}}", "rewards.0.rule.numeric.tolerance must be at least 0, got -1"),
        ("{regex: {}}", "rewards.0.rule.regex.pattern is missing, for example pattern: "),
        ("{regex: {pattern: '('}}", "rewards.0.rule.regex: pattern is not a valid regular expression: missing "),
        ("{length: {}}", "rewards.0.rule.length: give either target or at_most"),
        ("{length: {target: 1, at_most: 2}}", "rewards.0.rule.length: give either target or at_most"),
        ("{format: {sections: []}}", "rewards.0.rule.format: give either pattern or sections"),
        ("{language: {language: xx}}", "rewards.0.rule.language.language must be en, de, fr"),
    ],
)
def test_a_wrong_rule_is_named(rule: str, message: str, tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {{path: m}}\ndata: {{path: d}}\noutput: o\nrewards:\n  - rule: {rule}\n")
    with pytest.raises(InputError, match=message):
        load_recipe(path)


def test_one_source_for_a_reward():
    with pytest.raises(ValueError, match="exactly one of function, judge, model, rule"):
        RewardConfig(function="a:b", rule=RuleConfig(exact=ExactRule()))
    with pytest.raises(ValueError, match="exactly one of"):
        RewardConfig()


def test_embedding_similarity_is_the_cosine_of_mean_vectors():
    model, tokenizer = tiny_model().base_model, letter_tokenizer()
    reward = EmbeddingSimilarity(model, tokenizer)

    def vector(text: str) -> torch.Tensor:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        return model(input_ids=ids).last_hidden_state[0].mean(dim=0).detach()

    texts = ["a fox", "the quick brown fox", "a cat."]
    expected = [torch.cosine_similarity(vector(text), vector("a cat."), dim=0).item() - 1 for text in texts]
    assert reward.relative(batch(texts, "a cat."))[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert reward.relative(batch(["a cat."], "a cat.")).item() == 0
    with pytest.warns(UserWarning, match="texts of more than 256 tokens are truncated"):
        assert reward.relative(batch(["", "x" * 300], "a cat."))[0, 0].item() == pytest.approx(-1)


def test_an_encoder_comes_from_a_folder(tmp_path: Path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=60, max_position_embeddings=32, **shape)).save_pretrained(tmp_path)
    reward = EmbeddingSimilarity(load_encoder(str(tmp_path)), letter_tokenizer())
    with pytest.warns(UserWarning, match="reward embedding: texts of more than 32 tokens are truncated; the beginning"):
        one, other = reward.vectors(["a fox", "a dog, and a text that is longer than thirty-two letters"])
    assert math.isclose(one.norm(), 1, rel_tol=1e-6)
    assert math.isclose(other.norm(), 1, rel_tol=1e-6)
    with pytest.raises(InputError, match="there is no folder"):
        load_encoder(str(tmp_path / "none"))
