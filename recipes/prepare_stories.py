"""Pairs of a story's own continuation and one that the model writes, for the recipes `stories` in reward and studies.

    python recipes/prepare_stories.py [FOLDER `shared`] [FOLDER FOR THE RESULT]

Wants the folder `shared` beside this repository. The data's own worse answers are other stories' texts: as well written
as the better ones, only off the topic. Here they are samples of the model before training, at temperature 1.

test    a sample a prompt, cut to whole sentences of about the true text's length and put on one line, so that neither
        length nor end nor line break tells them apart
train   the same for the training prompts
reward  three such samples a training prompt, and a fourth as a run would leave it, cut off at 100 tokens: a reward
        model that never saw such a text could not judge the first answers of a run
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.config.recipe import DataConfig
from grao.data.encoding import encode_examples
from grao.data.load import load_split
from grao.engine.loading import load_model, load_tokenizer, stop_token_ids
from grao.groups import sample_groups
from grao.rollouts.base import Sampling, draw_key
from grao.rollouts.transformers import TransformersGenerator
from grao.types import Encoded, Example

Row = dict[str, str]

_WHOLE, _CUT = 200, 100
"""Tokens: of a sample that is then cut to sentences, more than any true text has; of one left as it is."""
_SENTENCE_END = re.compile(r"""[.!?]["'”’]?(?= |$)""")


class Writer:
    """Continues stories at temperature 1.

    Args:
        path: folder of the model.
    """

    def __init__(self, path: Path) -> None:
        self.model: PreTrainedModel = load_model(str(path))
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(path))
        self.stops = stop_token_ids(self.model, self.tokenizer)

    def fitted(self, examples: Sequence[Example], samples: int) -> list[Row]:
        """Rows with samples cut to whole sentences of about the reference's length."""
        return [
            _row(item.example, whole_sentences(text, len(item.example.reference)))
            for item, texts in self._continued(examples, samples, _WHOLE)
            for text in texts
        ]

    def cut(self, examples: Sequence[Example]) -> list[Row]:
        """Rows with one sample each, as it is where the limit of a run ends it."""
        return [_row(item.example, text) for item, (text,) in self._continued(examples, 1, _CUT)]

    def _continued(self, examples: Sequence[Example], samples: int, tokens: int) -> list[tuple[Encoded, list[str]]]:
        items = encode_examples(examples, self.tokenizer, self.stops[0], 200, "drop").items
        keys = [draw_key(tokens, item.example.id) for item in items]
        generator = TransformersGenerator(self.model, self.stops, batch_size=256)
        groups = sample_groups(items, keys, generator, Sampling(samples, 1.0, 1.0, tokens), self.tokenizer)
        return [(group.item, group.texts) for group in groups]


def whole_sentences(text: str, length: int) -> str:
    """The first sentences of a text, on one line, that come nearest to a length in letters; all of it if none ends."""
    text = re.sub(r"\s+", " ", text)
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return text[: min(ends, key=lambda end: abs(end - length), default=len(text))]


def prepare(shared: Path, folder: Path) -> None:
    """Writes `reward.jsonl`, `train.jsonl` and `test.jsonl`."""
    data = shared / "data" / "tinystories-openings"
    paths = {"path": str(data / "train.jsonl.gz"), "test_path": str(data / "test.jsonl.gz")}
    split = load_split(DataConfig(**paths, reference="chosen"), seed=0)
    writer = Writer(shared / "models" / "stories260k")
    fitted = writer.fitted(split.train, 3)
    write(folder / "reward.jsonl", [*fitted, *writer.cut(split.train)])
    write(folder / "train.jsonl", fitted[::3])
    write(folder / "test.jsonl", writer.fitted(split.test, 1))


def write(path: Path, rows: Sequence[Row]) -> None:
    """One JSON line a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _row(example: Example, rejected: str) -> Row:
    return {"prompt": str(example.prompt), "chosen": example.reference, "rejected": rejected}


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    prepare(*given, *(Path("../shared"), Path("runs/story-pairs"))[len(given) :])
