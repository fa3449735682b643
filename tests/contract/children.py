"""Other processes for the contract tests: a claimant of a lane, a member of a group, one that only appends.

Run as a script it is such a process; it says on its standard output what happens to it, a line each.
"""

import signal
import sys
from contextlib import AsyncExitStack

import anyio
import anyio.abc

from keylane.journal import LaneLost, Record, connect

DEADLINE_S = 30.0


class Child:
    """A process that a test started. It is killed with the stack that it was started on."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._unread = b""

    @classmethod
    async def start(cls, stack: AsyncExitStack, *arguments: str) -> "Child":
        process = await anyio.open_process([sys.executable, __file__, *arguments], stderr=None)
        child = cls(process)
        stack.push_async_callback(child.end)
        return child

    async def says(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        with anyio.fail_after(DEADLINE_S):
            while b"\n" not in self._unread:
                self._unread += await self._process.stdout.receive()
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    async def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send(line.encode() + b"\n")

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self) -> list[str]:
        """Kill it; what it had said and nobody has read."""
        if self._process.returncode is None:
            self._process.kill()
        lines = self._unread
        assert self._process.stdout is not None
        with anyio.fail_after(DEADLINE_S):
            try:
                async for some in self._process.stdout:
                    lines += some
            except anyio.ClosedResourceError:
                return []  # it was ended before
            await self._process.aclose()
        return lines.decode().splitlines()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def member(url: str, group: str, topic: str) -> None:
    """Join, and say every assignment."""
    journal = await connect(url)
    membership = await journal.join(group, topic)
    while True:
        assignment = await membership.changed(1)
        if assignment is not None:
            say(" ".join(map(str, sorted(assignment.partitions))))


async def claimant(url: str, inputs: str, state: str, events: str) -> None:
    """Claim partition 0, and at every line commit one record with that value; say what came of it."""
    journal = await connect(url)
    session = await journal.claim(0, [inputs], state)
    say("claimed")
    while line := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
        try:
            await session.commit([Record(events, 0, b"child", line.encode())])
            say("committed")
        except LaneLost as lost:
            say(f"lost fenced={lost.fenced}")


async def appender(url: str, topic: str) -> None:
    """Append for ever, and say every offset once it is acknowledged."""
    journal = await connect(url)
    while True:
        offsets = await journal.append([Record(topic, 0, b"child", b"x" * 100)])
        say(str(offsets[0]))


if __name__ == "__main__":
    jobs = {job.__name__: job for job in (member, claimant, appender)}
    anyio.run(jobs[sys.argv[1]], *sys.argv[2:])
