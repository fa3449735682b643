"""Real processes under the rights of SECURITY.md, each as its own user, over TLS: the whole way of a request."""

import json
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from e2e.processes import keylane, running
from security.secured import Secured

from keylane.journal import AccessDenied, Record, connect
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

PARTITIONS = 2
RESOURCE = "deploy://api-prod"
DEADLINE_S = 30
WORK = ["worker", "exec", "--action", "restart", "--", "cat"]


def asked(secured: Secured, cwd: Path, user: str, *words: str) -> list[dict[str, object]]:
    out = keylane(*words, "--output", "json", url=secured.url(user), cwd=cwd)
    return [json.loads(line) for line in out.splitlines()]


def said(cwd: Path) -> str:
    return "".join(log.read_text(errors="replace") for log in sorted(cwd.glob("*.log")))


async def test_a_request_is_done_with_each_role_in_its_own_rights(rightful: Secured, tmp_path: Path) -> None:
    router = ["router", "--partitions", str(PARTITIONS), "--output", "json", "--log-level", "debug"]
    with (
        running(*router, url=rightful.url("router"), cwd=tmp_path, says='"url"'),
        running(*WORK, url=rightful.url("worker", sasl="SCRAM-SHA-256"), cwd=tmp_path, says=""),
    ):
        payload = ["--data", '{"reason": "oom"}', "--id", "r-1", "--wait"]
        (*_, done) = asked(rightful, tmp_path, "agent", "submit", RESOURCE, "restart", *payload)
        assert done["status"] == "completed"
        assert asked(rightful, tmp_path, "agent", "request", RESOURCE, "r-1")
        assert asked(rightful, tmp_path, "agent", "who", RESOURCE)[0]["resource"] == RESOURCE

        await forge(rightful, "worker", topics.REQUESTS)
        await forge(rightful, "agent", topics.RESULTS)
        assert [each["event"]["type"] for each in asked(rightful, tmp_path, "dashboard", "events", RESOURCE)] == [
            "Queued",
            "Granted",
            "Ended",
        ]
        assert asked(rightful, tmp_path, "dashboard", "leases") == []
        asked(rightful, tmp_path, "dashboard", "conflicts")
        await replayed(rightful, tmp_path)
        assert {each["requests"] for each in asked(rightful, tmp_path, "operator", "lag")} == {0}
    for password in rightful.passwords.values():
        assert password not in said(tmp_path)


async def forge(secured: Secured, user: str, topic: str) -> None:
    """Write where this role may not. Nothing of it may be found by the router, whose events are looked at next."""
    journal = await connect(secured.url(user))
    try:
        with pytest.raises(AccessDenied):
            await journal.append([Record(topic, partition_of(RESOURCE.encode(), PARTITIONS), RESOURCE.encode(), b"{}")])
    finally:
        await journal.close()


async def replayed(secured: Secured, cwd: Path) -> None:
    """A dead letter of an agent's making, and the operator who sets it going again."""
    journal = await connect(secured.url("agent"))
    reused = {"type": "WorkRequest", "id": "r-1", "resource": RESOURCE, "action": "restart", "payload": 2}
    try:
        place = partition_of(RESOURCE.encode(), PARTITIONS)
        value = json.dumps(reused).encode()
        (offset,) = await journal.append([Record(topics.REQUESTS, place, RESOURCE.encode(), value)])
    finally:
        await journal.close()
    where = f"{topics.REQUESTS}/{place}/{offset}"
    with anyio.fail_after(DEADLINE_S):
        while offset not in [each["offset"] for each in asked(secured, cwd, "dashboard", "deadletters", "list")]:
            await anyio.lowlevel.checkpoint()
    again = asked(secured, cwd, "operator", "deadletters", "replay", where)[0]["request_id"]
    with anyio.fail_after(DEADLINE_S):
        while asked(secured, cwd, "agent", "request", RESOURCE, str(again))[-1]["state"] != "done":
            await anyio.lowlevel.checkpoint()
