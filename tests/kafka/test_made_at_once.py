"""Several processes set up one journal at once, as routers do that are started together on a new cluster."""

from collections.abc import Collection

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError
from kafka.conftest import Site

from keylane.journal._kafka_admin import TopicState
from keylane.journal.port import TopicSpec

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


async def test_a_topic_that_another_has_just_made_is_waited_for_before_it_is_compared(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker refuses to make it a second time before it can describe it."""
    journal = await site.journal()
    admin = journal._admin
    state, settings = admin.state, admin.settings
    looks = 0

    async def seen_later(topic: str) -> TopicState | None:
        nonlocal looks
        looks += 1
        return await state(topic) if looks > 2 else None

    async def unknown_at_first(topics: Collection[str]) -> dict[str, dict[str, str]]:
        if looks <= 2:
            raise UnknownTopicOrPartitionError()
        return await settings(topics)

    monkeypatch.setattr(admin, "state", seen_later)
    monkeypatch.setattr(admin, "settings", unknown_at_first)
    await journal.create_topics([TopicSpec(site.state, 2, compacted=True)])
    assert looks > 2
