"""The public interface, which docs/reference lists, is documented completely.

Of each function and method: every argument, the return value, and each exception that its own body raises; one argument
may be explained by the summary alone. Of each class: what it is, and every field. A method that overrides a documented
one need not repeat its arguments, and a summary that says what is returned documents the return value.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest

import grao
import grao.core

ROOT = Path(__file__).resolve().parents[1]
LISTED = sorted(
    {
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
)
FOREIGN = {
    "GRAOTrainer": {"training_step", "get_train_dataloader", "log", "save_model"},
    "Watch": {"on_train_begin", "on_step_end"},
}
"""Methods whose arguments transformers documents."""


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    return griffe.load("grao", search_paths=[ROOT / "src"], docstring_parser="google")


def members(thing: griffe.Object) -> Iterator[griffe.Object]:
    """A public object, and the public ones defined in it."""
    yield thing
    for name, member in thing.members.items():
        if not name.startswith("_") and not member.is_alias and (thing.is_class or thing.is_module):
            yield from members(member)


def overrides(method: griffe.Object) -> bool:
    """Whether a class above declares the method, in this package or in transformers."""
    owner = method.parent
    if not owner or not owner.is_class:
        return False
    return method.name in FOREIGN.get(owner.name, ()) or any(method.name in base.members for base in owner.mro())


def raised(function: griffe.Function) -> set[str]:
    """Names of the exceptions that the body itself raises."""
    (definition,) = ast.parse(textwrap.dedent(function.source)).body
    names, pending = set(), list(definition.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Raise) and node.exc:
            names.add(ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc))
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))
    return names


def faults(thing: griffe.Object) -> Iterator[str]:
    """What is missing in the docstring of one object."""
    if not thing.docstring or not thing.docstring.value.strip():
        is_field = thing.is_attribute and thing.parent.is_class and "__init__" not in thing.parent.members
        is_field &= not re.search(r"\w(Config|Section)\b", str(thing.annotation))  # a section is documented as a class
        if (is_field or not thing.is_attribute) and not overrides(thing):
            yield "no docstring"
        return
    if not thing.is_function or overrides(thing):
        return
    sections = {section.kind.value: section.value for section in thing.docstring.parse("google")}
    arguments = {item.name.lstrip("*") for item in sections.get("parameters", [])}
    wanted = {parameter.name for parameter in thing.parameters if parameter.name not in ("self", "cls")}
    if len(wanted) > 1 and (missing := sorted(wanted - arguments)):
        yield f"Args: {', '.join(missing)}"
    summary = thing.docstring.value.partition("\n\n")[0]
    said = sections.keys() & {"returns", "yields"} or re.search(r"\b(return|estimate|limits|p-value)", summary.lower())
    if len(wanted) > 1 and str(thing.returns) != "None" and not said:
        yield "Returns"
    documented = {str(item.annotation) for item in sections.get("raises", [])}
    if missing := sorted(raised(thing) - documented - {"NotImplementedError"}):
        yield f"Raises: {', '.join(missing)}"


@pytest.mark.parametrize("name", LISTED)
def test_docstrings_are_complete(package: griffe.Module, name: str):
    thing = package[name.removeprefix("grao.")]
    said = [f"{each.path}: {fault}" for each in members(thing) for fault in faults(each)]
    assert not said, "\n".join(said)


def test_everything_public_is_listed():
    """All that `grao` and `grao.core` export stands in docs/reference, by itself or with its module."""
    for module in (grao, grao.core):
        for name in module.__all__:
            thing = getattr(module, name)
            home = getattr(thing, "__module__", module.__name__)
            assert {f"{home}.{name}", home} & set(LISTED) or name == "ADVANTAGES", f"{home}.{name}"
