"""What people do beside agents, on both backends and with real processes: approve and reject, tell of changes, close
conflicts; and what requesters and holders hear of it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from e2e.processes import ended, running

from keylane import Client, Refused
from keylane.cli_exits import CONFLICT, NOT_FOUND, USAGE
from keylane.journal import connect
from keylane.journal.partitioner import partition_of
from keylane.journal.port import Place
from keylane.schemas import topics
from keylane.schemas.codec import decode_item
from keylane.schemas.items import Notice
from keylane.views import read_all

pytestmark = pytest.mark.anyio

API, WEB = "deploy://api", "deploy://web"
CONFIG = """
[actions.rollback]
on_conflict = "review"
"""
SCRIPT = 'while test $KEYLANE_ACTION = hold && ! test -e "$GO"; do sleep 0.05; done'
DEADLINE_S = 30.0


class People:
    """The commands, asked for JSON, and what they ended with."""

    def __init__(self, url: str, cwd: Path) -> None:
        self.url = url
        self.cwd = cwd

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return ended(*words, "--output", "json", url=self.url, cwd=self.cwd)

    def ask(self, *words: str) -> Any:
        """The one answer."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr.decode()
        (answer,) = done.stdout.splitlines()
        return json.loads(answer)

    def refused(self, *words: str) -> tuple[str, int]:
        """The code, and what the command ended with."""
        done = self.run(*words)
        assert done.stdout == b""
        return json.loads(done.stderr.splitlines()[-1])["error"]["code"], done.returncode

    def lines(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*words).stdout.splitlines()]

    def text(self, *words: str) -> str:
        done = ended(*words, url=self.url, cwd=self.cwd)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


async def until(is_so: Any) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not is_so():
            await anyio.lowlevel.checkpoint()


