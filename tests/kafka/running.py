"""The broker that the tests share: one, on free ports, in its own folder, however many workers pytest has.

Whoever comes first starts it and whoever leaves last stops it; a lock file and a count keep them apart.
Where it cannot run the tests fail, for a skipped contract is an unkept one.
"""

import fcntl
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import anyio

from keylane.journal import Journal, Place
from keylane.journal.kafka import KafkaJournal

OPEN_TRANSACTION_S = 5.0
TOOL = Path(__file__).resolve().parents[2] / "tools" / "kafka" / "broker.py"
LIB = TOOL.parents[2] / ".kafka" / "lib"


class Broker(NamedTuple):
    """`proxy_port` is where clients of the listener at `behind_proxy_port` are sent: see `proxy.py`."""

    port: int
    proxy_port: int
    behind_proxy_port: int
    folder: str

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return int((Path(self.folder) / "pid").read_text())


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def tool(command: str, broker: Broker) -> None:
    options = ["--port", broker.port, "--dir", broker.folder]
    options += ["--proxy-port", broker.proxy_port, "--behind-proxy-port", broker.behind_proxy_port]
    done = subprocess.run(
        [sys.executable, TOOL, command, *map(str, options)], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"no Kafka for the tests: {done.stderr}")


async def settled(journal: Journal, place: Place) -> None:
    """Wait until no transaction is open any more: a broker answers a commit before it has written its last marker.

    For as long as a broker takes to end one that was left open; who reads on then sees what may be seen.
    """
    assert isinstance(journal, KafkaJournal)
    with anyio.move_on_after(OPEN_TRANSACTION_S):
        while await journal.end_positions([place]) != await journal._high_watermarks([place]):  # noqa: ASYNC110
            await anyio.sleep(0.01)  # between questions to the broker, which does not tell of it


@contextmanager
def shared_broker(
    shared: Path, name: str = "kafka-broker", lay_out: Callable[[Broker], None] | None = None
) -> Iterator[Broker]:
    """A running broker, shared by all that name the folder `shared`. `lay_out` may write its properties beforehand."""
    note, lock = shared / f"{name}.json", shared / f"{name}.lock"
    with locked_file(lock):
        users, broker = json.loads(note.read_text()) if note.exists() else (0, None)
        if broker is None:
            broker = Broker(*free_ports(3), str(shared / name))
            if lay_out is not None:
                lay_out(broker)
        broker = Broker(*broker)
        tool("up", broker)
        note.write_text(json.dumps([users + 1, broker]))
    try:
        yield broker
    finally:
        with locked_file(lock):
            users = json.loads(note.read_text())[0] - 1
            note.write_text(json.dumps([users, broker]))
            if not users:
                tool("down", broker)


@contextmanager
def own_broker(folder: Path) -> Iterator[Broker]:
    """A running broker that nobody else has, to be ended, paused and started again (`tool`) by who asked for it."""
    broker = Broker(*free_ports(3), str(folder / "kafka-broker"))
    tool("up", broker)
    try:
        yield broker
    finally:
        tool("down", broker)


@contextmanager
def locked_file(path: str | Path) -> Iterator[None]:
    with Path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
