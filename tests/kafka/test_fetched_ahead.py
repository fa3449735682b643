"""What comes while nobody polls comes with the next poll, and not one turn later for each fetch that it took."""

import anyio
import pytest
from kafka.conftest import Site

from keylane.journal import _kafka_reader
from keylane.journal._kafka_reader import KafkaReader
from keylane.journal.port import Place, Record

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


async def test_a_poll_has_all_that_came_since_the_last_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka fetches ahead what comes first, and asks for no more until that is taken."""
    # However slow this machine is just now.
    monkeypatch.setattr(_kafka_reader, "FRESH_S", 5.0)
    monkeypatch.setattr(_kafka_reader, "AT_ONCE_S", 1.0)
    journal = await site.journal()
    place = Place(site.requests, 0)
    reader = await journal.reader({place: None})
    assert isinstance(reader, KafkaReader)
    assert await reader.poll(100, 0.1) == []
    await journal.append([Record(site.requests, 0, b"k", b"first")])
    with anyio.fail_after(10):
        while not reader._consumer._fetcher._records:  # type: ignore[attr-defined]  # noqa: ASYNC110 (it has no event)
            await anyio.sleep(0.001)
    await journal.append([Record(site.requests, 0, b"k", b"%d" % number) for number in range(9)])
    found = await reader.poll(100, 1.0)
    assert [each.value for each in found] == [b"first", *(b"%d" % number for number in range(9))]
    await reader.close()
