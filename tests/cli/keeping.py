"""Credentials of a test, and processes that keep some."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from keylane.credentials import KeptSession
from keylane.locks import Credential

URL, KEY = "sqlite:///tmp/here.db", "deploy://api"


def credential(session: KeptSession, key: str = KEY, token: int = 7) -> Credential:
    return Credential(
        resource=key, run="r", token=token, session=session.id, secret=session.secret, hold="", holder="me",
        acquired="2026-11-25T00:00:00.000Z", ttl_ms=1_000,
    )  # fmt: skip


def everything_in(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def script(text: str, folder: Path) -> subprocess.Popen[bytes]:
    begin = "import os, sys\nfrom pathlib import Path\nfrom keylane.credentials import Credentials\n"
    begin += f"kept = Credentials(Path({str(folder)!r}), {URL!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", begin + text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
