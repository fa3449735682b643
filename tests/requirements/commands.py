"""The real commands as processes: what an agent at a shell starts. A shell has its own folder for secrets, as each user
has, and asks under a name of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, NamedTuple

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from requirements.fleet import Fleet

BIN = Path(sys.executable).parent
WITHIN_S = 60.0
"""How long a command may take where the machine is busy."""


class Done(NamedTuple):
    """How a command ended: its exit code, the last object that it printed, and the envelope of its error."""

    code: int
    answer: dict[str, Any]
    error: dict[str, Any]
    out: str


class Held:
    """A `keylane hold` whose command says its token and then waits until it is let, or is ended. See `Shell.hold`."""

    def __init__(self, process: Process, token: int, gate: int, effects: Path) -> None:
        self.process = process
        self.token = token
        self.effects = effects
        self._gate: int | None = gate

    def let(self) -> None:
        """The command goes on to its end."""
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None

    async def ended(self) -> int:
        """Its exit code."""
        with anyio.fail_after(WITHIN_S):
            return await self.process.wait()

    def told(self) -> list[str]:
        """What commands under this shell have done up to now: `began TOKEN` and `ended TOKEN`."""
        return self.effects.read_text().splitlines() if self.effects.exists() else []


class Shell:
    """One user's shell."""

    def __init__(self, url: str, folder: Path, actor: str) -> None:
        self.url = url
        self.folder = folder
        self.state = folder / "state"
        self.effects = folder / "effects"
        self.actor = actor
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """Of everything that is started in it."""
        mine = {"KEYLANE_URL": self.url, "KEYLANE_STATE_DIR": str(self.state), "KEYLANE_ACTOR": self.actor}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KEYLANE_")}
        return kept | mine

    async def run(self, program: str, *words: str, **environment: str) -> Done:
        """A command to its end. It answers in JSON."""
        command = [str(BIN / program), "--output", "json", *words]
        with anyio.fail_after(WITHIN_S):
            done = await anyio.run_process(
                command, check=False, cwd=self.folder, env=self.environment | environment, stdin=DEVNULL
            )
        out = done.stdout.decode()
        return Done(done.returncode, last_object(out), last_object(done.stderr.decode()).get("error", {}), out)

    @asynccontextmanager
    async def started(self, program: str, *words: str, **environment: str) -> AsyncIterator[Process]:
        """A command that goes on; killed at the end if it has not ended by then."""
        command = [str(BIN / program), *words]
        process = await anyio.open_process(
            command, cwd=self.folder, env=self.environment | environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                await process.aclose()

    @asynccontextmanager
    async def hold(self, *words: str, then: str = "exit 0") -> AsyncIterator[Held]:
        """`keylane hold`, once its command has begun. When that is let it does what `then` says."""
        fifo = self.folder / f"gate-{os.urandom(4).hex()}"
        os.mkfifo(fifo)
        gate = os.open(fifo, os.O_RDWR)  # a writer, so that the command's reading waits; and nobody waits for us
        script = 'echo "began $KEYLANE_TOKEN" >>"$1"; echo "$KEYLANE_TOKEN"; read -r _ <"$2"; '
        script += f'echo "ended $KEYLANE_TOKEN" >>"$1"; {then}'
        command = ("hold", *words, "--", "bash", "-c", script, "bash", str(self.effects), str(fifo))
        async with self.started("keylane", *command) as process:
            assert process.stdout is not None
            try:
                with anyio.fail_after(WITHIN_S):
                    token = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 100)
            except anyio.IncompleteRead:
                assert process.stderr is not None
                raise AssertionError(f"it did not begin: {(await process.stderr.receive()).decode()}") from None
            held = Held(process, int(token), gate, self.effects)
            try:
                yield held
            finally:
                held.let()


def last_object(text: str) -> dict[str, Any]:
    """The last line that is one; empty where none is."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {}


def shell(fleet: Fleet, actor: str) -> Shell:
    """A shell that no other test has."""
    return Shell(fleet.url, fleet.folder / f"shell-{actor}-{os.urandom(4).hex()}", actor)
