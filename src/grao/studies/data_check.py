"""`grao data check`: what a file holds, how it is read, what of it is left out, and a recipe to begin with.

The counts are those of a run with the same settings: the same code reads, splits and encodes. Nothing is written, no
weight is read.
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

from grao.chat import written_out
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
"""Rows and faults that are shown, and characters of each."""
_NAME = 24
"""Characters of a column's name."""
_FREQUENT = 0.02
"""Share of rows from which it is said that a reference comes again and again."""
_SHORT = 4
"""Words of references that a rule can compare."""
_NUMBER = re.compile(r"(?:.*####)?\s*-?[\d.,]+\s*%?\s*", re.DOTALL)


def check_data(recipe: Recipe, given: Collection[str], model: bool, screen: Any) -> None:
    """Prints all of it.

    Args:
        recipe: its data section is checked, for its model if there is one.
        given: fields of the data section that the user has set; the others may be guessed.
        model: whether the recipe's model is to be looked at too.
        screen: has `say` for a line, `show` for a table and `copyable` for text.

    Raises:
        InputError: if the rows cannot be read, naming the first that cannot.
    """
    table = load_table(recipe.data)
    guess = guess_columns(table, recipe.data, given)
    recipe = replace(recipe, data=guess.applied(recipe.data))
    screen.say(f"{table.source}: {_rows(len(table.rows))}")
    screen.show(_columns_table(table, recipe))
    for line in _reading(guess):
        screen.say(line)
    _check_rows(table, recipe, guess, screen)
    chosen, tokenizer = recipe.model, None
    if model:
        tokenizer = load_tokenizer(chosen.path, chosen.trust_remote_code)
    split = load_split(recipe.data, recipe.seed, table)
    first = split.train[0].prompt
    bare = tokenizer and tokenizer.chat_template and isinstance(first, str) and not written_out(tokenizer, first)
    if bare and "chat" not in given:
        recipe = replace(recipe, data=replace(recipe.data, chat=True))
        split = load_split(recipe.data, recipe.seed, table)
        screen.say("guessed: data.chat: true, since the model has a chat template and prompts are plain text")
    for line in _facts(split):
        screen.say(line)
    if not tokenizer:
        room, shown = 0, _sides(recipe, split, len(split.train), len(split.test))
    else:
        shape = model_shape(chosen.path, chosen.dtype, chosen.trust_remote_code)
        short = replace(recipe, rollout=replace(recipe.rollout, max_new_tokens=1))  # of which nothing is asked yet
        train = encoded_as_run(short, split.train, tokenizer, shape)
        tested = (
            encoded_as_run(short, split.train, tokenizer, shape, split.test) if split.test else EncodedSet([], 0, 0)
        )
        whole = EncodedSet(
            [*train.items, *tested.items], train.dropped + tested.dropped, train.truncated + tested.truncated
        )
        room = _room(whole.items, positions(shape))
        sides = _sides(recipe, split, len(train.items), len(tested.items), whole.dropped)
        shown = chain(sides, _as_the_model_reads(recipe, whole, tokenizer))
    for line in shown:
        screen.say(line)
    screen.say("a recipe to begin with:")
    screen.copyable(write_yaml(_first_recipe(recipe, split, room)).rstrip())


def _columns_table(table: Table, recipe: Recipe) -> RichTable:
    """A line a column."""
    data = recipe.data
    whole = not table.has(data.prompt)  # a conversation that ends with the reference
    roles = {data.prompt: "the prompt", data.reference: "prompt and reference" if whole else "the reference"}
    roles |= {data.rejected: "the rejected answer"} if data.rejected else {}
    roles = dict.fromkeys(("chosen", "rejected"), "a dialogue") if data.format == "hh" else roles

    def other(name: str) -> str:
        """What a column is that is not one of these itself."""
        inside = [role for column, role in roles.items() if column.startswith(f"{name}.")]
        return f"holds {' and '.join(inside)}" if inside else "for rewards"

    head = "column", "holds", "filled", "is", "such as"
    rows = [
        (
            visible(each.name)[:_NAME],
            each.kinds,
            f"{each.filled:,}",
            roles.get(each.name, other(each.name)),
            each.example,
        )
        for each in describe_columns(table)
    ]
    shown = RichTable(box=None, pad_edge=False, header_style="", expand=True)
    for number, name in enumerate(head):
        last, width = name == head[-1], max(len(row[number]) for row in (head, *rows))
        shown.add_column(name, width=None if last else width, ratio=1 if last else None, no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(visible(cell)[:_WIDTH], overflow="ellipsis") for cell in row))
    return shown


def _reading(guess: Guess) -> Iterator[str]:
    if guess.settings:
        yield "guessed: " + ", ".join(f"data.{name}: {value}" for name, value in guess.settings.items())
    yield from guess.remarks


