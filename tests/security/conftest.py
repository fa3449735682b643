"""The secured broker, started when the first test asks for it and ended with the last of pytest's workers."""

from collections.abc import Iterator

import pytest
from kafka.running import shared_broker
from security.secured import Secured, lay_out, secured


@pytest.fixture(scope="session")
def secured_broker(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Secured]:
    """A real Kafka broker with TLS, SASL and an authorizer."""
    base = tmp_path_factory.getbasetemp()
    with shared_broker(base if worker_id == "master" else base.parent, "secured-broker", lay_out) as broker:
        yield secured(broker)
