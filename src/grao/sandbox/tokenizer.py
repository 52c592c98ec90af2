"""A tokenizer with a closed vocabulary: one token a word and a digit, bytes for all else, so that no text is lost."""

import re
from functools import cache
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grao.sandbox.answers import best, corpus_answer, reference, rejected
from grao.sandbox.task import Task
from grao.sandbox.tasks import USUAL_KINDS, draw

PIECES = r"User: |\nAssistant:\n| ?[A-Za-z']+| ?[0-9]| ?[^\sA-Za-z0-9]|\s"
"""How a text falls apart; a space belongs to what follows it."""
END, PAD = "<|end|>", "<|pad|>"
SAMPLE = 1500
"""Tasks of each kind that are looked at for words: enough to see every word in every place."""


def build_tokenizer(kinds: tuple[str, ...] = USUAL_KINDS) -> PreTrainedTokenizerFast:
    """The tokenizer, always the same one for the same kinds. As in Qwen, no token is put in front of a text."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens = [END, PAD, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    known = set(tokens)
    for piece in vocabulary(kinds):
        (token, _), *_ = byte_level.pre_tokenize_str(piece)
        if token not in known:
            tokens.append(token)
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


@cache
def vocabulary(kinds: tuple[str, ...] = USUAL_KINDS) -> tuple[str, ...]:
    """The words of the world with these kinds, each with the space before it, in alphabetical order."""
    rng, pieces = Random(0), set[str]()  # noqa: S311
    for kind in kinds:
        for _ in range(SAMPLE):
            for text in texts(draw(rng, "pretraining", kind), rng):
                pieces.update(re.findall(PIECES, text))
    return tuple(sorted(pieces))


def texts(task: Task, rng: Random) -> list[str]:
    """The prompt of a task and answers of every quality."""
    return [task.prompt, corpus_answer(task, rng, 0.5), *(make(task, rng) for make in (reference, rejected, best))]
