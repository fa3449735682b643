"""Rows S2.3 and S3.3: what a session keeps apart, files that are never half written, several locks, cycles, its end.

Each test runs on SQLite and on Kafka, by the fixture `fleet`.
"""

from __future__ import annotations

import signal
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest
from requirements.commands import WITHIN_S, Done, Shell, shell
from requirements.fleet import PARTITIONS, Fleet

from keylane import Client, LockHeld, Refused, Session
from keylane.journal.partitioner import partition_of
from keylane.locks import Credential
from keylane.schemas.events import AgentSessionEnded, Ended, Granted, Lost, Queued

pytestmark = pytest.mark.anyio
row = pytest.mark.requirement

HERE = Path(__file__).parent
LOOK_ROUNDS = 4
AT_ONCE = 3


# -- S2.3 -----------------------------------------------------------------------------------------------------


@row("S2.3")
async def test_a_named_session_has_a_temporary_folder_of_its_own(fleet: Fleet) -> None:
    """The same for all commands of the session, another for each session, nobody else's to read, gone with it."""
    ann = shell(fleet, "ann")
    script = 'printf %s "$KEYLANE_SESSION_TMP"; touch "$KEYLANE_SESSION_TMP/$0"; ls "$KEYLANE_SESSION_TMP" >&2'

    async def folder(name: str, *session: str) -> Path:
        words = ("hold", fleet.key(), *session, "--", "sh", "-c", script, name)
        done = await ann.run("keylane", *words)
        assert done.code == 0, done
        return Path(done.out)

    a, again, b = [await folder(name, "--session-id", name[0]) for name in ("a1", "a2", "b1")]
    assert a == again != b
    assert not a.is_relative_to(b) and not b.is_relative_to(a)
    assert {file.name for file in a.iterdir()} == {"a1", "a2"} and {file.name for file in b.iterdir()} == {"b1"}
    for path in (a, b):
        assert path.is_relative_to(ann.state) and stat.S_IMODE(path.stat().st_mode) == 0o700
        assert all(
            not each.stat().st_mode & 0o077 for each in [*path.parents][: len(path.relative_to(ann.state).parts)]
        )
    own = [await folder("c1") for _ in range(2)]
    assert len({*own, a, b}) == 4, "without a name each has its own"
    assert not any(path.exists() for path in own), "which goes with it"
    assert (await ann.run("keylane", "session", "end", "a")).code == 0
    assert not a.exists() and b.exists()
    assert await folder("b2", "--session-id", "b") == b


@row("S2.3")
async def test_sessions_do_not_see_each_others_locks(fleet: Fleet) -> None:
    """One shell, two sessions, which may run at once: what one acquired the other neither renews nor gives back."""
    ann, one, two = shell(fleet, "ann"), fleet.key(), fleet.key()
    had = [await ann.run("rlock", key, "--session-id", id) for key, id in ((one, "a"), (two, "b"))]
    assert [done.answer["session"] for done in had] == ["a", "b"]
    for program in ("rlock-heartbeat", "runlock"):
        done = await ann.run(program, one, "--session-id", "b")
        assert done.code in (3, 4), done
    assert (await ann.run("rlock", one, "--session-id", "b")).code == 75
    # By the environment it is named as well.
    assert (await ann.run("runlock", one, KEYLANE_SESSION_ID="b")).code in (3, 4)
    assert (await ann.run("runlock", one, KEYLANE_SESSION_ID="a")).code == 0
    assert (await ann.run("runlock", two, "--session-id", "b")).code == 0


@row("S2.3")
async def test_whoever_reads_the_files_of_a_session_meanwhile_finds_them_whole(fleet: Fleet) -> None:
    """Real commands write them anew, several at once; a reader looks all the time, and sees no part of a file."""
    ann, key = shell(fleet, "ann"), fleet.key()
    seen: set[tuple[str, str]] = set()
    looking = True

    def look() -> int:
        looks = 0
        while looking:
            for file in ann.state.rglob("*.json"):
                try:
                    text, mode = file.read_text(), file.stat().st_mode
                except FileNotFoundError:
                    continue
                assert_whole(file, text)
                assert stat.S_IMODE(mode) == 0o600
                seen.add((file.name, text))
                looks += 1
            time.sleep(0.001)  # or the router, which is in this process, would starve
        return looks

    async with anyio.create_task_group() as looking_on:
        looked: list[int] = []

        async def look_on() -> None:
            looked.append(await anyio.to_thread.run_sync(look))

        looking_on.start_soon(look_on)
        try:
            for _ in range(LOOK_ROUNDS):
                both = await together(ann, ("rlock", key, "--session-id", "a"), ("rlock", key, "--session-id", "a"))
                assert [done.code for done in both] == [0, 0]
                assert (await ann.run("rlock-heartbeat", key, "--session-id", "a")).code == 0
                assert (await ann.run("runlock", key, "--session-id", "a")).code == 0
        finally:
            looking = False
    assert looked[0] > 100
    assert len([name for name, _ in seen if name != "session.json"]) >= LOOK_ROUNDS, "it was there when they were new"


