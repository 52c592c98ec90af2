"""Prompts with reference answers: read from files or the hub, divided by prompt, turned into token ids."""

from grao.data.encoding import Encoded, EncodedSet, decode_completion, encode_examples
from grao.data.end_token import end_token_id
from grao.data.example import Example, Loaded, Message, Prompt, fingerprint
from grao.data.hh import Quirk, dialogue_messages
from grao.data.load import examples_from_dataset, load_examples, load_split
from grao.data.split import Split, separate, split_examples
from grao.models.conversation import dialogue_text

__all__ = [
    "Encoded",
    "EncodedSet",
    "Example",
    "Loaded",
    "Message",
    "Prompt",
    "Quirk",
    "Split",
    "decode_completion",
    "dialogue_messages",
    "dialogue_text",
    "encode_examples",
    "end_token_id",
    "examples_from_dataset",
    "fingerprint",
    "load_examples",
    "load_split",
    "separate",
    "split_examples",
]
