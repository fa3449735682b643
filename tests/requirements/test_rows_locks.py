"""Rows S2.1, S2.2 and S3.1: what a held lock tells others, that every way out gives it back, and the three programs.

Each test runs on SQLite and on Kafka, by the fixture `fleet`; where a row names commands they are real processes.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from requirements.commands import WITHIN_S, Done, shell
from requirements.fleet import Fleet

from keylane import Client, LockHeld, SyncClient
from keylane.schemas.events import Coalesced, Ended, Granted, Queued, Refused, Renewed

pytestmark = pytest.mark.anyio
row = pytest.mark.requirement

ROUNDS = 10
INTERRUPTED = """
import sys
import keylane

with keylane.SyncClient() as client:
    with client.lock(sys.argv[1]) as lease:
        print(lease.resources[sys.argv[1]], flush=True)
        lease.until_lost()
"""
"""A program that knows nothing of signals, and holds a lock until one comes."""


def assert_told(error: dict[str, object], holder: str) -> None:
    """The structured error of row S2.1, and whom it names."""
    assert error["code"] == "LOCK_HELD"
    assert error["message"] and error["suggestion"]
    assert isinstance(error["retry_after_ms"], int) and error["retry_after_ms"] > 0
    assert error["holder"] == holder
    assert str(error["held_since"]) < str(error["lease_expires_at"])
    assert "force" not in f"{error['message']} {error['suggestion']}".lower(), "never how to get past it"


# -- S2.1 -----------------------------------------------------------------------------------------------------


@row("S2.1")
async def test_of_two_changes_at_once_one_is_made_and_one_is_told_why_not(fleet: Fleet) -> None:
    """Through the client, again and again: whoever of the two asks first."""
    for number in range(ROUNDS):
        key = fleet.key()
        made: list[str] = []
        told: list[LockHeld] = []
        both = anyio.Event()

        async def change(client: Client, name: str, key: str = key, both: anyio.Event = both) -> None:
            try:
                async with client.lock(key):
                    made.append(name)  # noqa: B023
                    await both.wait()
            except LockHeld as error:
                told.append(error)  # noqa: B023
                both.set()

        with anyio.fail_after(WITHIN_S):
            async with anyio.create_task_group() as tasks:
                for client, name in ((fleet.alice, "alice"), (fleet.bob, "bob"))[:: 1 if number % 2 else -1]:
                    tasks.start_soon(change, client, name)
        assert len(made) == len(told) == 1
        assert_told(told[0].to_envelope()["error"], made[0])


@row("S2.1")
async def test_threads_are_told_the_same(fleet: Fleet) -> None:
    key = fleet.key()
    made: list[str] = []
    told: list[LockHeld] = []
    start, both = threading.Barrier(2), threading.Event()

    def change(name: str) -> None:
        with SyncClient(fleet.url, actor=name) as client:
            start.wait(WITHIN_S)
            try:
                with client.lock(key):
                    made.append(name)
                    assert both.wait(WITHIN_S)
            except LockHeld as error:
                told.append(error)
                both.set()

    async with anyio.create_task_group() as tasks:
        for name in ("ann", "ben"):
            tasks.start_soon(anyio.to_thread.run_sync, change, name)
    assert len(made) == len(told) == 1
    assert_told(told[0].to_envelope()["error"], made[0])


@row("S2.1")
async def test_of_two_commands_at_once_one_runs_and_the_other_ends_with_75(fleet: Fleet, tmp_path: Path) -> None:
    """`keylane hold` around a command that changes something: the loser's has never begun."""
    key, made, refused = fleet.key(), tmp_path / "made", tmp_path / "refused"
    script = f'echo "$KEYLANE_ACTOR" >>{made}; until test -e {refused}; do sleep 0.05; done'
    done: dict[str, Done] = {}

    async def change(name: str) -> None:
        done[name] = await shell(fleet, name).run("keylane", "hold", key, "--", "sh", "-c", script)
        refused.touch()

    async with anyio.create_task_group() as tasks:
        for name in ("ann", "ben"):
            tasks.start_soon(change, name)
    (winner,) = made.read_text().split()
    (loser,) = done.keys() - {winner}
    assert (done[winner].code, done[loser].code) == (0, 75)
    assert_told(done[loser].error, winner)


