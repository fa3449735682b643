"""A producer may compress, with a codec that routers do not have: the broker stores what it sends uncompressed."""

from __future__ import annotations

import shutil
import subprocess

import anyio
import anyio.to_thread
import pytest
from kafka.running import LIB, Broker

from keylane.journal.connect import connect
from keylane.journal.port import Stored, TopicSpec

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


def produce(broker: Broker, topic: str, codec: str) -> None:
    java = shutil.which("java")
    assert java is not None
    command = [java, "-cp", f"{LIB}/*", "org.apache.kafka.tools.ConsoleProducer"]
    command += ["--bootstrap-server", f"127.0.0.1:{broker.port}", "--topic", topic, "--compression-codec", codec]
    done = subprocess.run(command, input=b"x" * 10_000, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_what_a_producer_compressed_is_read(kafka_broker: Broker, worker_id: str, codec: str) -> None:
    prefix = f"{codec}-{worker_id}."
    journal = await connect(f"{kafka_broker.url}?prefix={prefix}")
    try:
        await journal.create_topics([TopicSpec("requests", 1), TopicSpec("state", 1, compacted=True)])
        session = await journal.claim(0, ["requests"], "state")
        await session.seek({})
        await anyio.to_thread.run_sync(produce, kafka_broker, f"{prefix}requests", codec)
        found: list[Stored] = []
        with anyio.fail_after(20):
            while not found:
                found = await session.poll(10, 1.0)
    finally:
        await journal.close()
    assert [stored.value for stored in found] == [b"x" * 10_000]
