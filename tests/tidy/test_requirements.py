"""A test that names a row of the requirements names one that exists: a slip would hide what is not shown."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def listed() -> set[str]:
    """Read, not imported: `tests` is not a package."""
    scope: dict[str, frozenset[str]] = {}
    exec(compile((TESTS / "requirements_rows.py").read_text(), "requirements_rows.py", "exec"), scope)
    return set(scope["ROWS"])


def named(text: str) -> Iterator[str]:
    """The rows in every call of `….mark.requirement(…)`. What is no plain string yields its source."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "requirement":
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            assert arguments, "requirement() names no row"
            for argument in arguments:
                plain = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                yield argument.value if plain else ast.unparse(argument)


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.name)
def test_the_rows_that_tests_name_exist(path: Path) -> None:
    assert set(named(path.read_text())) <= listed()


def test_a_row_that_does_not_exist_is_seen() -> None:
    assert set(named('@pytest.mark.requirement("S9.9")\ndef test(): pass')) - listed() == {"S9.9"}
