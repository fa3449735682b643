"""Several processes set up one journal at once, as routers do that are started together on a new cluster."""

from collections.abc import Collection, Sequence

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError
from kafka.conftest import Site

from keylane.journal._kafka_admin import Described
from keylane.journal.port import TopicSpec

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


async def test_a_topic_that_another_has_just_made_is_waited_for_before_it_is_compared(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker refuses to make it a second time before it can describe it."""
    journal = await site.journal()
    admin = journal._admin
    describe, settings = admin.describe, admin.settings
    looks = 0

    async def seen_later(topics: Sequence[str] | None) -> Described:
        nonlocal looks
        looks += 1
        found = await describe(topics)
        return found if looks > 2 else found._replace(topics={})

    async def unknown_at_first(topics: Collection[str]) -> dict[str, dict[str, str]]:
        if looks <= 2:
            raise UnknownTopicOrPartitionError()
        return await settings(topics)

    monkeypatch.setattr(admin, "describe", seen_later)
    monkeypatch.setattr(admin, "settings", unknown_at_first)
    await journal.create_topics([TopicSpec(site.state, 2, compacted=True)])
    assert looks > 2
