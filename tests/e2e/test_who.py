"""`keylane who` on both backends: the states of a resource as a real router and a real worker bring them about."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from e2e.processes import keylane, running

from keylane.journal import Record, connect
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.requests import ResourceChange

pytestmark = pytest.mark.anyio

PARTITIONS = 2
KEY = "deploy://api-prod"
DEADLINE_S = 40
CONFIG = """
partitions = 2
session_lapse = "4s"
[defaults]
coalesce = "0s"
backoff = "1ms"
[actions.rollback]
on_conflict = "review"
"""
WORKER = """
from pathlib import Path

import anyio
import keylane

worker = keylane.Worker(name="worker-3", slots=1)


async def told(item: keylane.Item) -> object:
    while True:
        for said in sorted(Path("told").iterdir()):
            said.unlink()
            match said.name:
                case "progress":
                    await item.progress({"drained": True})
                case "blocked":
                    await item.progress(blocked="waits for a quota")
                case "retry":
                    raise keylane.Retry(0, "the target was away")
                case "done":
                    return item.done(version="v2")
        await anyio.sleep(0.01)


worker.handler("restart")(told)
worker.handler("rollback")(told)
"""


class Stage:
    """The command line in a folder with a worker that does what the test tells it."""

    def __init__(self, url: str, cwd: Path) -> None:
        self.url = url
        self.cwd = cwd
        self.options: dict[str, Any] = {"url": url, "cwd": cwd}
        (cwd / "keylane.toml").write_text(CONFIG)
        (cwd / "crew.py").write_text(WORKER)
        (cwd / "told").mkdir()

    def router(self) -> Any:
        return running("router", "--output", "json", says='"url"', **self.options)

    def tell(self, word: str) -> None:
        (self.cwd / "told" / word).touch()

    def submit(self, id: str, action: str = "restart", data: str = "null") -> None:
        keylane("submit", KEY, action, "--id", id, "--data", data, "--actor", "ann", **self.options)

    def who(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(keylane("who", KEY, "--output", "json", **self.options))
        return found

    async def until(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        with anyio.fail_after(DEADLINE_S):
            while not reached(owned := self.who()):
                await anyio.lowlevel.checkpoint()
        return owned

    async def until_states(self, *states: str) -> dict[str, Any]:
        return await self.until(lambda owned: owned["states"] == list(states))

    async def change(self, version: str) -> None:
        """Somebody changes the resource outside keylane."""
        record = ResourceChange(id="c-1", resource=KEY, version=version, by="eve", what="edited")
        place = partition_of(KEY.encode(), PARTITIONS)
        journal = await connect(self.url)
        try:
            await journal.append([Record(topics.REQUESTS, place, KEY.encode(), encode(record))])
        finally:
            await journal.close()


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


@pytest.mark.requirement("S1.1")
@pytest.mark.requirement("S1.3")
async def test_from_waiting_to_stale(journal_url: str, tmp_path: Path) -> None:
    """Waiting, claimed, leased, applying, blocked, handed off, and stale once nobody routes any more."""
    stage = Stage(journal_url, tmp_path)
    with running("router", "--output", "json", says='"url"', **stage.options) as router:
        stage.submit("r-1")
        (waiting,) = (await stage.until_states("waiting"))["waiting"]
        assert (waiting["wait"]["reason"], waiting["wait"]["policy"]) == ("no_worker", "unserved_after")
        with running("worker", "run", "crew:worker", says="", **stage.options) as worker:
            owned = await stage.until_states("leased")
            assert (owned["held"]["holder"], owned["held"]["actor"], owned["held"]["run"]) == ("worker-3", "ann", "r-1")

            stage.submit("r-2", data="2")
            (waiting,) = (await stage.until_states("leased", "waiting"))["waiting"]
            assert [waiting["wait"][name] for name in ("reason", "holder", "behind")] == ["held", "worker-3", "r-1"]
            assert waiting["wait"]["since"] < waiting["wait"]["until"] < waiting["wait"]["expires"]
            keylane("cancel", KEY, "r-2", **stage.options)

            stage.tell("progress")
            await stage.until_states("applying")
            stage.tell("blocked")
            owned = await stage.until_states("blocked")
            assert owned["held"]["blocked"] == "waits for a quota"

            stage.tell("retry")
            owned = await stage.until_states("leased", "handed_off")
            assert owned["held"]["attempt"] == 2 and "the target was away" in owned["held"]["previous_end"]
            stage.tell("done")
            await stage.until_states()

            # A worker that stands still has not read what it is given.
            with stopped(worker):
                stage.submit("r-3")
                await stage.until_states("claimed")
            await stage.until_states("leased")
            with stopped(worker), stopped(router):
                owned = await stage.until_states("stale_lease")
            assert owned["held"]["run"] == "r-3" and owned["held"]["lease_left_ms"] > 0, "its worker is missed first"


@pytest.mark.requirement("S1.1")
@pytest.mark.requirement("S1.8")
async def test_what_waits_on_review_and_who_touched_it_last(journal_url: str, tmp_path: Path) -> None:
    stage = Stage(journal_url, tmp_path)
    with stage.router(), running("worker", "run", "crew:worker", says="", **stage.options):
        stage.submit("r-1")
        await stage.until_states("leased")
        stage.submit("r-9", "rollback")
        owned = await stage.until_states("leased", "waiting_on_review", "conflict_detected")
        (asked,) = owned["waiting"]
        assert (asked["wait"]["reason"], asked["wait"]["policy"]) == ("review", "on_conflict")
        assert (asked["on_approve"]["then"], asked["on_approve"]["after"]) == ("superseded", ["r-1"])
        (artifact,) = keylane("conflicts", KEY, "--output", "json", **stage.options).splitlines()
        assert json.loads(artifact)["id"] == asked["conflict"]
        shown = keylane("who", KEY, **stage.options).decode()
        assert f"held by worker-3 (token {owned['held']['token']}, leased, " in shown
        assert f"waiting: rollback r-9 by ann, needs a decision: keylane decide {KEY} r-9" in shown

        stage.tell("done")
        owned = await stage.until_states("waiting_on_review", "conflict_detected")
        (asked,) = owned["waiting"]
        assert (asked["on_approve"]["then"], asked["on_approve"]["version"]) == ("granted", "v2")
        (touch,) = owned["touched"]
        assert (touch["kind"], touch["id"], touch["by"], touch["actor"]) == ("run", "r-1", "worker-3", "ann")

        await stage.change("v3")
        owned = await stage.until(lambda each: each["version"] == "v3")
        assert [(each["kind"], each["by"]) for each in owned["touched"]] == [("change", "eve"), ("run", "worker-3")]
        assert owned["waiting"][0]["on_approve"]["version"] == "v3"
