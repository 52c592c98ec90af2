"""Check a model folder before transformers reads it: intact files, and sizes that match the weights.

transformers hangs on pipes and sockets, builds as many layers as config.json says, and fails on damaged files in many
different ways. So the files are checked here first; of the weights only the headers are read.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from safetensors import SafetensorError, safe_open

from grao.errors import InputError
from grao.files import read_bytes

_OBJECTS = (
    *("config.json", "generation_config.json", "model.safetensors.index.json", "adapter_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""Optional files that must hold a JSON object."""
_LARGEST = 1 << 26
"""Maximum size of such a file, in bytes."""
_LAYERS = re.compile(r"(num_hidden|num|n|encoder|decoder)_layers?")
_WIDTHS = re.compile(r"\w+_(size|dim|heads?|experts|embd|inner)|d_\w+")
"""Names of settings in config.json that are sizes."""
_MOST_LAYERS, _WIDEST = 1000, 1_000_000
"""Sizes accepted whatever the weights are: config.json may hold defaults for parts that the model does not have."""


def check_model_folder(folder: Path) -> None:
    """Check that the JSON files are valid, the weights complete, and the configured sizes plausible for the weights.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".jinja", ".model") and path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file; remove it, or download the model again")
    texts = {name: _json_object(folder / name) for name in _OBJECTS}
    tensors: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= tensor_shapes(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or incomplete ({error}); download it again") from error
    if tensors:
        widest = max((length for shape in tensors.values() for length in shape), default=0)
        for name, value in _sizes(texts["config.json"]):
            layers = _LAYERS.fullmatch(name)
            largest = max(len(tensors), _MOST_LAYERS) if layers else max(16 * widest, _WIDEST)
            if value > largest:
                raise InputError(f"{folder / 'config.json'}: {name} is {value}, which does not fit the weights; fix it")


def tensor_shapes(path: Path | str) -> dict[str, list[int]]:
    """Read the shape of every tensor in a safetensors file, by name, from the file's header.

    Raises:
        SafetensorError: if it is not a valid safetensors file.
        OSError: if it cannot be read.
    """
    with safe_open(path, "pt") as weights:
        return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118


def _json_object(path: Path) -> Mapping[str, Any]:
    try:
        content = from_json(b"{}" if (text := read_bytes(path, _LARGEST)) is None else text)
    except ValueError as error:
        problem = str(error) if isinstance(error, InputError) else f"{path} is not valid JSON: {error}"
        raise InputError(f"{problem}; download the model again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object; download the model again")
    for name, value in content.items():
        ids = value if isinstance(value, list) else [value]
        if name.endswith("_token_id") and not all(each is None or isinstance(each, int) for each in ids):
            raise InputError(f"{path}: {name} is {str(value)[:40]!r}, but a token id must be an integer; fix it")
    return content


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the integer settings of a configuration, nested ones included, that are sizes."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _sizes(value)
        elif isinstance(value, int) and (_LAYERS.fullmatch(name) or _WIDTHS.fullmatch(name)):
            yield name, value
