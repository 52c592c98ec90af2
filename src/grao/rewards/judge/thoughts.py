"""Separate thoughts from answers by the markers that chat templates put around thoughts.

Supported are `<think>` and its variants in several kinds of brackets, start and end tokens, and the channels of Harmony
and Gemma. Servers strip some markers, and templates write the opening one themselves, so a marker may be unpaired.
Everything runs in linear time.
"""

import re

_NAMES = r"(?:(?:seed:|ant)?think(?:ing)?|thoughts?|thought[_-]process|reason(?:ing)?|reflection|scratchpad|analysis)"
_MARK = re.compile(
    rf"""
    <(?:
        \|?(?P<slash>/?)(?P<tag>{_NAMES})(?![\w:-])(?![^<>\n]{{0,99}}/>)[^<>\n]{{0,100}}>?   # <think>, </Thinking >
        | \|(?P<edge>begin|start|end)(?:[_▁]of)?[_▁](?P<between>{_NAMES})\|>   # <|begin_of_thought|>, <|END_THINKING|>
        | \|channel\|?>\s*(?P<channel>\w*)                                     # <|channel|>analysis, <|channel>thought
        | (?P<closed>channel\|>)
    )
    | [\[◁](?P<bracket>/?)(?P<name>think(?:ing)?)[\]▷]                         # [THINK], ◁/think▷
    | \A\s*(?-i:analysis(?=[A-Z]))                                             # Harmony without its special tokens:
    | (?P<final>(?-i:assistantfinal))                                          # analysis...assistantfinal...
    """,
    re.IGNORECASE | re.VERBOSE,
)


def answer_after(text: str) -> str | None:
    """Return the text outside thinking blocks.

    A block ends with the first closing marker of its name. Text before a closing marker without an opening one is
    thoughts too.

    Returns:
        None if the last block is not closed, so that no answer follows.
    """
    answer: list[str] = []
    opened, start = "", 0
    for mark in _MARK.finditer(text):
        name, closes = _read(mark)
        if opened and not (closes and name == opened):
            continue
        if not opened and closes:
            answer.clear()
        elif not opened:
            answer.append(text[start : mark.start()])
        opened, start = "" if closes else name, mark.end()
    return None if opened else " ".join([*answer, text[start:]])


def end_of_thoughts(prompt: str) -> str:
    """Return the text that closes a thinking block which the prompt leaves open; empty if there is none."""
    if answer_after(prompt) is not None:
        return ""
    mark = [*_MARK.finditer(prompt)][-1]
    if mark["channel"]:
        return "<channel|>" if "<|channel>" in mark[0] else "<|end|><|start|>assistant<|channel|>final<|message|>"
    if mark["edge"]:
        return re.sub("(?i)begin|start", lambda word: "END" if word[0].isupper() else "end", mark[0])
    closing = re.sub(r"([<\[◁]\|?)([^\s>\]▷|]+).*?(\|?[>\]▷])", r"\1/\2\3", mark[0])
    return f"\n{closing}\n\n" if closing[0] == "<" else closing


def _read(mark: re.Match[str]) -> tuple[str, bool]:
    """Return the name of a marker, and whether it closes a block."""
    if name := mark["tag"] or mark["name"]:
        return name.lower(), bool(mark["slash"] or mark["bracket"])
    if name := mark["between"]:
        return name.lower(), mark["edge"].lower() == "end"
    return "channel", bool(mark["closed"] or mark["final"]) or (mark["channel"] or "").lower() == "final"