@pytest.fixture
def service(journal_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A router whose rollbacks are reviewed, and a worker that holds a resource until the file `go` is there."""
    (tmp_path / "keylane.toml").write_text(CONFIG)
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    options: dict[str, Any] = {"url": journal_url, "cwd": tmp_path}
    work = ["--action", "hold", "--action", "rollback", "--name", "w-1", "--", "sh", "-c", SCRIPT]
    with running("router", "--partitions", "2", "--output", "json", says='"url"', **options):
        with running("worker", "exec", *work, says="", **options):
            yield People(journal_url, tmp_path)
            (tmp_path / "go").touch()  # so that the worker can finish, and need not be killed


async def parked(people: People, resource: str, *requests: str) -> None:
    """The resource is held, and the requests for a rollback wait for a person."""
    people.ask("submit", resource, "hold", "--id", f"hold-{resource[-3:]}")
    await until(lambda: people.ask("who", resource)["held"])
    for id in requests:
        status = people.ask("submit", resource, "rollback", "--id", id, "--data", f'"{id}"', "--actor", "agent-7")
        assert (status["state"], status["review"]) == ("parked", "needs_decision")


@pytest.mark.requirement("S1.5")
@pytest.mark.requirement("S1.8")
async def test_a_review_from_the_request_to_its_outcome(service: People, tmp_path: Path) -> None:
    people = service
    people.ask("change", API, "v1", "--by", "ann", "--what", "edit")
    await parked(people, API, "r-1", "r-2")
    status = people.ask("request", API, "r-1")
    shown = people.ask("conflict", "show", status["conflict_id"])
    assert shown["artifact"]["kind"] == "parked" and shown["resolved"] is None
    prospect = shown["review"]
    assert (prospect["request_id"], prospect["payload"], prospect["actor"]) == ("r-1", "r-1", "agent-7")
    then = prospect["on_approve"]
    assert (prospect["version_seen"], then["version"], then["after"]) == ("v1", "v1", ["hold-api"])
    assert (then["then"], then["ended_by"]) == ("superseded", ["hold-api"])
    told = people.text("conflict", "show", status["conflict_id"])
    asked = f"--version-seen v1 --conflict {status['conflict_id']} --note WHY"
    assert f"keylane decide deploy://api r-1 approve {asked}" in told
    assert "on approve: superseded if hold-api completes before it" in told

    async with Client(people.url, actor="agent-7") as client:
        ticket = await client.submit(API, "rollback", "r-1", request_id="r-1")  # again: its first answer
        assert (await ticket.accepted()).repeated
        rejected = people.ask("decide", API, "r-1", "reject", "--note", "not today", "--by", "boss")
        assert (rejected["verdict"], rejected["by"], rejected["version_seen"]) == ("reject", "boss", "v1")
        outcome = await ticket.outcome(DEADLINE_S)
    assert outcome.status == "rejected" and outcome.error is not None and outcome.error.message == "not today"

    # The holder ends first, so that nothing completes after the approval.
    (tmp_path / "go").touch()
    await until(lambda: people.ask("who", API)["held"] is None)
    (tmp_path / "go").unlink()
    assert people.refused("decide", API, "r-2", "approve", "--note", "ok", "--version-seen", "v1") == (
        "STALE_VERSION",
        CONFLICT,
    )
    people.ask("change", API, "v2", "--by", "ann", "--what", "edit")
    done = people.run("decide", API, "r-2", "approve", "--note", "ok", "--by", "boss")
    assert json.loads(done.stdout)["version_seen"] == "v2" and b"v2" in done.stderr, "what was bound is said"
    await until(lambda: people.ask("request", API, "r-2")["state"] == "done")
    assert people.ask("request", API, "r-2")["outcome"]["status"] == "completed"
    assert people.ask("conflict", "show", status["conflict_id"])["resolved"]["note"] == "not today"
    assert people.refused("decide", API, "r-2", "approve", "--note", "ok") == ("TOO_LATE", CONFLICT)
    assert people.refused("decide", API, "nobody", "approve", "--note", "ok") == ("NOT_FOUND", NOT_FOUND)


@pytest.mark.requirement("S1.7")
async def test_a_persons_change_tells_the_holder_and_voids_an_approval(service: People, tmp_path: Path) -> None:
    people = service
    await parked(people, API, "r-1")
    async with Client(people.url, actor="agent-7") as client:
        ticket = await client.submit(API, "rollback", "r-1", request_id="r-1")
        seen = await client.review(API, "r-1")
        decided = await client.decide(API, "r-1", "approve", version_seen="", note="ok", by="boss", seen=seen)
        assert (decided.by, decided.conflict) == ("boss", seen.conflict_id)
        status = await client.status(API, "r-1")
        assert (status.state, status.review, status.decided_by) == ("waiting", "approved", "boss")

        changed = await client.changed(API, "v2", by="ann", what="edit", source="web", sequence=7)
        assert (changed.effect, changed.previous) == ("applied", None)
        assert (await client.changed(API, "v1", by="bob", what="edit", source="web", sequence=6)).effect == "older"
        assert (await notices(people.url, API)) == ["edit by ann: v2"]
        status = await client.status(API, "r-1")
        assert (status.state, status.review) == ("parked", "approval_voided")
        with pytest.raises(Refused, match="parked anew") as refused:
            await client.decide(API, "r-1", "approve", version_seen="v2", note="ok", seen=seen)
        assert refused.value.code == "TOO_LATE"

        void = people.ask("conflict", "show", str(status.conflict_id))
        assert void["artifact"]["kind"] == "approval_voided"
        assert {party["actor"] for party in void["artifact"]["parties"]} >= {"ann"}
        (tmp_path / "go").touch()
        await until(lambda: people.ask("who", API)["held"] is None)
        people.ask("change", API, "v3", "--by", "ann", "--what", "edit")
        people.ask("decide", API, "r-1", "approve", "--note", "still", "--version-seen", "v3")
        assert (await ticket.outcome(DEADLINE_S)).status == "completed"
    kinds = [each["event"]["type"] for each in people.lines("events", API)]
    assert kinds.index("Decided") < kinds.index("ApprovalVoided") < len(kinds) - kinds[::-1].index("Decided")
    said = people.text("events", API)
    assert "verdict=approve" in said and "what=edit" in said and "effect=applied" in said


async def notices(url: str, resource: str) -> list[str]:
    """What its holders were told of the resource."""
    journal = await connect(url)
    try:
        place = Place(topics.items("default"), partition_of(resource.encode(), 2))
        records = [decode_item(stored.value) for stored in await read_all(journal, place)]
    finally:
        await journal.close()
    return [each.reason for each in records if isinstance(each, Notice) and each.kind == "changed"]


@pytest.mark.requirement("S1.9")
async def test_conflicts_are_counted_by_kind_shown_whole_and_closed(service: People) -> None:
    people = service
    people.ask("change", API, "v1", "--by", "ann", "--what", "edit")
    people.ask("change", API, "v2", "--by", "ann", "--what", "edit")
    for number in range(3):
        words = ["submit", API, "hold", "--id", f"s-{number}", "--expected-version", "v1", "--actor", "agent-7"]
        assert people.refused(*words)[0] == "STALE_VERSION"
    await parked(people, WEB, "r-1")
    stale, asked = people.lines("conflicts", "--group")
    assert (stale["kind"], stale["count"], stale["open"], stale["actions"]) == ("stale_version", 3, 3, ["hold"])
    assert (asked["kind"], asked["count"], asked["open"]) == ("parked", 1, 1)
    assert stale["first"] <= stale["last"] and [each["kind"] for each in people.lines("conflicts", WEB, "--group")] == [
        "parked"
    ]

    id = stale["newest"]
    shown = people.ask("conflict", "show", id)
    (party, *_) = shown["artifact"]["parties"]
    assert (party["actor"], shown["artifact"]["known_version"]) == ("agent-7", "v2")
    assert shown["command"] == f"keylane conflict resolve {id} --note WHY"
    first = people.ask("conflict", "resolve", id, "--note", "the agent reads first now", "--by", "ann")
    assert (first["conflict"], first["resource"], first["by"]) == (id, API, "ann")
    again = people.ask("conflict", "resolve", id, "--note", "another word", "--by", "bob")
    assert again == first, "what is closed stays as it was closed"
    assert people.ask("conflict", "show", id)["resolved"]["note"] == "the agent reads first now"
    assert [each["open"] for each in people.lines("conflicts", "--group")] == [2, 1]

    parked_id = asked["newest"]
    assert people.refused("conflict", "resolve", parked_id, "--note", "gone") == ("BAD_RECORD", USAGE)
    for nothing in ("0-999999", "99-1", "x"):
        assert people.refused("conflict", "show", nothing) == ("NOT_FOUND", NOT_FOUND)
        assert people.refused("conflict", "resolve", nothing, "--note", "x") == ("NOT_FOUND", NOT_FOUND)
    assert people.refused("conflicts", "--group", "--follow") == ("USAGE", USAGE)
    judged = people.run("verify")
    assert json.loads(judged.stdout)["found"] == {}, judged.stdout
