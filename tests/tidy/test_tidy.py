"""The rules of the layout (design section 6), read off the syntax trees: imports, sizes, docstrings."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "api": "keylane",
    **{name: f"keylane.{name}" for name in ("schemas", "journal", "telemetry", "router", "workers")},
    **{name: f"keylane.{name}" for name in ("guards", "verify")},
}
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ASIDE = [path for folder in ("tools", "bench") for path in (ROOT / folder).rglob("*.py")]
CODE = sorted([*SOURCES, *ASIDE, *(ROOT / "tests").rglob("*.py")])

FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400

API = "keylane"
LAYERS = {
    "schemas": {"keylane.schemas"},
    "journal": {"keylane.journal"},
    "router/core": {"keylane.router.core", "keylane.schemas"},
    "telemetry": {"keylane.telemetry"},
    "router": {"keylane.router", "keylane.schemas", "keylane.journal", "keylane.telemetry"},
    "guards": {"keylane.guards", "keylane.schemas"},
    "verify": {"keylane.verify", "keylane.schemas"},
    "workers": {"keylane.workers", "keylane.schemas", "keylane.journal", "keylane.telemetry"},
    "api": {API, "keylane.workers", "keylane.schemas", "keylane.journal", "keylane.telemetry", "keylane.verify"},
}
"""Which of our packages each folder may import. `keylane` alone is the modules of `api` itself."""
COMPOSITION_ROOT = ROOT / "api" / "embedded.py"
"""The one place outside the router that may import it."""
ALLOWED_OUTSIDE = {
    "schemas": {"msgspec", "yarl"},
    "router/core": {"msgspec"},
    "guards": {"anyio"},
    "verify": {"msgspec"},
}
"""What these folders may import beyond the standard library and ours; others may import any dependency."""
CLIENTS = {"aiokafka": "kafka", "apsw": "sqlite"}
"""Only modules of `journal` whose names begin so, or so after an underscore, may import these."""
IMPURE = {"time", "random", "asyncio", "anyio", "os", "datetime", "uuid", "secrets", "socket", "threading"}
ASYNCIO_IN = "kafka"
"""asyncio itself, and not anyio, only in modules of `journal` whose names begin so."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def folder_of(path: Path) -> str:
    name = name_of(path)
    return "router/core" if name.startswith("router/core/") else name.split("/", 1)[0]


def package_of(module: str) -> str:
    """`keylane.schemas.codec` is of `keylane.schemas`, `keylane.client` of `keylane`."""
    if module == "keylane.router.core" or module.startswith("keylane.router.core."):
        return "keylane.router.core"
    begin = ".".join(module.split(".")[:2])
    return begin if begin in FOLDERS.values() else API


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Each module that `path` imports, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, f"{name_of(path)}:{node.lineno}: relative import of another package"
            if node.level == 1:
                yield node.lineno, f"keylane.{folder_of(path).replace('/', '.')}"
            elif node.module == "keylane":
                yield from ((node.lineno, f"keylane.{alias.name}") for alias in node.names)
            elif node.module:
                yield node.lineno, node.module


def import_faults(path: Path) -> Iterator[str]:
    folder = folder_of(path)
    allowed = LAYERS[folder] | ({"keylane.router"} if path == COMPOSITION_ROOT else set())
    for line, module in imports(path):
        where, top = f"{name_of(path)}:{line}: ", module.split(".", 1)[0]
        if top == "keylane":
            if package_of(module) not in allowed and not (
                package_of(module) == "keylane.router.core" and "keylane.router" in allowed
            ):
                yield f"{where}{folder} may not import {module}"
            continue
        outside = ALLOWED_OUTSIDE.get(folder)
        if outside is not None and top not in sys.stdlib_module_names and top not in outside:
            yield f"{where}{folder} may not import {module}"
        if folder == "router/core" and top in IMPURE:
            yield f"{where}the core has no clock, chance or I/O, so not {module}"
        if top in CLIENTS and not (folder == "journal" and path.name.lstrip("_").startswith(CLIENTS[top])):
            yield f"{where}{module} belongs in journal/{CLIENTS[top]}*.py"
        if top == "asyncio" and not (folder == "journal" and path.name.lstrip("_").startswith(ASYNCIO_IN)):
            yield f"{where}anyio instead of asyncio, except in journal/{ASYNCIO_IN}*.py"


def size_faults(path: Path) -> Iterator[str]:
    text = path.read_text()
    if text.count("\n") > MODULE_LINES_MAX:
        yield f"{name_of(path)}: more than {MODULE_LINES_MAX} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{name_of(path)}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_each_folder_imports_only_what_its_layer_may(path: Path) -> None:
    assert list(import_faults(path)) == []


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_modules_and_functions_stay_readable_in_a_sitting(path: Path) -> None:
    assert list(size_faults(path)) == []


@pytest.mark.parametrize("path", [*SOURCES, *ASIDE], ids=name_of)
def test_each_module_says_what_lives_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


BREACHES = {
    "schemas/x.py": "import keylane.journal.port",
    "schemas/y.py": "import anyio",
    "journal/x.py": "from keylane.schemas import codec",
    "router/core/x.py": "from keylane.router import turn",
    "router/core/y.py": "import time",
    "router/core/z.py": "def now():\n    from datetime import datetime",
    "router/x.py": "from keylane.client import Client",
    "guards/x.py": "from keylane.client import Client",
    "guards/y.py": "import psycopg",
    "verify/x.py": "from keylane.router.core import lane",
    "verify/y.py": "from keylane.journal.partitioner import partition_of",
    "workers/x.py": "from keylane import client",
    "api/x.py": "from keylane.router.service import serve",
    "api/y.py": "import aiokafka",
    "api/z.py": "import asyncio",
    "journal/memory.py": "import apsw",
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_of_the_import_rules_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(BREACHES[name])
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert len(list(import_faults(path))) == 1


def test_a_function_that_is_too_long_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n" + "    pass\n" * FUNCTION_LINES_MAX)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert list(size_faults(path)) == [f"x.py:1: f has {FUNCTION_LINES_MAX + 1} lines"]