def _check_rows(table: Table, recipe: Recipe, guess: Guess, screen: Any) -> None:
    """Says what form the rows have, if it is known and not the one that is read.

    Raises:
        InputError: if a row cannot be read, after the first ones were named.
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
        asked = table.has(data.prompt)
        what = "there are prompts, but no answers" if asked else "no column looks like prompts or answers"
        remedy = "name the columns with --data.prompt and --data.reference"
        more = ", or add a column 'reference' with a good answer to each, such as a stronger model's" if asked else ""
        raise InputError(f"{table.source}: {what}; {remedy}{more}")
    if len(faults) > 1:
        for fault in faults[1:_SHOWN_FAULTS]:
            screen.say(fault)
        kinds = Counter(fault.split(": ")[-1] for fault in faults)
        listed = "; ".join(f"{count:,}: {kind}" for kind, count in kinds.most_common(_SHOWN_FAULTS))
        screen.say(f"{len(faults):,} of {len(table.rows):,} rows cannot be read ({listed})")
    if form:
        screen.say(f"{form.words}:")
        screen.copyable(indent(form.code(data), "    "))
    if faults:
        then = f"run these lines in Python, then: grao data check {written_by(data.path)}"
        read = f"{table.source}: is not read in this form" if len(faults) == 1 < len(table.rows) else faults[0]
        raise InputError(f"{read}; {then}" if form else f"{faults[0]}; mend the row or leave it out")


def _facts(split: Split) -> Iterator[str]:
    """What stands out in the examples of both sides."""
    examples = [*split.train, *split.test]
    yield from oddities(examples)
    (text, count), *_ = Counter(example.reference.strip() for example in examples).most_common(1)
    if count > max(1, _FREQUENT * len(examples)):
        yield f"the same reference stands in {_rows(count)}: {visible(_cut(text))!r}"
    words = {
        "prompts": [len(last_message(example).split()) for example in examples],
        "references": [len(example.reference.split()) for example in examples],
    }
    yield spread("words", words)


def _sides(recipe: Recipe, split: Split, train: int, tested: int, long: int = 0) -> Iterator[str]:
    """How many rows go where, and why; `long` are left out by the model's tokenizer."""
    wanted, held = recipe.data.held_out, len({example.id for example in split.test})
    why = ""
    if recipe.data.test_path:
        why = f" ({recipe.data.test_path})"
    elif held < wanted:
        why = f" (at most half of all prompts; data.held_out is {wanted})"
    yield f"{_rows(train)} to train on, {tested:,} held out for the evaluation{why}"
    limit = f"prompt too long (data.max_prompt_tokens is {recipe.data.max_prompt_tokens:,})"
    for reason, count in {**split.skipped, **({limit: long} if long else {})}.items():
        yield f"left out: {_rows(count)}, {reason}"


def _as_the_model_reads(recipe: Recipe, encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Lengths in tokens, what is cut or left out, and some rows with all their special tokens."""
    items = encoded.items
    tokens = {
        "prompts": [len(item.prompt_ids) for item in items],
        "references": [len(item.reference_ids) for item in items],
    }
    yield spread("tokens", tokens)
    longest, cut = recipe.data.max_prompt_tokens, encoded.truncated
    if cut and recipe.data.long_prompts == "truncate":
        yield f"cut on the left: {cut:,} prompts (data.max_prompt_tokens is {longest:,})"
    step = max(1, len(items) // _SHOWN_ROWS)
    yield "as the model reads them, prompt and reference:"
    for item in items[::step][:_SHOWN_ROWS]:
        yield f"  row {item.example.row}: {_shown(tokenizer, item.prompt_ids)}"
        yield f"    -> {_shown(tokenizer, item.reference_ids)}"


def _first_recipe(recipe: Recipe, split: Split, room: int) -> dict[str, Any]:
    """What is needed to train on the file, as the tree of a recipe; `room` is 0 where no model is known."""
    data, plain = recipe.data, type(recipe.data)(path=recipe.data.path)
    section: dict[str, Any] = {"path": data.path}
    names = [field.name for field in fields(data) if field.name not in ("path", "held_out")]
    section |= {name: getattr(data, name) for name in names if getattr(data, name) != getattr(plain, name)}
    if not data.test_path:
        section["held_out"] = len({example.id for example in split.test})
    tree: dict[str, Any] = {
        "model": {"path": recipe.model.path if room else "MODEL"},
        "data": section,
        "rewards": [_reward(split.train)],
    }
    if room:
        tree["rollout"] = {"max_new_tokens": room}
    return tree | {"output": "runs/first"} | ({"seed": recipe.seed} if recipe.seed else {})


def _reward(examples: Sequence[Example]) -> dict[str, Any]:
    """What can tell a good answer from a bad one: a rule where references are numbers or a few words, else a judge."""
    references = [example.reference.strip() for example in examples]
    if all(_NUMBER.fullmatch(text) for text in references):
        return {"rule": {"numeric": {}}}
    if all(len(text.split()) <= _SHORT for text in references):
        return {"rule": {"exact": {}}}
    return {"judge": {"model": "JUDGE", "base_url": "http://localhost:8000/v1", "api_key_env": None}}


def _room(items: Sequence[Encoded], longest: int | None) -> int:
    """Tokens of a completion: half as many again as nearly all references have, as far as the model goes."""
    lengths = sorted(len(item.reference_ids) for item in items)
    wanted = max(16, 1 << (lengths[int(0.98 * (len(lengths) - 1))] * 3 // 2 - 1).bit_length())
    return min(wanted, longest - max(len(item.prompt_ids) for item in items)) if longest else wanted


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count > 1 else ''}"


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return _cut(repr(str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))))


def _cut(text: str) -> str:
    half = _WIDTH // 2
    return text if len(text) <= _WIDTH else f"{text[:half]} ... {text[-half:]}"
