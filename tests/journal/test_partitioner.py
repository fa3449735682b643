"""The partitioner is Kafka's: the vectors are those of the Java client's own test (UtilsTest.testMurmur2)."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given
from hypothesis import strategies as st

from keylane.journal.partitioner import murmur2, partition_of

JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", JAVA)
def test_the_hash_is_the_java_client_s(key: bytes) -> None:
    assert murmur2(key) == JAVA[key] & 0xFFFFFFFF


@given(key=st.binary(max_size=600))
def test_the_hash_is_that_of_an_independent_client(key: bytes) -> None:
    assert murmur2(key) == murmur2_of_aiokafka(key) & 0xFFFFFFFF


@pytest.mark.requirement("M.1")
@given(key=st.binary(max_size=64), partitions=st.integers(1, 1000))
def test_a_key_has_one_partition_of_those_that_there_are(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == (murmur2_of_aiokafka(key) & 0x7FFFFFFF) % partitions
