"""What a handler raises or returns, however odd, becomes a report that the lane can read: never the worker's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keylane.schemas import codec
from keylane.schemas.items import WorkItem
from keylane.schemas.results import Completed, Failed
from keylane.workers import Fail, Item, Retry
from keylane.workers.handler import RESULT_BYTES_MAX, handler_of, work
from keylane.workers.item import Saved, cut

pytestmark = pytest.mark.anyio

ITEM = WorkItem(
    session="s", number=1, heartbeat=0, run="r", resource="deploy://api", owner="deploy://api", action="restart",
    token=7, attempt=1, lease_ms=1_000,
)  # fmt: skip
HALF_A_PAIR = "caf\udce9"
"""As `os.fsdecode` gives for a file name that is no UTF-8."""


class Holding:
    async def progress(self, saved: Saved) -> None: ...

    def check(self) -> None: ...


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyError("message")


async def reported(function: Callable[..., Any]) -> Completed | Failed:
    """The report as a lane reads it."""
    report = await work(handler_of("restart", function), ITEM, Holding(), pool="default")
    read = codec.decode_result(codec.encode(report))
    assert isinstance(read, Completed | Failed), read
    return read


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Retry(float("inf")), "RETRY"),
        (Retry(float("nan")), "RETRY"),
        (Retry("5", "soon"), "RETRY"),  # type: ignore[arg-type]
        (Fail(HALF_A_PAIR), "FAILED"),
        (OSError(HALF_A_PAIR), "EXCEPTION"),
        (Mute(), "EXCEPTION"),
        (SystemExit(1), "EXCEPTION"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_whatever_is_raised_is_reported(error: BaseException, code: str, in_a_thread: bool) -> None:
    def plain(item: Item[Any]) -> None:
        raise error

    async def task(item: Item[Any]) -> None:
        raise error

    report = await reported(plain if in_a_thread else task)
    assert isinstance(report, Failed)
    assert report.error.code == code


@pytest.mark.parametrize(
    ("version", "code"), [(5, "BAD_RESULT"), (HALF_A_PAIR, "BAD_RESULT"), ("v" * RESULT_BYTES_MAX, "TOO_LARGE")]
)
async def test_a_version_that_cannot_be_told_ends_the_run(version: Any, code: str) -> None:
    async def restart(item: Item[Any]) -> Any:
        return item.done(version=version)

    report = await reported(restart)
    assert isinstance(report, Failed)
    assert (report.error.code, report.final) == (code, True)


def test_text_for_people_can_always_be_encoded() -> None:
    assert cut(HALF_A_PAIR) == "caf?"