@row("S2.3")
async def test_a_command_that_is_killed_as_it_writes_leaves_the_old_or_the_new(fleet: Fleet) -> None:
    """SIGKILL before the first step that it takes on disk, before the second, and so on to its end. Each time all
    files are whole, and the session goes on with them: its lock is had, or had again."""
    codes: dict[int, int] = {}

    async def killed_before(step: int) -> None:
        ann, key = shell(fleet, "ann"), fleet.key()
        program = [sys.executable, str(HERE / "killed_writer.py"), str(ann.state), str(step)]
        with anyio.fail_after(WITHIN_S):
            killed = await anyio.run_process(
                [*program, "lock", "acquire", key, "--session-id", "a"], env=ann.environment, check=False
            )
        codes[step] = killed.returncode
        for file in ann.state.rglob("*.json"):
            assert_whole(file, file.read_text())
        assert (await ann.run("rlock", key, "--session-id", "a")).code == 0

    step = 1
    while 0 not in codes.values():
        async with anyio.create_task_group() as tasks:
            for each in range(step, step + AT_ONCE):
                tasks.start_soon(killed_before, each)
        step += AT_ONCE
    assert set(codes.values()) == {0, -signal.SIGKILL}
    steps = sorted(step for step, code in codes.items() if code)
    assert steps == [*range(1, len(steps) + 1)] and len(steps) >= 8, "three files, each made, to disk, and named"


def assert_whole(file: Path, text: str) -> None:
    """As one that was written to its end."""
    if file.name == "session.json":
        session = msgspec.json.decode(text, type=dict[str, object])
        assert {"id", "secret", "named"} <= session.keys()
    else:
        msgspec.json.decode(text, type=Credential)


async def together(ann: Shell, *commands: Sequence[str]) -> list[Done]:
    """Run at once; in the order given."""
    done: dict[int, Done] = {}

    async def run(number: int, program: str, *words: str) -> None:
        done[number] = await ann.run(program, *words)

    async with anyio.create_task_group() as tasks:
        for number, command in enumerate(commands):
            tasks.start_soon(run, number, *command)
    return [done[number] for number in sorted(done)]


# -- S3.3 -----------------------------------------------------------------------------------------------------


def apart(fleet: Fleet, count: int) -> list[str]:
    """Keys of as many partitions, in the order in which everybody acquires them."""
    found: dict[int, str] = {}
    while len(found) < count:
        key = fleet.key()
        found.setdefault(partition_of(key.encode(), PARTITIONS), key)
    return sorted(found.values())


@row("S3.3")
async def test_a_session_holds_several_locks_and_all_go_when_it_ends(fleet: Fleet) -> None:
    """In every partition; what it waits for goes too; what another session has stays."""
    keys, others, wanted = apart(fleet, PARTITIONS), fleet.key(), fleet.key()
    session = Session.new("deploy-7")
    had = [await fleet.alice.acquire(key, session=session) for key in keys]
    kept = [await fleet.bob.acquire(key) for key in (others, wanted)]
    assert sorted(info.resource for info in await fleet.bob.locks(session_id="deploy-7")) == keys
    waited: list[str] = []

    async def wait() -> None:
        try:
            await fleet.alice.acquire(wanted, session=session, wait_s=WITHIN_S)
        except Exception as error:
            waited.append(type(error).__name__)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await fleet.record.nth(Queued, wanted, 2)
        over = await fleet.alice.end_session(session)
    waiting = await fleet.record.nth(Ended, wanted)
    assert set(over) == {credential.run for credential in had} | {waiting.run}
    assert waiting.status == "cancelled" and len(waited) == 1
    for key, credential in zip(keys, had, strict=True):
        lost = await fleet.record.nth(Lost, key)
        assert (lost.reason, lost.token) == ("session_ended", credential.token)
        assert (await fleet.bob.acquire(key)).token > credential.token, "free at once"
    ended = [event for _, event in fleet.record.events if isinstance(event, AgentSessionEnded)]
    assert len([event for event in ended if event.session == "deploy-7"]) == PARTITIONS
    for credential in kept:
        await fleet.bob.release(credential)


