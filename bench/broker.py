"""One Kafka broker for the measurements, by `tools/kafka/broker.py`; and topics as the other sides need them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.processes import ROOT, Failed
from bench.writing import prefix_of, servers_of

TOOL = ROOT / "tools" / "kafka" / "broker.py"
LIB = ROOT / ".kafka" / "lib"
"""Where `make jars` puts them."""


class Broker(NamedTuple):
    """Where it listens, and its pid."""

    servers: str
    pid: int

    def url(self, prefix: str) -> str:
        """A journal of its own on this broker."""
        return f"kafka://{self.servers}?prefix={prefix}."


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running() -> Iterator[Broker]:
    """A broker on a free port with an empty data folder, which is removed again at the end."""
    port = free_port()
    with TemporaryDirectory(dir=LIB.parent, prefix="bench-") as folder:
        tool("up", port, folder)
        try:
            yield Broker(f"127.0.0.1:{port}", int((Path(folder) / "pid").read_text()))
        finally:
            tool("down", port, folder)


def tool(command: str, port: int, folder: str) -> None:
    """`up` or `down`, with the broker's data in `folder`. Raises `Failed`."""
    arguments = [sys.executable, str(TOOL), command, "--port", str(port), "--dir", folder]
    done = subprocess.run(arguments, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Failed(f"no Kafka to measure on: {done.stderr}")


async def make_topics(url: str, names: Sequence[str], partitions: int) -> None:
    """Under the prefix of a journal's URL."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers_of(url))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(prefix_of(url) + name, partitions, 1) for name in names])
    finally:
        await admin.close()


async def drop_topics(broker: Broker, prefix: str) -> None:
    """What a run wrote is not kept: a round writes gigabytes."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if name.startswith(prefix)]
        await admin.delete_topics(names)
    finally:
        await admin.close()
