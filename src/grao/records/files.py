"""Files of a run folder that are written whole or not at all."""

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Puts the text in the place of what was there; until it is complete on disk, the old file stays."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
