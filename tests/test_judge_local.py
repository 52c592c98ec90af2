"""A judge without a server: probabilities of the three verdicts, against a naive loop over the model."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from grao.errors import InputError
from grao.rewards.judge.base import Pair, orders_of
from grao.rewards.judge.local import LocalJudge
from grao.rewards.judge.wording import PairVerdict, Template
from tiny import letter_tokenizer, tiny_model

TEMPLATE = Template("short", "{context} {text_1} {text_2} 1 > 2 1 = 2 1 < 2")
PAIRS = [
    Pair("which", "a b", "c d e"),
    Pair("what", "one", "a much longer answer than the other one"),
    Pair("q", "x", "x"),
]


@pytest.fixture
def tokenizer(chat_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return chat_tokenizer


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return tiny_model("qwen3", vocabulary=len(tokenizer))


def naive(model: PreTrainedModel, tokenizer, content: str) -> list[float]:
    """Probability of each verdict behind the question, token by token, one sequence at a time."""
    messages = [{"role": "user", "content": content}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    logs = []
    for verdict in PairVerdict:
        before = tokenizer(asked, add_special_tokens=False).input_ids
        ids = tokenizer(asked + verdict, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        logs.append(sum(logits[at - 1, ids[at]].item() for at in range(len(before), len(ids))))
    whole = math.log(sum(map(math.exp, logs)))
    return [math.exp(log - whole) for log in logs]


def test_probabilities_equal_a_naive_loop_whatever_the_batch(model, tokenizer):
    shown = [one for pair in PAIRS for one in orders_of(pair, "both", 0)]
    expected = [naive(model, tokenizer, TEMPLATE.render(one.pair.prompt, *one.texts)) for one in shown]
    for batch_size in (1, 4, 100):
        found = LocalJudge(model, tokenizer, TEMPLATE, batch_size=batch_size).probabilities(shown)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(len(shown), dtype=torch.float64))


def test_the_likeliest_verdict_counts_and_both_orders_must_agree(model, tokenizer):
    judge = LocalJudge(model, tokenizer, TEMPLATE)
    for pair, found in zip(PAIRS, judge.compare(PAIRS), strict=True):
        first, second = (
            naive(model, tokenizer, TEMPLATE.render(pair.prompt, *two)) for two in ((pair.a, pair.b), (pair.b, pair.a))
        )
        said = [[*PairVerdict][max(range(3), key=one.__getitem__)] for one in (first, second[::-1])]
        assert [found.a_first, found.b_first] == said
        assert found.value == (said[0].reward if said[0] is said[1] else 0.0)
        assert found.probabilities == pytest.approx(
            [(a + b) / 2 for a, b in zip(first, second[::-1], strict=True)], rel=1e-4
        )
    assert judge.tally.requests == 6
    judge.check()


def test_exchanging_the_texts_exchanges_the_verdict(model, tokenizer):
    judge = LocalJudge(model, tokenizer, TEMPLATE)
    there, back = judge.compare(PAIRS), judge.compare([Pair(pair.prompt, pair.b, pair.a) for pair in PAIRS])
    assert [one.value for one in there] == [-one.value for one in back]
    assert [one.flipped for one in there] == [one.flipped for one in back]
    for one, other in zip(there, back, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities[::-1], rel=1e-5)
    same = there[2]
    assert same.value == 0.0
    assert same.probabilities[0] == pytest.approx(same.probabilities[2])


def test_one_order_and_a_margin(model, tokenizer):
    one = LocalJudge(model, tokenizer, TEMPLATE, orders="one", seed=3)
    assert one.compare(PAIRS)[0].value in (1.0, 0.0, -1.0)
    assert one.tally.requests == 3
    found = LocalJudge(model, tokenizer, TEMPLATE, tie_margin=1.0).compare(PAIRS)
    assert {(each.a_first, each.b_first, each.value) for each in found} == {(PairVerdict.TIE, PairVerdict.TIE, 0.0)}


def test_a_question_that_is_too_long_has_no_verdict(model, tokenizer):
    judge = LocalJudge(model, tokenizer, TEMPLATE)
    long, short = judge.compare([Pair("q", "word " * 300, "short"), PAIRS[0]])
    assert math.isnan(long.value)
    assert (long.a_first, long.b_first) == (None, None)
    assert not math.isnan(short.value)
    assert judge.tally.unreadable == 2


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Without chat template; every verdict has its own middle token."""
    words = ["<pad>", "<unk>", "1", "2", ">", "=", "<", "good", "bad"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def test_a_trained_judge_says_what_it_learnt():
    """Two words in two places decide: a model that has learnt them judges all pairs right, without a chat template."""
    torch.manual_seed(0)
    tokenizer, template = word_tokenizer(), Template("bare", "{text_1} {text_2} {context} 1 > 2 1 = 2 1 < 2 ")
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=0, **shape)
    )
    pairs = [Pair("q", a, b) for a in ("good", "bad") for b in ("good", "bad")]
    right = [PairVerdict.TIE, PairVerdict.FIRST, PairVerdict.SECOND, PairVerdict.TIE]
    texts = [
        template.render(pair.prompt, pair.a, pair.b) + "\n" + said for pair, said in zip(pairs, right, strict=True)
    ]
    rows = tokenizer(texts, return_tensors="pt").input_ids
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        logits = model(input_ids=rows).logits[:, -4:-1]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, -3:].flatten()).backward()
        optimiser.step()
    found = LocalJudge(model, tokenizer, template).compare(pairs)
    assert [one.value for one in found] == [verdict.reward for verdict in right]
    assert not any(one.flipped for one in found)
    assert found[1].probabilities[0] > 0.9


def test_a_tokenizer_that_cannot_write_the_verdicts_is_refused():
    with pytest.raises(InputError, match="its tokenizer cannot tell the three verdicts apart"):
        LocalJudge(tiny_model(), letter_tokenizer(), TEMPLATE)