# -- S2.2 -----------------------------------------------------------------------------------------------------


async def assert_free(fleet: Fleet, key: str) -> None:
    """Now, without waiting, for somebody else."""
    async with fleet.bob.lock(key):
        pass


@row("S2.2")
async def test_a_block_gives_its_lock_back_however_it_is_left(fleet: Fleet) -> None:
    key = fleet.key()
    async with fleet.alice.lock(key):
        with pytest.raises(LockHeld):
            await assert_free(fleet, key)
    await assert_free(fleet, key)
    with pytest.raises(ZeroDivisionError):
        async with fleet.alice.lock(key):
            raise ZeroDivisionError
    await assert_free(fleet, key)
    with anyio.CancelScope() as scope:
        async with fleet.alice.lock(key):
            scope.cancel()
            await anyio.sleep_forever()
    await assert_free(fleet, key)

    def in_a_thread() -> None:
        with SyncClient(fleet.url, actor="ann") as client:
            with client.lock(key):
                pass
            with client.lock(key):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await anyio.to_thread.run_sync(in_a_thread)
    await assert_free(fleet, key)
    await fleet.record.nth(Ended, key, 9)
    given_back = {event.run for event in fleet.record.of(Ended, key) if event.status in ("completed", "cancelled")}
    assert given_back == {event.run for event in fleet.record.of(Granted, key)} and len(given_back) == 9


WAYS_OUT: dict[str, tuple[int | None, str, int]] = {
    "success": (None, "exit 0", 0),
    "error": (None, "exit 3", 3),
    "SIGTERM": (signal.SIGTERM, "", 128 + signal.SIGTERM),
    "SIGINT": (signal.SIGINT, "", 128 + signal.SIGINT),
    "SIGHUP": (signal.SIGHUP, "", 128 + signal.SIGHUP),
}
"""By name: the signal that `hold` is sent, what its command does else, and what both end with."""


@row("S2.2")
@pytest.mark.parametrize("way", WAYS_OUT)
async def test_a_command_gives_its_lock_back_however_it_ends(fleet: Fleet, way: str) -> None:
    number, then, code = WAYS_OUT[way]
    key = fleet.key()
    async with shell(fleet, "ann").hold(key, then=then) as held:
        with pytest.raises(LockHeld):
            await assert_free(fleet, key)
        if number is None:
            held.let()
        else:
            held.process.send_signal(number)
        assert await held.ended() == code
        await assert_free(fleet, key)
        assert held.told() == [f"began {held.token}", *([] if number else [f"ended {held.token}"])]
    ended = await fleet.record.nth(Ended, key)
    assert (ended.status, ended.token) == ("completed", held.token)


@row("S2.2")
async def test_a_program_that_is_interrupted_gives_its_lock_back(fleet: Fleet) -> None:
    key, ann = fleet.key(), shell(fleet, "ann")
    program = await anyio.open_process([sys.executable, "-c", INTERRUPTED, key], env=ann.environment, cwd=ann.folder)
    async with program:
        assert program.stdout is not None
        with anyio.fail_after(WITHIN_S):
            token = int(await program.stdout.receive())
        program.send_signal(signal.SIGINT)
        with anyio.fail_after(WITHIN_S):
            await program.wait()
    await assert_free(fleet, key)
    ended = await fleet.record.nth(Ended, key)
    assert ended.token == token and ended.status in ("completed", "cancelled")


@row("S2.2")
async def test_acquiring_has_a_timeout(fleet: Fleet) -> None:
    """By the client and by the command: the same refusal as at once, after as long as was asked for."""
    key = fleet.key()
    async with fleet.alice.lock(key):
        began_s = anyio.current_time()
        with pytest.raises(LockHeld) as refused, anyio.fail_after(WITHIN_S):
            async with fleet.bob.lock(key, wait_s=1):
                pass
        assert anyio.current_time() - began_s >= 0.9
        assert_told(refused.value.to_envelope()["error"], "alice")
        done = await shell(fleet, "ann").run("rlock", key, "--wait", "1s")
        assert done.code == 75
        assert_told(done.error, "alice")
    ended = [await fleet.record.nth(Ended, key, n) for n in (1, 2)]
    assert [(event.status, event.error and event.error.code) for event in ended] == [("refused", "LOCK_HELD")] * 2
    queued = {event.request: event for event in fleet.record.of(Queued, key)}
    assert all(event.clock_ms - queued[event.run].clock_ms >= 1_000 for event in ended), "not one before its time"
    await assert_free(fleet, key)


