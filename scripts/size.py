"""Size limits of the package, enforced by `make check`: lines of code, number of files, and length of a file.

Blank lines, comments and docstrings (also those of fields) do not count as code. A change that needs a higher limit
raises it in the same commit and gives the reason in the commit message.

    python scripts/size.py          the totals, and what exceeds a limit
    python scripts/size.py --all    the lines of every subpackage too
"""

import ast
import sys
import tokenize
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "grao"
CODE, FILES, LONGEST = 21_000, 220, 400
"""Limits: lines of code, number of files, and total lines of one file."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Number of lines of a file that hold code."""
    lines: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in _NO_CODE and token.type != tokenize.ENCODING:
                lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for statement in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                lines.difference_update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return len(lines)


def main(arguments: list[str]) -> int:
    """Print the totals; return 1 if a limit is exceeded."""
    files = sorted(PACKAGE.rglob("*.py"))
    code = {path: code_lines(path) for path in files}
    if "--all" in arguments:
        by_folder: Counter[str] = Counter()
        for path, count in code.items():
            by_folder[str(path.parent.relative_to(PACKAGE))] += count
        for folder, count in sorted(by_folder.items()):
            print(f"{folder:20}{count:7,}")
    total = sum(code.values())
    print(f"{total:,} lines of code (at most {CODE:,}) in {len(files)} files (at most {FILES})")
    long = {path: count for path in files if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST}
    for path, count in long.items():
        print(f"{path.relative_to(PACKAGE)} has {count} lines, more than {LONGEST}")
    return int(bool(long) or total > CODE or len(files) > FILES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
