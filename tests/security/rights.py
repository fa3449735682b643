"""The rights as SECURITY.md has them: its table, its commands, and giving rights out by those very commands."""

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kafka.running import LIB
from security.secured import Secured

TEXT = (Path(__file__).resolve().parents[2] / "SECURITY.md").read_text()
PREFIX = "keylane."
OPEN_NAME = re.compile(r"…$")
IMPLIED = {
    "Read": {"Describe"},
    "Write": {"Describe"},
    "AlterConfigs": {"DescribeConfigs"},
}
"""What Kafka gives with a right (AclEntry.java, KIP-133)."""


class Resource(NamedTuple):
    """What rights are on: a `topic`, `group` or `transactional id`, by its name on the cluster."""

    kind: str
    name: str


def table() -> dict[tuple[str, Resource], frozenset[str]]:
    """Of each user and resource, what is allowed, with what that implies. A name left open is given an end."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]
    (_, *users), _, *body = rows
    found = {}
    for on, *cells in body:
        kind, name = re.fullmatch(r"(?:(group|transactional id) )?`(.+)`", on).groups()  # type: ignore[union-attr]
        resource = Resource(kind or "topic", PREFIX + OPEN_NAME.sub("99", name))
        for user, cell in zip(users, cells, strict=True):
            rights = set(cell.split())
            found[user, resource] = frozenset(rights.union(*(IMPLIED.get(right, set()) for right in rights)))
    return found


def commands() -> list[list[str]]:
    """The arguments of each `allow`."""
    lines = [shlex.split(line) for line in TEXT.splitlines() if line.startswith("allow User:")]
    return [["--add", "--allow-principal", *line[1:]] for line in lines]


def change(secured: Secured, *changes: Sequence[str]) -> None:
    """What `kafka-acls.sh` would do with these arguments, one after the other."""
    server = ["--bootstrap-server", f"127.0.0.1:{secured.ports['OPEN']}"]
    lines = "".join("\t".join([*server, *arguments]) + "\n" for arguments in changes)
    done = subprocess.run(
        ["java", "-cp", f"{LIB}/*", Path(__file__).with_name("Rights.java")],
        input=lines, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "Error" not in done.stdout, done.stdout + done.stderr
