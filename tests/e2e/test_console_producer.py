"""Any producer can take part: a record as the Java console producer writes it, with its own partitioner."""

import json
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest
from e2e.history import endings, read_events
from e2e.processes import running, write_worker
from kafka.running import LIB, Broker

from keylane.journal import connect
from keylane.schemas.events import Ended

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

PARTITIONS = 8
RESOURCES = [f"deploy://api-{number}" for number in range(12)]
DEADLINE_S = 30.0


def produce(broker: Broker, topic: str, lines: list[str]) -> None:
    java = shutil.which("java")
    assert java is not None
    command = [java, "-cp", f"{LIB}/*", "org.apache.kafka.tools.ConsoleProducer"]
    command += ["--bootstrap-server", f"127.0.0.1:{broker.port}", "--topic", topic]
    command += ["--property", "parse.key=true", "--property", "key.separator=|"]
    done = subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.requirement("M.1")
async def test_plain_json_from_the_java_console_producer_is_worked_on(
    kafka_broker: Broker, kafka_prefix: str, tmp_path: Path
) -> None:
    url = f"{kafka_broker.url}?prefix={kafka_prefix}"
    crew = write_worker(tmp_path, ["restart"])
    options = {"url": url, "cwd": tmp_path}
    lines = [
        f"{resource}|"
        + json.dumps({"type": "WorkRequest", "id": f"plain-{number}", "resource": resource, "action": "restart"})
        for number, resource in enumerate(RESOURCES)
    ]
    with (
        running("router", "--partitions", str(PARTITIONS), "--output", "json", says='"url"', **options),
        running("worker", "run", crew, says="", **options),
    ):
        produce(kafka_broker, f"{kafka_prefix}requests", lines)
        journal = await connect(url)
        try:
            with anyio.fail_after(DEADLINE_S):
                while len(ended := endings(events := await read_events(journal, PARTITIONS))) < len(RESOURCES):
                    pass  # reading to the end is what waits
        finally:
            await journal.close()
    statuses = {id: each[0].status for id, each in ended.items() if isinstance(each[0], Ended)}
    assert statuses == {f"plain-{number}": "completed" for number in range(len(RESOURCES))}
    # The Java client's partitioner and ours agree: nothing had to be sent on.
    assert "SentOn" not in {type(event).__name__ for _, event in events}
