"""`keylane hold` where what happens is a matter of moments: told by its parts, without a router."""

import signal
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from keylane.cli_context import CommandContext
from keylane.holding import Holding, Terms

pytestmark = pytest.mark.anyio
TERMS = Terms(keys=("deploy://api",), named=None, wait_s=60.0, ttl_s=None, actor=None, max_s=None)


class Program:
    """One that was not started yet."""

    pid = 2**30

    def __init__(self) -> None:
        self.signals: list[int] = []

    async def changed(self) -> None:
        await anyio.sleep_forever()

    def signal(self, number: int) -> None:
        self.signals.append(number)


class StoppedAtOnce(Holding):
    """Hears of a signal as soon as it listens, before anything else is done."""

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        self._take(signal.SIGTERM)
        task_status.started()


async def test_a_signal_before_anything_is_asked_for_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    context = CommandContext(
        url=f"sqlite://{tmp_path}/journal",
        environ={"KEYLANE_STATE_DIR": str(tmp_path / "state")},
        directory=tmp_path,
        stdin=BytesIO(),
        watched=False,
        show=said.append,
        warn=said.append,
        note=said.append,
    )
    program = Program()
    with anyio.fail_after(30):
        code = await StoppedAtOnce(TERMS, program, context).run()  # type: ignore[arg-type]
    assert code == 128 + signal.SIGTERM
    assert program.signals == [], "it waits for its turn to begin, and would never hear of it"
