"""Topics as the design wants them, positions outside the log, and what the adapter refuses to start with."""

import subprocess
import sys

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource
from kafka.conftest import Site

from keylane.journal._kafka_admin import Admin
from keylane.journal._kafka_connection import Cluster
from keylane.journal.connect import connect
from keylane.journal.errors import BadUrl, PositionLost, TopicMismatch
from keylane.journal.port import Place, Record, TopicSpec

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


async def test_topics_get_the_settings_that_they_were_specified_with(site: Site) -> None:
    found = await Admin(Cluster((f"127.0.0.1:{site.broker.port}",))).settings(
        [site.full(topic) for topic in (site.requests, site.events, site.state)]
    )
    assert found[site.full(site.requests)]["cleanup.policy"] == "delete"
    assert found[site.full(site.requests)]["retention.ms"] == "-1"
    # Kafka counts a batch's framing; a record of exactly the specified size must pass.
    assert found[site.full(site.requests)]["max.message.bytes"] == str(256 * 1024 + 512)
    assert found[site.full(site.events)]["retention.ms"] == "3600000"
    assert found[site.full(site.events)]["max.message.bytes"] == str(1024 * 1024 + 512)
    assert found[site.full(site.state)]["cleanup.policy"] == "compact"
    # With Kafka's defaults a lane's small turns pile up uncompacted (kafka-facts).
    assert found[site.full(site.state)]["segment.bytes"] == str(32 * 1024 * 1024)
    assert found[site.full(site.state)]["min.cleanable.dirty.ratio"] == "0.1"


async def test_a_record_of_exactly_the_specified_size_passes(site: Site) -> None:
    journal = await site.journal()
    largest = Record(site.requests, 0, b"k", b"x" * (256 * 1024 - 1))
    assert await journal.append([largest]) == [0]


async def test_topics_that_differ_are_refused_and_equal_ones_accepted(site: Site) -> None:
    journal = await site.journal()
    await journal.create_topics([TopicSpec(site.state, 2, compacted=True)])
    with pytest.raises(TopicMismatch, match="2 partitions, not 3"):
        await journal.create_topics([TopicSpec(site.state, 3, compacted=True)])
    with pytest.raises(TopicMismatch, match=r"cleanup\.policy compact, not delete"):
        await journal.create_topics([TopicSpec(site.state, 2)])


async def test_a_topic_that_keeps_foreign_compression_is_refused(site: Site) -> None:
    """A codec that is not installed here would stop every lane that reads it."""
    journal = await site.journal()
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{site.broker.port}")
    await admin.start()
    await admin.alter_configs([ConfigResource("topic", site.full(site.requests), {"compression.type": "producer"})])
    await admin.close()
    with pytest.raises(TopicMismatch, match=r"compression\.type producer, not uncompressed"):
        await journal.create_topics([TopicSpec(site.requests, 2)])


async def test_positions_outside_the_log_are_lost_and_not_moved(site: Site) -> None:
    """aiokafka with a reset policy would go on at the log's start without a word: silently lost input."""
    journal = await site.journal()
    await journal.append([Record(site.requests, 0, None, b"%d" % i) for i in range(10)])
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{site.broker.port}")
    await admin.start()
    await admin.delete_records({TopicPartition(site.full(site.requests), 0): RecordsToDelete(before_offset=4)})
    await admin.close()
    session = await site.claim(journal)

    with pytest.raises(PositionLost, match="before the log's start 4"):
        await session.seek({site.requests: 3})
    with pytest.raises(PositionLost, match="after the log's end 10"):
        await session.seek({site.requests: 11})
    await session.seek({site.requests: 4})
    assert [record.offset for record in await session.poll(100, 10)] == [4, 5, 6, 7, 8, 9]
    with pytest.raises(PositionLost):
        await journal.reader({Place(site.requests, 0): 3})
    reader = await journal.reader({Place(site.requests, 0): 11})
    with pytest.raises(PositionLost):
        for _ in range(100):
            await reader.poll(100, 0.1)
    await reader.close()


@pytest.mark.parametrize(
    "url",
    ["kafka://", "kafka://host/path", "kafka://host?prefx=a", "kafka://host?session_timeout_ms=soon"],
)
async def test_a_url_that_is_wrong_is_refused_with_its_form(url: str) -> None:
    with pytest.raises(BadUrl, match=r"form|options"):
        await connect(url)


def test_kafka_is_refused_without_assertions() -> None:
    """aiokafka's transaction state machine is assertions; `python -O` would drop them."""
    code = (
        "import asyncio; from keylane.journal.connect import connect; "
        "from keylane.journal.errors import BadUrl\n"
        "try: asyncio.run(connect('kafka://127.0.0.1:1'))\n"
        "except BadUrl as refused: print(refused)"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True)
    assert "python -O" in done.stdout
