"""Where a model thinks and where it answers, told by the marks that chat templates put around thoughts.

`<think>` and its relatives in several brackets, start and end tokens, Harmony's and Gemma's channels. Servers strip
some of the marks and templates write the opening one themselves, so a mark may stand alone. All takes linear time.
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
    """What is not thought: the text outside blocks, and only what follows a mark that closes what nothing opened.

    A block ends with the first closing mark of its own name.

    Returns:
        None if the last block never ends: these are thoughts, and no answer followed.
    """
    said: list[str] = []
    opened, start = "", 0
    for mark in _MARK.finditer(text):
        name, closes = _read(mark)
        if opened and not (closes and name == opened):
            continue
        if not opened and closes:
            said.clear()
        elif not opened:
            said.append(text[start : mark.start()])
        opened, start = "" if closes else name, mark.end()
    return None if opened else " ".join([*said, text[start:]])


def end_of_thoughts(prompt: str) -> str:
    """What a prompt has to be continued with for the answer to begin: nothing, or the end of a block that it opens."""
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
    """The name of a mark, and whether it closes a block."""
    if name := mark["tag"] or mark["name"]:
        return name.lower(), bool(mark["slash"] or mark["bracket"])
    if name := mark["between"]:
        return name.lower(), mark["edge"].lower() == "end"
    return "channel", bool(mark["closed"] or mark["final"]) or (mark["channel"] or "").lower() == "final"
