"""The secured broker, started when the first test asks for it and ended with the last of pytest's workers; and on it
a journal, set up by the operator under the rights of SECURITY.md."""

from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest
from kafka.running import locked_file, shared_broker
from security import rights
from security.secured import Secured, lay_out, secured

from keylane.journal import AccessDenied, connect
from keylane.router.config import load_config
from keylane.router.setup import prepare

PARTITIONS = 2
SETTINGS = {"partitions": PARTITIONS}
DEADLINE_S = 30


@pytest.fixture(scope="session")
def secured_broker(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Secured]:
    """A real Kafka broker with TLS, SASL and an authorizer. Nobody has any right yet."""
    base = tmp_path_factory.getbasetemp()
    with shared_broker(base if worker_id == "master" else base.parent, "secured-broker", lay_out) as broker:
        yield secured(broker)


@pytest.fixture(scope="session")
def rightful(secured_broker: Secured) -> Secured:
    """The broker, with the rights given out and the topics made."""
    with locked_file(secured_broker.file("rights.lock")):
        rights.change(secured_broker, *rights.commands())
        anyio.run(set_up_when_known, secured_broker.url("operator"))
    return secured_broker


async def set_up_when_known(url: str) -> None:
    """The broker knows a moment later what its controller has written down; the operator's last right comes last."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            try:
                return await set_up(url)
            except AccessDenied:
                await anyio.lowlevel.checkpoint()


async def set_up(url: str) -> None:
    journal = await connect(url)
    try:
        await prepare(journal, load_config(None, {}, SETTINGS))
    finally:
        await journal.close()
