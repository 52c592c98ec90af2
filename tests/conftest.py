import os

os.environ["HF_HUB_OFFLINE"] = "1"

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.figure
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, TrainerCallback

torch.set_num_threads(1)


DRAWN = ("test_reports", "test_study_result", "test_sweep", "test_overoptimisation")
"""Files of tests that look at pictures; in others drawing them would take most of the time."""


def pytest_collection_finish() -> None:
    """Takes the libraries out of garbage collection: accelerate collects at the end of every training, 0.7 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _empty_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.module.__name__ not in DRAWN:
        empty = '<svg viewBox="0 0 1 1"></svg>'
        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, file, **options: file.write(empty))


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

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: self.lines.append(f"{title} {done}/{total}")

    @contextmanager
    def training(self, steps: int) -> Iterator[TrainerCallback]:
        yield TrainerCallback()


@pytest.fixture
def screen() -> SilentScreen:
    return SilentScreen()
