"""Judges that think: what is thought is no verdict, whatever marks stand around it, and reading takes no time."""

import time

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from grao.rewards.judge.base import Pair, orders_of
from grao.rewards.judge.local import LocalJudge
from grao.rewards.judge.thoughts import answer_after, end_of_thoughts
from grao.rewards.judge.wording import PairVerdict, Template, parse_verdict
from tiny import tiny_model

FIRST, TIE, SECOND = PairVerdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("At first 1 < 2, but no.\n</think>\n\n1 > 2", FIRST),
        ("1 < 2</THINK >1 > 2", FIRST),
        ("1 < 2</thinking>\n**1 > 2**", FIRST),
        ("<think>\n<think>\n1 < 2</think>\n1 > 2", FIRST),
        ("<think>1 < 2 <think>or not</think> 1 = 2 maybe</think> 1 > 2", FIRST),
        ("<think>1 < 2</think>\n<think>1 = 2</think>\n1 > 2", FIRST),
        ("1 > 2\n<reasoning>It is not that 1 < 2.</reasoning>", FIRST),
        ('<Thinking time="3">1 < 2</Thinking>1 > 2', FIRST),
        ("<reasoning>1 < 2</reasoning><answer>1 > 2</answer>", FIRST),
        ("<seed:think>1 < 2</seed:think>1 > 2", FIRST),
        ("<think>I name <reasoning> here, 1 < 2</think>1 > 2", FIRST),
        ("&lt;think&gt;1 < 2&lt;/think&gt; 1 &gt; 2", FIRST),
        ("＜think＞1 < 2＜/think＞1 > 2", FIRST),
        ("<thi\u200bnk>1 < 2</think>1 > 2", FIRST),
        ("[THINK]1 < 2[/THINK]1 > 2", FIRST),
        ("◁think▷1 < 2◁/think▷1 > 2", FIRST),
        ("<|START_THINKING|>1 < 2<|END_THINKING|><|START_RESPONSE|>1 > 2<|END_RESPONSE|>", FIRST),
        ("<|begin_of_thought|>1 < 2<|end_of_thought|>\n<|begin_of_solution|>1 > 2<|end_of_solution|>", FIRST),
        (
            "<|channel|>analysis<|message|>1 < 2<|end|><|start|>assistant<|channel|>final<|message|>1 > 2<|return|>",
            FIRST,
        ),
        ("<|channel|>commentary<|message|>1 < 2<|channel|>final<|message|>1 > 2", FIRST),
        ("analysisWe compare: 1 < 2? No.assistantfinal1 > 2", FIRST),
        ("<|channel>thought\n1 < 2<channel|>1 > 2", FIRST),
        ('{"reasoning": "1 < 2 is what one might think", "verdict": "1 > 2"}', FIRST),
        ('```json\n{"verdict": "1 \\u003e 2", "explanation": "never 1 < 2"}\n```', FIRST),
        ('Here you are: {"result": {"verdict": "1 > 2", "thoughts": ["1 < 2"]}}', FIRST),
        ("**1** > **2**", FIRST),
        ("`Text 1` > `Text 2`", FIRST),
        ("$1 \\gt 2$", FIRST),
        ("1 &#62; 2", FIRST),
        ("\ud800\x00 1 > 2 \udc00", FIRST),
        ("1 < 2</think>", None),
        ("1 < 2</think>\nI cannot decide.", None),
        ("<thinking>So 1 > 2", None),
        ("<think>a</think>\n<think>So 1 > 2", None),
        ("<reasoning>1 > 2</think>", None),
        ("<think>1 > 2<reasoning>or</reasoning> 1 > 2", None),
        ("[THINK]1 > 2", None),
        ("◁think▷1 > 2", None),
        ("<|START_THINKING|>1 > 2", None),
        ("<|channel|>analysis<|message|>So 1 > 2<|end|>", None),
        ("analysisWe think 1 > 2", None),
        ("<|channel>thought\n1 > 2", None),
        ("<analysis>1 > 2</analysis>", None),
        ('{"reasoning": "1 > 2", "verdict": null}', None),
        ('{"verdict": "1 > 2", "verdict": "1 < 2"}', None),
        ("1 > 2</think>1 < 2 or 1 = 2", None),
    ],
)
def test_only_what_is_not_thought_is_a_verdict(text: str, verdict: PairVerdict | None):
    assert parse_verdict(text) is verdict


