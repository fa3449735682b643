"""The examples of docs/guards.md do what is said there, as they are written: they pass, and an older token does not."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest
from guards.api_server import BEARER, deployment, image_of
from guards.api_server import serving as cluster_serving
from guards.servers import Document, serving

from keylane.guards import StaleToken
from keylane.guards.sql import SqlGuard

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "guards.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in TEXT.split("\n## ")}
Deploy = Callable[[SimpleNamespace], None]


def run(section: str, number: int = 0, **given: Any) -> dict[str, Any]:
    """What a section's example defines, with what it takes as given."""
    exec(re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)[number], given)
    return given


def sql(folder: Path, stack: ExitStack) -> tuple[Deploy, Callable[[], str]]:
    connection = stack.enter_context(closing(sqlite3.connect(folder / "target.db")))
    connection.execute("CREATE TABLE deployment (image TEXT)")
    connection.execute("INSERT INTO deployment VALUES ('cart:v1')")
    example = run("SQL")
    example["guard"].create_table(connection)
    connection.commit()
    return (
        lambda item: example["deploy"](item, connection),
        lambda: connection.execute("SELECT image FROM deployment").fetchone()[0],
    )


def files(folder: Path, _: ExitStack) -> tuple[Deploy, Callable[[], str]]:
    return run("Files")["deploy"], (folder / "deployment.json").read_text


def http(folder: Path, stack: ExitStack) -> tuple[Deploy, Callable[[], str]]:
    with closing(sqlite3.connect(folder / "tokens.db")) as connection:
        SqlGuard(sqlite3).create_table(connection)
    document = Document("cart:v1")
    url = stack.enter_context(serving(run("HTTP", application=document)["application"]))
    return run("HTTP", 1, url=f"{url}/cart")["deploy"], lambda: document.text


def kubernetes(_: Path, stack: ExitStack) -> tuple[Deploy, Callable[[], str]]:
    cluster = stack.enter_context(cluster_serving())
    path, found = deployment("cart", "cart:v1")
    cluster.create(path, found)
    example = run("Kubernetes", api_server=cluster.url, bearer=BEARER)
    return example["deploy"], lambda: image_of(cluster.get(path))


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("example", [sql, files, http, kubernetes])
def test_an_example_passes_and_refuses_an_older_token(
    example: Callable[[Path, ExitStack], tuple[Deploy, Callable[[], str]]], tmp_path: Path, stack: ExitStack
) -> None:
    deploy, now = example(tmp_path, stack)
    deploy(SimpleNamespace(resource="deploy://cart", token=9))
    assert "cart:v2" in now()
    with pytest.raises((StaleToken, HTTPError)) as refused:
        deploy(SimpleNamespace(resource="deploy://cart", token=8))
    if isinstance(refused.value, HTTPError):
        with refused.value:
            assert refused.value.code == 412
    else:
        assert (refused.value.token, refused.value.highest) == (8, 9)
    deploy(SimpleNamespace(resource="deploy://cart", token=9))


def test_every_example_is_run() -> None:
    counts = {name: part.count("```python") for name, part in SECTIONS.items() if "```python" in part}
    assert counts == {"SQL": 1, "Files": 1, "HTTP": 2, "Kubernetes": 1}
