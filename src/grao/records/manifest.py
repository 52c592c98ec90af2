"""`manifest.json`: what a run was told, on what it ran, and how it ended."""

import json
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from grao.records.files import replace_text

Manifest = dict[str, Any]

_PACKAGES = ("grao", "torch", "transformers", "accelerate", "datasets", "peft", "numpy")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes it whole or not at all."""
    replace_text(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """None where there is none."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def update_manifest(folder: Path, **values: Any) -> None:
    """Sets some of its keys."""
    write_manifest(folder, {**(read_manifest(folder) or {}), **values})


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def installed_versions(*more: str) -> dict[str, str]:
    """Of the packages that decide a result, and of some more."""
    found = {}
    for name in (*_PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_revision(folder: Path | None = None) -> str | None:
    """Revision of the checkout around `folder` (the working directory), with `-dirty` if it has changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