def test_prose_about_thinking_is_no_block():
    for text in (
        "I think: 1 > 2",
        "Reasoning: fine. 1 > 2",
        "Analysis of both: 1 > 2",
        "1 > 2 <thinker>",
        "<think/>1 > 2",
    ):
        assert parse_verdict(text) is FIRST
    assert answer_after("[Reasoning] a [Verdict] b") == "[Reasoning] a [Verdict] b"


@pytest.mark.parametrize("text", ["<think>1 > 2", "1 < 2</think>1 > 2", "<think></think> So 1 > 2, or"])
def test_of_an_answer_that_was_cut_thoughts_count_as_little(text: str):
    assert parse_verdict(text, cut=True) is (FIRST if text.endswith(">1 > 2") and "</" in text else None)


LONG = 300_000


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * (LONG // 7),
        "</think>" * (LONG // 8),
        "<think " * (LONG // 7),
        "<think>a</think>" * (LONG // 16),
        "<" * LONG,
        "<|" * (LONG // 2),
        "<|channel|>" * (LONG // 11),
        "1" + " " * LONG + ">",
        "1 > text " * (LONG // 9),
        "\u0316\u0300" * (LONG // 2),
        "\ufdfa" * (LONG // 10),
        "{" * LONG,
        '{"a":' * (LONG // 5) + "}" * (LONG // 5),
        "&lt;" * (LONG // 4),
        "\\" * LONG,
        "\n" * LONG,
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_reading_takes_linear_time(text: str):
    begin = time.process_time()
    assert parse_verdict(text) is None
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    ("prompt", "end"),
    [
        ("<|im_start|>assistant\n<think>\n", "\n</think>\n\n"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("[/INST][THINK]", "[/THINK]"),
        ("<|im_assistant|>◁think▷", "◁/think▷"),
        ("<|CHATBOT_TOKEN|><|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>\n", "<|end_of_thought|>"),
        ("<seed:think>", "\n</seed:think>\n\n"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|channel>thought\n", "<channel|>"),
    ],
)
def test_a_block_that_a_prompt_opens_is_closed(prompt: str, end: str):
    assert end_of_thoughts(prompt) == end
    assert end_of_thoughts(prompt + end) == ""


SHORT = Template("short", "{context} {text_1} {text_2} Is it 1 > 2, 1 = 2 or 1 < 2? Say it, and nothing else.")
PAIRS = [Pair("which", "a b", "c d e"), Pair("what", "<think>", "a much longer answer"), Pair("q", "[THINK]", "x")]


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>\n", "\n</think>\n\n"),
        ("[THINK]", "[/THINK]"),
        ("<reasoning>", "\n</reasoning>\n\n"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
    ],
)
@pytest.mark.parametrize("before_answers", [False, True])
def test_a_judge_here_judges_behind_the_block(
    chat_tokenizer: PreTrainedTokenizerFast, opening: str, closing: str, before_answers: bool
):
    """As with a template that closes the block itself, or opens none; given answers may have it too."""
    model = tiny_model("qwen3", vocabulary=len(chat_tokenizer))
    shown = [order for pair in PAIRS for order in orders_of(pair, "both", 0)]

    def probabilities(block: str) -> torch.Tensor:
        given = block if before_answers else ""
        chat_tokenizer.chat_template = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n"
            f"{{% if m.role == 'assistant' %}}{{{{ {given!r} }}}}{{% endif %}}{{{{ m.content }}}}<|im_end|>"
            "\n{% endfor %}"
            f"{{% if add_generation_prompt %}}<|im_start|>assistant\n{{{{ {block!r} }}}}{{% endif %}}"
        )
        return LocalJudge(model, chat_tokenizer, SHORT).probabilities(shown)

    assert any(torch.equal(probabilities(opening), probabilities(block)) for block in (opening + closing, ""))
