"""Imports of the product code: no circles between files or folders at any level, and no module path in a string that is imported later."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "infra", "streams", "workers", "trainer", "traffic", "pico", "bench", "lab", "cli")


@cache
def modules() -> dict[str, ast.Module]:
    """Every product module by its dotted name; a package's name stands for its `__init__`."""
    trees = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return trees


def imported(tree: ast.Module) -> Iterator[str]:
    """The project's modules that a module imports anywhere, inside functions too. Imports for type checkers count as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules() else node.module for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in modules())


def edges(folder: str) -> dict[str, set[str]]:
    """Imports between the direct children of `folder`, files or folders, by their names; between the packages for the empty name."""
    prefix = f"{folder}." if folder else ""
    graph: dict[str, set[str]] = {}
    for module, tree in modules().items():
        if module.startswith(prefix):
            child = module.removeprefix(prefix).split(".")[0]
            others = {name.removeprefix(prefix).split(".")[0] for name in imported(tree) if name.startswith(prefix)}
            graph.setdefault(child, set()).update(others - {child})
    return graph


def folders() -> list[str]:
    return ["", *sorted({name.rpartition(".")[0] for name in modules() if "." in name})]


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder or "packages")
def test_no_import_circle(folder: str) -> None:
    try:
        TopologicalSorter(edges(folder)).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        pytest.fail(f"import circle in {folder or 'the packages'}: {circle}")


def test_no_module_path_in_a_string() -> None:
    """`import_module` takes no path of ours, and no string names a module, but in the command line of a process (`-m`) or a docstring."""
    strings = [f"{module}:{node.lineno}: {node.value!r}" for module, tree in modules().items() for node in _module_strings(tree)]
    assert strings == []


def _module_strings(tree: ast.Module) -> Iterator[ast.Constant]:
    allowed = {id(constant) for constant in _process_modules(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in allowed:
            name = node.value.partition(":")[0]
            if "." in name and name in modules():
                yield node


def _process_modules(tree: ast.Module) -> Iterator[ast.Constant]:
    """The strings that follow "-m" in a list or tuple, and the logger names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            for before, after in zip(node.elts, node.elts[1:], strict=False):
                if isinstance(before, ast.Constant) and before.value == "-m" and isinstance(after, ast.Constant):
                    yield after
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "getLogger":
            yield from (argument for argument in node.args if isinstance(argument, ast.Constant))


def test_the_check_finds_a_circle_and_a_string() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    tree = ast.parse('load("trainer.run.service")\nrun([python, "-m", "trainer.promotion"])')
    assert [node.value for node in _module_strings(tree)] == (["trainer.run.service"] if "trainer.run.service" in modules() else [])
