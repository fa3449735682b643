"""The one fixture of the rows: a fleet on SQLite and the same on a real Kafka, so that every test runs on both."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from kafka.running import free_ports
from requirements.commands import shell
from requirements.fleet import Fleet, running_fleet


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Of the session: the fleet lives in the same loop as the tests."""
    return "asyncio"


@pytest.fixture(scope="session", params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
async def fleet(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp(f"fleet-{request.param}")
    url = f"sqlite:///{folder}/journal.db"
    if request.param == "kafka":
        broker = request.getfixturevalue("kafka_broker")
        url = f"{broker.url}?prefix=rows-{os.getpid()}.&session_timeout_ms=6000"
    async with running_fleet(request.param, url, folder, free_ports(1)[0]) as running:
        yield running
    # What all of them have left on record is judged as anybody's would be. Edges of waits are replaced by later ones of
    # their keys, which SQLite does not keep: then nobody can say whether a refusal named a cycle that there was.
    judged = await shell(running, "judge").run("keylane", "verify")
    assert judged.code == 0 or (judged.code == 3 and judged.answer["undecided"].keys() == {"10"}), judged.out
    assert judged.answer["violations"] == []