@row("S2.2")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_command_that_is_stopped_while_it_waits_leaves_nothing_behind(fleet: Fleet, number: int) -> None:
    key, ann = fleet.key(), shell(fleet, "ann")
    async with fleet.alice.lock(key), ann.started("rlock", key, "--wait", "5m") as waiting:
        queued = await fleet.record.nth(Queued, key, 2)
        waiting.send_signal(number)
        with anyio.fail_after(WITHIN_S):
            assert await waiting.wait() == 128 + number
        ended = await fleet.record.nth(Ended, key)
        assert (ended.run, ended.status) == (queued.run, "cancelled")
    await assert_free(fleet, key)


# -- S3.1 -----------------------------------------------------------------------------------------------------


@row("S3.1")
@row("S2.1")
async def test_the_three_programs_on_resource_uris(fleet: Fleet) -> None:
    ann, ben = shell(fleet, "ann"), shell(fleet, "ben")
    for key in (fleet.key("github", "acme/app/issues/4"), fleet.key("k8s", "prod/pods/shop/cart"), arn(fleet)):
        had = await ann.run("rlock", key)
        assert had.code == 0 and had.answer["resource"] == key
        refused = await ben.run("rlock", key)
        assert refused.code == 75
        assert_told(refused.error, "ann")
        granted = await fleet.record.nth(Granted, key)
        assert refused.error["held_since"] == granted.time, "since when"
        assert (await ann.run("rlock-heartbeat", key)).answer["token"] == had.answer["token"] == granted.token
        await fleet.record.nth(Renewed, key)
        assert (await ann.run("runlock", key)).code == 0
        assert (await fleet.record.nth(Ended, key)).status == "completed"
        assert (await ben.run("rlock", key)).code == 0
        assert (await ben.run("runlock", key)).code == 0


@row("S3.1")
async def test_a_refusal_names_the_holder_and_since_when_to_people_too(fleet: Fleet) -> None:
    key, ann, ben = fleet.key(), shell(fleet, "ann"), shell(fleet, "ben")
    assert (await ann.run("rlock", key)).code == 0
    async with ben.started("rlock", key) as refused:
        assert refused.stderr is not None
        said = "".join([part.decode() async for part in refused.stderr])
        assert await refused.wait() == 75
    granted = await fleet.record.nth(Granted, key)
    assert "ann" in said and granted.time in said and "retry" in said.lower()


@row("S3.1")
async def test_acquiring_ones_own_lock_again_succeeds(fleet: Fleet) -> None:
    """Under the same session: the same lock and token, whose lease runs anew. Of another session it is refused."""
    key, ann = fleet.key(), shell(fleet, "ann")
    first, again = [await ann.run("rlock", key, "--session-id", "deploy-7", "--ttl", ttl) for ttl in ("60s", "60s")]
    assert (first.code, again.code) == (0, 0)
    assert (again.answer["run"], again.answer["token"]) == (first.answer["run"], first.answer["token"])
    joined = await fleet.record.nth(Coalesced, key)
    assert (joined.token, joined.lease_ms) == (first.answer["token"], 60_000)
    assert (await ann.run("rlock", key)).code == 75, "each acquire is its own session unless one is named"
    assert (await ann.run("rlock", key, "--session-id", "deploy-8")).code == 75
    assert (await ann.run("runlock", key, "--session-id", "deploy-7")).code == 0
    await assert_free(fleet, key)
    assert len(fleet.record.of(Granted, key)) == 2 and len(fleet.record.of(Refused, key)) >= 1


def arn(fleet: Fleet) -> str:
    """One that no other test names."""
    return f"arn:aws:ec2:eu-west-1:123456789012:instance/i-{fleet.key().rpartition('-')[2]:0>8}"
