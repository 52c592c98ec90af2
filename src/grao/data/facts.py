"""Notable facts about the examples of a run, for `grao data check` and for the lines printed before training."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from grao.config.recipe import DataConfig
from grao.data.encoding import EncodedSet
from grao.types import Example


def oddities(examples: Sequence[Example]) -> Iterator[str]:
    """Yield lines on repeated prompts, references that echo the prompt, and rejected answers equal to the reference."""
    prompts = Counter(example.id for example in examples)
    if repeated := sum(count > 1 for count in prompts.values()):
        rows, answers = len(examples) - len(prompts) + repeated, {(item.id, item.reference) for item in examples}
        several = sum(count > 1 for count in Counter(prompt for prompt, _ in answers).values())
        differing = f", {several:,} of them with different references" if several else ""
        yield f"repeated: {repeated:,} prompts occur in {rows:,} rows{differing}"
    if echoes := sum(last_message(example).strip() == example.reference.strip() for example in examples):
        yield f"{echoes:,} references only repeat their prompt"
    if equal := sum(example.rejected is not None and example.rejected == example.reference for example in examples):
        yield f"{equal:,} rejected answers equal the reference"


def short_facts(train: EncodedSet, tested: EncodedSet | None, config: DataConfig, longest: int) -> Iterator[str]:
    """Yield what a user should know before training, a line each. Skipped rows are reported elsewhere.

    Args:
        train: training examples.
        tested: held-out examples; None without an evaluation.
        config: the data section.
        longest: maximum tokens of a completion.
    """
    held = tested.items if tested else []
    items, requested = [*train.items, *held], config.held_out
    yield from oddities([item.example for item in items])
    if cut := sum(len(item.reference_ids) > longest for item in items):
        limit = f"rollout.max_new_tokens ({longest:,}), where completions are cut"
        yield f"{cut:,} of {len(items):,} references are longer than {limit}"
    if cut := train.truncated + (tested.truncated if tested else 0):
        yield f"{cut:,} prompts are truncated on the left (data.max_prompt_tokens is {config.max_prompt_tokens:,})"
    prompts = len({item.example.id for item in held})
    if held and not config.test_path and prompts < requested and tested and not tested.dropped:
        every = len({item.example.id for item in items})
        limit = f"at most half can be; data.held_out asks for {requested:,}"
        yield f"{prompts:,} of {every:,} prompts are held out for evaluation: {limit}"


def last_message(example: Example) -> str:
    """Return the text of a prompt; of a chat, its last message."""
    return example.prompt if isinstance(example.prompt, str) else str(example.prompt[-1]["content"])


def spread(unit: str, lengths: Mapping[str, Sequence[int]]) -> str:
    """Return one line such as `tokens, median / longest: prompts 13 / 14, references 11 / 11`.

    Args:
        unit: of the lengths.
        lengths: {kind of text: its lengths}.
    """
    kinds = (f"{name} {round(statistics.median(values)):,} / {max(values):,}" for name, values in lengths.items())
    return f"{unit}, median / longest: {', '.join(kinds)}"
