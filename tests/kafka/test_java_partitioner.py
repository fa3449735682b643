"""Our partitioner against the Java client's own answer, so that clients in any language meet in one lane."""

import base64
import random
import subprocess
from pathlib import Path

import pytest
from kafka.running import LIB, Broker

from keylane.journal.partitioner import partition_of

pytestmark = pytest.mark.kafka

KEYS = [
    b"",
    b"a",
    b"github://acme/app/issues/42",
    "deploy://größe/naïve/名前/🚀".encode(),
    "k8s://prod/pods/e\u0301/\u00e9".encode(),
    b"\x00\xff\xfe\x80",
    b"arn:aws:s3:::bucket/key",
]


def test_keys_go_where_the_java_client_puts_them(kafka_broker: Broker) -> None:
    """Random bytes of every length modulo four (the hash treats the tail apart) and non-ASCII text."""
    chance = random.Random(3)
    keys = KEYS + [chance.randbytes(length) for length in range(200) for _ in range(10)]
    asked = [(key, chance.choice([1, 2, 7, 8, 12, 64, 1000])) for key in keys]
    lines = "".join(f"{base64.b64encode(key).decode()} {partitions}\n" for key, partitions in asked)
    source = Path(__file__).with_name("Partitions.java")
    done = subprocess.run(["java", "-cp", f"{LIB}/*", source], input=lines, capture_output=True, text=True, check=True)
    assert [partition_of(key, partitions) for key, partitions in asked] == list(map(int, done.stdout.split()))
