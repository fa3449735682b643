"""Every kind of target, guarded and not, each a text that is read and written: what `holder` changes.

The same two writes reach both, with the same tokens; the guard is all that differs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import psycopg
from guards.api_server import BEARER, image_of, set_image

from keylane.guards import StaleToken, files
from keylane.guards.http import token_headers
from keylane.guards.kubernetes import HttpObject, change
from keylane.guards.sql import SqlGuard

RESOURCE = "deploy://cart"
BEFORE = "v0"
KINDS = ("sqlite", "postgres", "files", "http", "kubernetes")


class Target(NamedTuple):
    read: Callable[[], str]
    write: Callable[[str, int], None]
    """The text and the token. Raises StaleToken, or what a client gets in its place."""


def target(kind: str, at: str, guarded: bool) -> Target:
    """The one at `at`: a file, a URL, or what psycopg connects to."""
    made: dict[str, Callable[[str, bool], Target]] = {
        "sqlite": _sqlite,
        "postgres": _postgres,
        "files": _file,
        "http": _http,
        "kubernetes": _kubernetes,
    }
    return made[kind](at, guarded)


def outcome(write: Callable[[], None]) -> str:
    """`written`, or the code and the message of the refusal."""
    try:
        write()
    except StaleToken as stale:
        return f"{stale.code}: {stale.message}"
    except HTTPError as error:
        with error:
            said = json.load(error)["error"]
        return f"{said['code']}: {said['message']}"
    return "written"


def table(guarded: bool) -> str:
    return "guarded" if guarded else "plain"


def _sqlite(at: str, guarded: bool) -> Target:
    def read() -> str:
        with closing(sqlite3.connect(at)) as connection:
            return str(connection.execute(f"SELECT body FROM {table(guarded)}").fetchone()[0])

    def write(text: str, token: int) -> None:
        with closing(sqlite3.connect(at)) as connection, connection:
            if guarded:
                SqlGuard(sqlite3).check(connection, RESOURCE, token)
            connection.execute(f"UPDATE {table(guarded)} SET body = ?", (text,))

    return Target(read, write)


def _postgres(at: str, guarded: bool) -> Target:
    def read() -> str:
        with psycopg.connect(at) as connection:
            row: Any = connection.execute(f"SELECT body FROM {table(guarded)}").fetchone()  # type: ignore[arg-type]
            return str(row[0])

    def write(text: str, token: int) -> None:
        with psycopg.connect(at) as connection:
            if guarded:
                SqlGuard(psycopg).check(connection, RESOURCE, token)
            connection.execute(f"UPDATE {table(guarded)} SET body = %s", (text,))  # type: ignore[arg-type]

    return Target(read, write)


def _file(at: str, guarded: bool) -> Target:
    def write(text: str, token: int) -> None:
        if guarded:
            files.write(at, text.encode(), token)
            return
        new = Path(f"{at}.new")
        new.write_text(text)
        os.replace(new, at)

    return Target(Path(at).read_text, write)


def _http(at: str, guarded: bool) -> Target:
    """Guarded or not by the server: what a client sends is the same."""

    def ask(method: str, headers: dict[str, str], body: bytes | None) -> str:
        request = urllib.request.Request(at, data=body, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(response.read().decode())

    def write(text: str, token: int) -> None:
        ask("PUT", token_headers(token), text.encode())

    return Target(lambda: ask("GET", {}, None), write)


def _kubernetes(at: str, guarded: bool) -> Target:
    """Without the guard as clients do it: on a conflict they read again and write."""
    found = HttpObject(at, headers={"Authorization": f"Bearer {BEARER}"})

    def write(text: str, token: int) -> None:
        if guarded:
            change(found.read, found.replace, token, lambda object: set_image(object, text))
            return
        for _ in range(5):
            object = found.read()
            set_image(object, text)
            try:
                found.replace(object)
                return
            except HTTPError as error:
                if error.code != 409:
                    raise
        raise AssertionError("five conflicts")

    return Target(lambda: image_of(found.read()), write)
