"""A test that names a row of the requirements names one that exists: a slip would hide what is not shown.

And each row that must be true on both backends has a test that runs on both, as pytest itself collects them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

Rows = dict[str, frozenset[str]]

TESTS = Path(__file__).resolve().parents[1]


def rows() -> dict[str, set[str]]:
    """What `requirements_rows.py` lists. Read, not imported: `tests` is not a package."""
    scope: Rows = {}
    exec(compile((TESTS / "requirements_rows.py").read_text(), "requirements_rows.py", "exec"), scope)
    return {name: set(scope[name]) for name in ("ROWS", "ON_BOTH_BACKENDS", "NO_STORY", "BACKENDS")}


def listed() -> set[str]:
    return rows()["ROWS"]


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


def listing() -> list[str]:
    """What `pytest -m requirement` lists. `-P`: the folders of the checkout are no packages."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-m",
        "requirement",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.partition(" requirements ")[2].splitlines()


def on_both(lines: list[str], backends: set[str]) -> dict[str, set[str]]:
    """By row: the tests that were collected on every backend."""
    found: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        words = line.split()
        if len(words) == 3 and set(words[1].split(",")) == backends:
            found[words[0]].add(words[2])
    return found


def test_each_row_is_shown_on_both_backends() -> None:
    known, lines = rows(), listing()
    shown = on_both(lines, known["BACKENDS"])
    assert not known["ON_BOTH_BACKENDS"] - shown.keys()
    told = {line.split()[0] for line in lines if "tests/scenarios/" in line}
    assert known["ON_BOTH_BACKENDS"] - told == known["NO_STORY"]


def test_a_row_that_is_shown_on_one_backend_only_is_seen() -> None:
    lines = [
        "====",
        "M.1   sqlite,kafka  tests/a.py::test_a",
        "M.2   kafka   tests/a.py::test_b",
        "M.3  -  tests/a.py::c",
    ]
    assert on_both(lines, {"sqlite", "kafka"}) == {"M.1": {"tests/a.py::test_a"}}
