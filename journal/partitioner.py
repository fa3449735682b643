"""Key to partition, as Kafka's default partitioner has it, so that clients in any language agree. Pure.

murmur2 with Kafka's seed (org.apache.kafka.common.utils.Utils.murmur2). Written out here, since the
Kafka client that has it too is an extra, and the other journals work without it.
"""

from __future__ import annotations

import struct
from functools import lru_cache

SEED = 0x9747B28C
M = 0x5BD1E995
MASK = 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition, from 0, of records with this key in a topic of `partitions` partitions (at least 1)."""
    return _positive_hash(key) % partitions


@lru_cache(maxsize=65_536)
def _positive_hash(key: bytes) -> int:
    return murmur2(key) & 0x7FFFFFFF


def murmur2(data: bytes) -> int:
    """The hash as an unsigned number of 32 bits; the Java client has it signed, with the same bits."""
    length = len(data)
    whole = length & ~3
    h = SEED ^ length
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = (k * M) & MASK
        h = (h * M) & MASK ^ (((k ^ (k >> 24)) * M) & MASK)
    if whole != length:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * M) & MASK
    h = ((h ^ (h >> 13)) * M) & MASK
    return h ^ (h >> 15)
