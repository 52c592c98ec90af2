"""Hooks of the documentation build (`mkdocs.yml`).

On the code host, pages in docs/ link to source files and records of this repository. The built site does not contain
those files, so such a link becomes plain text there. A missing target is a warning, and warnings fail the build.
"""

import logging
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import drawings

_LOG = logging.getLogger("mkdocs.hooks.docs")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s]*)\)")
_LIST_ITEM = re.compile(r"^([-*]|\d+\.) ")


def on_pre_build(config) -> None:
    """Write the drawings before the pages are collected."""
    drawings.write()


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Return the page without links out of docs/ and with the blank line that Python-Markdown needs before a list."""
    docs, folder = Path(config.docs_dir), Path(page.file.abs_src_path).parent

    def without_link(match: re.Match) -> str:
        target = (folder / match[2].partition("#")[0]).resolve()
        if target.is_relative_to(docs):
            return match[0]
        if not target.exists():
            _LOG.warning("%s: the target of the link %s does not exist", page.file.src_uri, match[2])
        return match[1]

    return separated_lists(_LINK.sub(without_link, markdown))


def separated_lists(markdown: str) -> str:
    """Return the text with a blank line between a paragraph and a list that follows it directly."""
    lines: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        fenced ^= line.lstrip().startswith("```")
        before = lines[-1] if lines else ""
        if (
            not fenced
            and _LIST_ITEM.match(line)
            and before.strip()
            and not _LIST_ITEM.match(before)
            and not before.startswith(" ")
        ):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"
