"""Calling handlers: what their annotations, results and exceptions become on the record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import msgspec
import pytest

from keylane.schemas.items import Checkpoint, WorkItem
from keylane.schemas.results import Completed, Failed
from keylane.workers import Done, Fail, Item, LeaseLost, Retry, Worker
from keylane.workers.handler import RESULT_BYTES_MAX, handler_of, work
from keylane.workers.item import TEXT_CHARACTERS_MAX, Saved

pytestmark = pytest.mark.anyio


class Restart(msgspec.Struct):
    reason: str


class Restarted(msgspec.Struct):
    pods: int


class Holding:
    """Notes what is saved; `lost` makes it refuse."""

    def __init__(self) -> None:
        self.saved: list[Saved] = []
        self.lost = False

    async def progress(self, saved: Saved) -> None:
        self.check()
        self.saved.append(saved)

    def check(self) -> None:
        if self.lost:
            raise LeaseLost("lost")


def record(payload: str = '{"reason":"oom"}', **fields: Any) -> WorkItem:
    return WorkItem(
        session="s",
        number=1,
        heartbeat=0,
        run="r",
        resource="deploy://api",
        owner="deploy://api",
        action="restart",
        payload=msgspec.Raw(payload.encode()),
        token=7,
        attempt=1,
        lease_ms=1_000,
        **fields,
    )


async def outcome(function: Callable[..., Any], item: WorkItem | None = None) -> Completed | Failed:
    return await work(handler_of("restart", function), item or record(), Holding(), pool="p")


async def error_of(function: Callable[..., Any], item: WorkItem | None = None) -> tuple[str, str, bool]:
    report = await outcome(function, item)
    assert isinstance(report, Failed)
    return report.error.code, report.error.message, report.final


async def test_an_unexpected_exception_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(item: Item) -> None:
        raise ValueError("odd\x1b[31m")

    await outcome(broken)
    assert "restart, token 7: ValueError: 'odd\\x1b[31m'" in caplog.text
    assert ", in broken\n" in caplog.text


async def test_async_handler_runs_in_the_event_loop_and_its_value_is_the_result() -> None:
    async def restart(item: Item[Restart]) -> Restarted:
        await anyio.lowlevel.checkpoint()
        assert threading.current_thread() is threading.main_thread()
        return Restarted(len(item.payload.reason))

    report = await outcome(restart)
    assert report == Completed(
        session="s", pool="p", resource="deploy://api", run="r", token=7, result=msgspec.Raw(b'{"pods":3}')
    )


async def test_plain_handler_runs_in_a_thread() -> None:
    def restart(item: Item[Restart]) -> str:
        return str(threading.current_thread() is threading.main_thread())

    report = await outcome(restart)
    assert isinstance(report, Completed)
    assert bytes(report.result) == b'"False"'


async def test_object_with_an_async_call_is_an_async_handler() -> None:
    class Restarter:
        async def __call__(self, item: Item[Restart]) -> str:
            return item.payload.reason

    report = await outcome(Restarter())
    assert isinstance(report, Completed)
    assert bytes(report.result) == b'"oom"'


async def test_done_carries_versions() -> None:
    async def restart(item: Item[Restart]) -> Done:
        return item.done({"ok": True}, version="v2", observed_version="v3")

    report = await outcome(restart)
    assert isinstance(report, Completed)
    assert (report.version, report.observed_version) == ("v2", "v3")


async def test_payload_without_annotation_is_plain_json_and_merged_ones_are_decoded_alike() -> None:
    async def restart(item):  # type: ignore[no-untyped-def]
        return [item.payload, *item.merged]

    report = await outcome(restart, record("[1]", merged=(msgspec.Raw(b"{}"), msgspec.Raw(b"null"))))
    assert isinstance(report, Completed)
    assert bytes(report.result) == b"[[1],{},null]"


@pytest.mark.parametrize("payload", ['{"reason":1}', "null", "{}"])
async def test_payload_that_is_not_of_the_type_ends_the_run(payload: str) -> None:
    async def restart(item: Item[Restart]) -> None:
        raise AssertionError("must not be called")

    code, message, final = await error_of(restart, record(payload))
    assert (code, final) == ("BAD_PAYLOAD", True)
    assert "the payload is not what the handler takes" in message


async def test_what_a_handler_raises() -> None:
    def raising(error: Exception) -> Callable[..., Any]:
        async def restart(item: Item[Restart]) -> None:
            raise error

        return restart

    assert await error_of(raising(Fail("no such pod"))) == ("FAILED", "no such pod", True)
    assert await error_of(raising(ValueError("odd"))) == ("EXCEPTION", "ValueError: odd", False)
    code, message, final = await error_of(raising(ValueError("x" * 5_000)))
    assert (code, len(message), final) == ("EXCEPTION", TEXT_CHARACTERS_MAX, False)
    report = await outcome(raising(Retry(1.5)))
    assert isinstance(report, Failed)
    assert (report.error.code, report.final, report.retry_after_ms) == ("RETRY", False, 1_500)


async def test_expected_version_that_differs_ends_the_run_as_stale() -> None:
    async def restart(item: Item[Restart]) -> None:
        item.expect("v9")

    code, _, final = await error_of(restart, record(expected_version="v8"))
    assert (code, final) == ("STALE_VERSION", True)
    report = await outcome(restart, record(expected_version="v8"))
    assert isinstance(report, Failed) and report.observed_version == "v9", "the lane learns what it is"
    assert isinstance(await outcome(restart, record(expected_version="v9")), Completed)
    assert isinstance(await outcome(restart, record()), Completed)


async def test_result_that_cannot_be_told_ends_the_run() -> None:
    async def strange(item: Item[Restart]) -> object:
        return object()

    async def huge(item: Item[Restart]) -> str:
        return "x" * RESULT_BYTES_MAX

    assert [(code, final) for code, _, final in [await error_of(strange), await error_of(huge)]] == [
        ("BAD_RESULT", True),
        ("TOO_LARGE", True),
    ]


async def test_progress_is_encoded_and_cut_also_from_a_thread() -> None:
    def restart(item: Item[Restart]) -> None:
        save = lambda: item.progress(  # noqa: E731
            {"step": 1}, evidence=[2], open_questions=["q" * 5_000] * 100, blocked="why"
        )
        anyio.from_thread.run(save)

    holding = Holding()
    report = await work(handler_of("restart", restart), record(), holding, pool="p")
    assert isinstance(report, Completed)
    (saved,) = holding.saved
    assert (bytes(saved.checkpoint), bytes(saved.evidence), saved.blocked) == (b'{"step":1}', b"[2]", "why")
    assert (len(saved.open_questions), len(saved.open_questions[0])) == (32, TEXT_CHARACTERS_MAX)


async def test_checkpoint_of_the_attempt_before_is_plain_json() -> None:
    async def restart(item: Item[Restart]) -> Any:
        assert item.checkpoint is not None
        return [item.checkpoint.data, item.checkpoint.evidence, item.previous_end]

    saved = Checkpoint(data=msgspec.Raw(b'{"step":1}'), open_questions=("why",))
    report = await outcome(restart, record(checkpoint=saved, previous_end="lost"))
    assert isinstance(report, Completed)
    assert bytes(report.result) == b'[{"step":1},null,"lost"]'


def test_what_cannot_be_a_handler_is_refused_where_it_is_declared() -> None:
    worker = Worker("memory://none")

    with pytest.raises(TypeError, match="must take the item"):

        @worker.handler("a")
        def nothing() -> None: ...

    with pytest.raises(TypeError, match="'Unknown', which is not defined at module level"):

        @worker.handler("b")
        def unknown(item: Item[Unknown]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    worker.handler("c")(lambda item: None)
    with pytest.raises(ValueError, match="has a handler already"):
        worker.handler("c")(lambda item: None)
