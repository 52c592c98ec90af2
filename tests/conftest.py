from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, TrainerCallback


def pytest_collection_finish() -> None:
    """One thread a process, and the libraries out of garbage collection, which takes a second with them."""
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate collects garbage when a training ends, for memory that tests do not need."""
    monkeypatch.setattr("accelerate.utils.memory.gc", SimpleNamespace(collect=int))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def _own_modules() -> Iterator[None]:
    """What a test imports from its working directory does not stand in for a file of that name in the next."""
    path = list(sys.path)
    yield
    added = {folder for folder in sys.path if folder not in path}
    sys.path[:] = path
    for name, module in list(sys.modules.items()) if added else ():
        if (file := getattr(module, "__file__", None)) and os.path.dirname(file) in added:
            del sys.modules[name]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder `shared` beside the repository: public data (`data/`) and a small pretrained model (`models/`)."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs public data and models in {folder}, which is not there")
    return folder


CHATML = (
    "{% for m in messages %}{% if m.role == 'critic' %}{{ raise_exception('no critics') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a ChatML template, EOS `<|endoftext|>` and no BOS, as Qwen's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = ["user assistant\n system Once upon a time there was the answer Human: Assistant: Hello world 1 2 3"]
    backend.train_from_iterator(text * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHATML,
    )


@pytest.fixture
def words() -> Callable[[str], PreTrainedTokenizerFast]:
    """Whole words `a` to `h` with ids 3 to 10, `<s>` 0, `</s>` 1, unknown 2; special tokens by a pattern."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def build(pattern: str) -> PreTrainedTokenizerFast:
        vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<unk>", *"abcdefgh"])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=[("<s>", 0), ("</s>", 1)])
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=4
        )

    return build


class SilentScreen:
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    copyable = say

    def follow(self, recipe: object) -> None:
        pass

    def phases(self, count: int) -> None:
        self.lines.append(f"{count} phases")

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        self.lines.append(title)
        yield lambda done, total: self.lines.append(f"{title} {done}/{total}")

    @contextmanager
    def training(self, steps: int, samples: object) -> Iterator[TrainerCallback]:
        from transformers import TrainerCallback

        self.lines.append("training")
        yield TrainerCallback()


@pytest.fixture
def screen() -> SilentScreen:
    return SilentScreen()
