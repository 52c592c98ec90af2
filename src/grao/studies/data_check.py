"""`grao data check`: what a file holds, how it is read, what is left out, and a first recipe.

The counts match those of a run with the same settings: the same code reads, splits and encodes. Nothing is written, and
no weights are read.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from itertools import chain
from textwrap import indent
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from grao.chat import is_rendered
from grao.config.recipe import Recipe
from grao.config.strict_yaml import write_yaml
from grao.data.encoding import EncodedSet
from grao.data.facts import last_message, oddities, spread
from grao.data.formats import row_faults
from grao.data.guess import Guess, describe_columns, guess_columns
from grao.data.load import Split, load_split, load_table
from grao.data.public_forms import known_form, written_by
from grao.data.rows import Table
from grao.engine.limits import positions
from grao.engine.loading import load_tokenizer, model_shape
from grao.errors import InputError
from grao.studies.plan import encoded_as_run
from grao.types import Encoded, Example
from grao.visible import visible

_SHOWN_ROWS, _SHOWN_FAULTS, _WIDTH = 5, 3, 300
"""Maximum rows and faults shown, and characters of each."""
_NAME = 24
"""Maximum characters of a column name."""
_FREQUENT = 0.02
"""Share of rows above which a repeated reference is reported."""
_RULE_WORDS = 4
"""Maximum words of references that an exact rule can compare."""
_NUMBER = re.compile(r"(?:.*####)?\s*-?[\d.,]+\s*%?\s*", re.DOTALL)


def check_data(recipe: Recipe, given: Collection[str], model: bool, screen: Any) -> None:
    """Print the whole check.

    Args:
        recipe: contains the data section to check.
        given: fields of the data section that the user has set; the others may be guessed.
        model: check with the tokenizer and config of the recipe's model too.
        screen: has `say` for a line, `show` for a table and `copyable` for text.

    Raises:
        InputError: if rows cannot be read, naming the first of them.
    """
    table = load_table(recipe.data)
    guess = guess_columns(table, recipe.data, given)
    recipe = replace(recipe, data=guess.applied(recipe.data))
    screen.say(f"{table.source}: {_rows(len(table.rows))}")
    screen.show(_columns_table(table, recipe))
    for line in _guesses(guess):
        screen.say(line)
    _check_rows(table, recipe, guess, screen)
    model_config, tokenizer = recipe.model, None
    if model:
        tokenizer = load_tokenizer(model_config.path, model_config.trust_remote_code)
    split = load_split(recipe.data, recipe.seed, table)
    first = split.train[0].prompt
    plain_text = tokenizer and tokenizer.chat_template and isinstance(first, str) and not is_rendered(tokenizer, first)
    if plain_text and "chat" not in given:
        recipe = replace(recipe, data=replace(recipe.data, chat=True))
        split = load_split(recipe.data, recipe.seed, table)
        screen.say("guessed: data.chat: true, since the model has a chat template and prompts are plain text")
    for line in _facts(split):
        screen.say(line)
    if not tokenizer:
        new_tokens, lines = 0, _sides(recipe, split, len(split.train), len(split.test))
    else:
        shape = model_shape(model_config.path, model_config.dtype, model_config.trust_remote_code)
        short = replace(recipe, rollout=replace(recipe.rollout, max_new_tokens=1))  # not known yet
        train = encoded_as_run(short, split.train, tokenizer, shape)
        test = encoded_as_run(short, split.train, tokenizer, shape, split.test) if split.test else EncodedSet([], 0, 0)
        rows = EncodedSet([*train.items, *test.items], train.dropped + test.dropped, train.truncated + test.truncated)
        new_tokens = _new_tokens(rows.items, positions(shape))
        sides = _sides(recipe, split, len(train.items), len(test.items), rows.dropped)
        lines = chain(sides, _as_the_model_reads(recipe, rows, tokenizer))
    for line in lines:
        screen.say(line)
    screen.say("a first recipe:")
    screen.copyable(write_yaml(_first_recipe(recipe, split, new_tokens)).rstrip())


def _columns_table(table: Table, recipe: Recipe) -> RichTable:
    """Return a table with one row per column of the data."""
    data = recipe.data
    conversation = not table.has(data.prompt)  # one that ends with the reference
    roles = {data.prompt: "the prompt", data.reference: "prompt and reference" if conversation else "the reference"}
    roles |= {data.rejected: "the rejected answer"} if data.rejected else {}
    roles = dict.fromkeys(("chosen", "rejected"), "a dialogue") if data.format == "hh" else roles

    def other(name: str) -> str:
        """Return the role of a column that is not in `roles` itself."""
        inside = [role for column, role in roles.items() if column.startswith(f"{name}.")]
        return f"holds {' and '.join(inside)}" if inside else "for rewards"

    head = "column", "holds", "filled", "is", "such as"
    rows = [
        (
            visible(column.name)[:_NAME],
            column.kinds,
            f"{column.filled:,}",
            roles.get(column.name, other(column.name)),
            column.example,
        )
        for column in describe_columns(table)
    ]
    rendered = RichTable(box=None, pad_edge=False, header_style="", expand=True)
    for number, name in enumerate(head):
        last, width = name == head[-1], max(len(row[number]) for row in (head, *rows))
        rendered.add_column(name, width=None if last else width, ratio=1 if last else None, no_wrap=True)
    for row in rows:
        rendered.add_row(*(Text(visible(cell)[:_WIDTH], overflow="ellipsis") for cell in row))
    return rendered


def _guesses(guess: Guess) -> Iterator[str]:
    if guess.settings:
        yield "guessed: " + ", ".join(f"data.{name}: {value}" for name, value in guess.settings.items())
    yield from guess.remarks


def _check_rows(table: Table, recipe: Recipe, guess: Guess, screen: Any) -> None:
    """Report unreadable rows, and code that converts them if their form is a known one.

    Raises:
        InputError: if a row cannot be read; the first faults are printed before.
    """
    data = recipe.data
    if data.format == "hh":
        return
    try:
        faults = row_faults(table, data)
    except InputError as error:
        faults = [str(error)]
    form = known_form(table, data, faults)
    if faults and not form and not table.has(data.reference):
        prompts = table.has(data.prompt)
        problem = "it has prompts but no answers" if prompts else "no column looks like prompts or answers"
        remedy = "name the columns with --data.prompt and --data.reference"
        more = ", or add a column 'reference' with a good answer to each, such as a stronger model's" if prompts else ""
        raise InputError(f"{table.source}: {problem}; {remedy}{more}")
    if len(faults) > 1:
        for fault in faults[1:_SHOWN_FAULTS]:
            screen.say(fault)
        kinds = Counter(fault.split(": ")[-1].partition(";")[0] for fault in faults)
        listed = "; ".join(f"{count:,}: {kind}" for kind, count in kinds.most_common(_SHOWN_FAULTS))
        screen.say(f"{len(faults):,} of {len(table.rows):,} rows cannot be read ({listed})")
    if form:
        screen.say(f"{form.words}:")
        screen.copyable(indent(form.code(data), "    "))
    if faults:
        convert = f"run these lines in Python, then: grao data check {written_by(data.path)}"
        fault = f"{table.source}: cannot be read in this form" if len(faults) == 1 < len(table.rows) else faults[0]
        remedy = "" if ";" in faults[0] else "; fix the row or leave it out"
        raise InputError(f"{fault}; {convert}" if form else f"{faults[0]}{remedy}")


def _facts(split: Split) -> Iterator[str]:
    """Yield notable facts about the examples, training and held-out."""
    examples = [*split.train, *split.test]
    yield from oddities(examples)
    (text, count), *_ = Counter(example.reference.strip() for example in examples).most_common(1)
    if count > max(1, _FREQUENT * len(examples)):
        yield f"the same reference occurs in {_rows(count)}: {visible(_shortened(text))!r}"
    words = {
        "prompts": [len(last_message(example).split()) for example in examples],
        "references": [len(example.reference.split()) for example in examples],
    }
    yield spread("words", words)


def _sides(recipe: Recipe, split: Split, train: int, test: int, too_long: int = 0) -> Iterator[str]:
    """Yield how many rows are trained on, held out and left out, and why; `too_long` are too long for the model."""
    wanted, held = recipe.data.held_out, len({example.id for example in split.test})
    note = ""
    if recipe.data.test_path:
        note = f" ({recipe.data.test_path})"
    elif held < wanted:
        note = f" (at most half of all prompts; data.held_out is {wanted})"
    yield f"{_rows(train)} to train on, {test:,} held out for evaluation{note}"
    limit = f"prompt too long (data.max_prompt_tokens is {recipe.data.max_prompt_tokens:,})"
    for reason, count in {**split.skipped, **({limit: too_long} if too_long else {})}.items():
        yield f"left out: {_rows(count)}, {reason}"


def _as_the_model_reads(recipe: Recipe, encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield lengths in tokens, how many prompts are truncated, and some rows with all special tokens."""
    items = encoded.items
    tokens = {
        "prompts": [len(item.prompt_ids) for item in items],
        "references": [len(item.reference_ids) for item in items],
    }
    yield spread("tokens", tokens)
    limit, truncated = recipe.data.max_prompt_tokens, encoded.truncated
    if truncated and recipe.data.long_prompts == "truncate":
        yield f"truncated on the left: {truncated:,} prompts (data.max_prompt_tokens is {limit:,})"
    step = max(1, len(items) // _SHOWN_ROWS)
    yield "prompts and references as the model reads them:"
    for item in items[::step][:_SHOWN_ROWS]:
        yield f"  row {item.example.row}: {_decoded(tokenizer, item.prompt_ids)}"
        yield f"    -> {_decoded(tokenizer, item.reference_ids)}"


def _first_recipe(recipe: Recipe, split: Split, new_tokens: int) -> dict[str, Any]:
    """Return the smallest recipe that trains on the file; `new_tokens` is 0 without a model."""
    data, defaults = recipe.data, type(recipe.data)(path=recipe.data.path)
    section: dict[str, Any] = {"path": data.path}
    names = [field.name for field in fields(data) if field.name not in ("path", "held_out")]
    section |= {name: getattr(data, name) for name in names if getattr(data, name) != getattr(defaults, name)}
    if not data.test_path:
        section["held_out"] = len({example.id for example in split.test})
    tree: dict[str, Any] = {
        "model": {"path": recipe.model.path if new_tokens else "MODEL"},
        "data": section,
        "rewards": [_reward(split.train)],
    }
    if new_tokens:
        tree["rollout"] = {"max_new_tokens": new_tokens}
    return tree | {"output": "runs/first"} | ({"seed": recipe.seed} if recipe.seed else {})


def _reward(examples: Sequence[Example]) -> dict[str, Any]:
    """Return a reward for these references: a rule if they are numbers or a few words, else a judge."""
    references = [example.reference.strip() for example in examples]
    if all(_NUMBER.fullmatch(text) for text in references):
        return {"rule": {"numeric": {}}}
    if all(len(text.split()) <= _RULE_WORDS for text in references):
        return {"rule": {"exact": {}}}
    return {"judge": {"model": "JUDGE", "base_url": "http://localhost:8000/v1", "api_key_env": None}}


def _new_tokens(items: Sequence[Encoded], max_positions: int | None) -> int:
    """Return a limit for completions: 1.5 times the references' 98th percentile, as a power of two; less if need be."""
    lengths = sorted(len(item.reference_ids) for item in items)
    wanted = max(16, 1 << (lengths[int(0.98 * (len(lengths) - 1))] * 3 // 2 - 1).bit_length())
    return min(wanted, max_positions - max(len(item.prompt_ids) for item in items)) if max_positions else wanted


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count > 1 else ''}"


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return _shortened(
        repr(str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)))
    )


def _shortened(text: str) -> str:
    half = _WIDTH // 2
    return text if len(text) <= _WIDTH else f"{text[:half]} ... {text[-half:]}"