@row("S3.3")
async def test_a_session_of_commands_ends_with_all_that_it_holds(fleet: Fleet) -> None:
    ann, keys = shell(fleet, "ann"), apart(fleet, 3)
    for key in keys:
        assert (await ann.run("rlock", key, "--session-id", "a")).code == 0
    over = await ann.run("keylane", "session", "end", "a")
    assert over.code == 0
    granted = [await fleet.record.nth(Granted, key) for key in keys]
    assert sorted(over.answer["runs"]) == sorted(event.run for event in granted)
    for key in keys:
        await fleet.bob.release(await fleet.bob.acquire(key))
        assert (await ann.run("runlock", key, "--session-id", "a")).code in (3, 4)


@row("S3.3")
@pytest.mark.parametrize("members", [2, 3])
async def test_a_cycle_over_partitions_is_detected_and_its_path_returned(fleet: Fleet, members: int) -> None:
    """Each session holds one key and wants the next one's. The last to ask is told the way round, at once; it gives up
    what it has, and all others go on."""
    keys = apart(fleet, members)
    sessions = [Session.new(f"agent-{number}") for number in range(members)]
    had = [await fleet.alice.acquire(key, session=session) for key, session in zip(keys, sessions, strict=True)]
    wants = [keys[(number + 1) % members] for number in range(members)]
    got: list[int] = []

    async def go_on(client: Client, number: int) -> None:
        """Wait for the next one's; with both, be done."""
        got.append((await client.acquire(wants[number], session=sessions[number], wait_s=WITHIN_S)).token)
        await client.end_session(sessions[number])

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            for number in range(members - 1):
                tasks.start_soon(go_on, fleet.alice, number)
                await fleet.record.nth(Queued, wants[number], 2)
            last = members - 1
            with pytest.raises(Refused) as refused:
                await fleet.bob.acquire(wants[last], session=sessions[last], wait_s=WITHIN_S)
            error = refused.value
            assert error.code == "DEADLOCK"
            round_ = [each for number in range(members) for each in (sessions[number].id, wants[number])]
            assert list(error.cycle) == [*round_[2 * last :], *round_[: 2 * last]], "from who asked, all the way round"
            await fleet.bob.release(had[last])
    assert len(got) == members - 1
    artifact = await fleet.record.artifact(wants[last], "deadlock")
    assert error.conflict_id == artifact.id
    ended = next(event for event in fleet.record.of(Ended, wants[last]) if event.cycle)
    assert ended.error is not None and (ended.status, ended.error.code) == ("refused", "DEADLOCK")
    assert ended.waits_position is not None


@row("S3.3")
async def test_a_command_that_closes_a_cycle_ends_with_its_path(fleet: Fleet) -> None:
    """Also one that would not wait: it is a deadlock all the same, if the other waits. Exit code 5."""
    ann, (one, two) = shell(fleet, "ann"), apart(fleet, 2)
    for key, session in ((one, "a"), (two, "b")):
        assert (await ann.run("rlock", key, "--session-id", session)).code == 0
    async with ann.started("rlock", two, "--session-id", "a", "--wait", "60s") as waiting:
        await fleet.record.nth(Queued, two, 2)
        for wait in ("60s", "0"):
            done = await ann.run("rlock", one, "--session-id", "b", "--wait", wait)
            assert (done.code, done.error["code"]) == (5, "DEADLOCK"), done
            assert done.error["cycle"] == ["b", one, "a", two]
        assert (await ann.run("runlock", two, "--session-id", "b")).code == 0
        with anyio.fail_after(WITHIN_S):
            assert await waiting.wait() == 0
    assert (await ann.run("keylane", "session", "end", "a")).code == 0


@row("S3.3")
async def test_several_at_once_are_had_all_or_none(fleet: Fleet) -> None:
    """In one order for everybody, whatever order they are named in; what was had before a refusal is given back."""
    keys = apart(fleet, 3)
    async with fleet.alice.lock(*keys) as lease:
        assert sorted(lease.resources) == keys
    async with fleet.alice.lock(keys[-1]):
        with pytest.raises(LockHeld):
            async with fleet.bob.lock(*reversed(keys)):
                pass
        async with fleet.bob.lock(*keys[:-1]):
            pass
