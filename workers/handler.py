"""Calling a handler: from an item record to the report on it. No journal, no session, no deadlines.

What a handler does wrong becomes a report here, never an exception in the worker.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, get_args, get_origin

import anyio
import anyio.to_thread
import msgspec

from keylane.schemas.base import ErrorDetail
from keylane.schemas.errors import LeaseLost
from keylane.schemas.items import WorkItem
from keylane.schemas.results import Completed, Failed
from keylane.schemas.topics import REQUEST_BYTES_MAX
from keylane.workers.item import Done, Fail, Holding, Item, Retry, StaleVersion, cut, raw

log = logging.getLogger("keylane.workers")

RESULT_BYTES_MAX = REQUEST_BYTES_MAX - 16 * 1024
"""Of a result as JSON: what reports take, less what the report and its headers need around it."""

AnyHandler = Callable[..., Any]


class Handler(NamedTuple):
    """A function that does an action, with what its annotation says about the payload."""

    action: str
    call: AnyHandler
    decode: Callable[[msgspec.Raw], Any]
    is_async: bool


def handler_of(action: str, function: AnyHandler) -> Handler:
    """A handler for `action`. Its first parameter's annotation, `Item[Restart]`, says how to decode payloads.

    Raises TypeError when it takes no item, or its annotation cannot be resolved or decoded to.
    """
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    except NameError as error:
        raise TypeError(
            f"handler {action!r}: its annotations name {error.name!r}, which is not defined at module level"
        ) from error
    if not parameters:
        raise TypeError(f"handler {action!r} must take the item as its first parameter")
    annotation = parameters[0].annotation
    payload_type = get_args(annotation)[0] if get_origin(annotation) is Item else Any
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(payload_type)
    call = function if inspect.isroutine(function) else type(function).__call__
    return Handler(action, function, decoder.decode, inspect.iscoroutinefunction(call))


async def work(
    handler: Handler, record: WorkItem, holding: Holding, *, pool: str, traceparent: str | None = None
) -> Completed | Failed:
    """Call the handler and return what is to be reported. Only a cancellation gets out of here."""
    try:
        payload = handler.decode(record.payload)
        merged = [handler.decode(each) for each in record.merged]
    except (msgspec.MsgspecError, RecursionError) as error:
        return failed(record, pool, "BAD_PAYLOAD", f"the payload is not what the handler takes: {error}", final=True)
    item: Item[Any] = Item(record, payload, merged, holding, traceparent)
    try:
        done = await call(handler, item)
    except Fail as error:
        return failed(record, pool, "FAILED", _text(error), final=True)
    except StaleVersion as error:
        return failed(record, pool, "STALE_VERSION", str(error), final=True, observed_version=error.actual_version)
    except Retry as error:
        return failed(record, pool, "RETRY", _text(error), retry_after_ms=_retry_after_ms(error.after_s))
    except LeaseLost as error:
        return failed(record, pool, "FENCED", _text(error))
    except (Exception, SystemExit) as error:  # `sys.exit` in a handler must not end the other handlers
        # Its place is told here and nowhere else. `!a`: its message may repeat what an agent wrote.
        frames = "".join(traceback.format_tb(error.__traceback__))
        told = f"{type(error).__name__}: {_text(error)!a}"
        log.warning("%s, token %d: %s\n%s", record.action, record.token, told, frames)
        return failed(record, pool, "EXCEPTION", f"{type(error).__name__}: {_text(error)}")
    return completed(record, pool, done)


def _text(error: BaseException) -> str:
    """Its message, where it can say one."""
    try:
        return str(error)
    except Exception:
        return "its message cannot be told"


def _retry_after_ms(after_s: float | None) -> int | None:
    """None, which is the policy's own backoff, for what is no time."""
    if after_s is None:
        return None
    try:
        return max(0, round(after_s * 1000))
    except (TypeError, ValueError, OverflowError):
        return None


async def call(handler: Handler, item: Item[Any]) -> Done:
    """Call it where it belongs, a plain function in a thread, and return what it did.

    When cancelled, a thread is left behind: it cannot be stopped, only told by `Item.check`.
    """
    if handler.is_async:
        value = await handler.call(item)
    else:
        # The lane bounds how many items there are, so threads need no bound of their own.
        limiter = anyio.CapacityLimiter(1)
        value = await anyio.to_thread.run_sync(handler.call, item, abandon_on_cancel=True, limiter=limiter)
    return value if isinstance(value, Done) else Done(value)


def completed(record: WorkItem, pool: str, done: Done) -> Completed | Failed:
    """The report on an action that was done. When its result cannot be told the run fails for good: the action
    took place, so doing it again would be worse than an unknown result."""
    try:
        result = raw(done.result)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        return failed(record, pool, "BAD_RESULT", f"done, but its result is no JSON: {error}", final=True)
    try:
        versions = raw(msgspec.convert((done.version, done.observed_version), tuple[str | None, str | None]))
    except (ValueError, msgspec.ValidationError) as error:
        return failed(record, pool, "BAD_RESULT", f"done, but its version is no text: {error}", final=True)
    size = len(bytes(result)) + len(bytes(versions))
    if size > RESULT_BYTES_MAX:
        message = f"done, but its result of {size} bytes is over the {RESULT_BYTES_MAX} that a report takes"
        return failed(record, pool, "TOO_LARGE", message, final=True)
    return Completed(
        session=record.session,
        pool=pool,
        resource=record.resource,
        run=record.run,
        token=record.token,
        result=result,
        version=done.version,
        observed_version=done.observed_version,
    )


def failed(
    record: WorkItem,
    pool: str,
    code: str,
    message: str,
    *,
    final: bool = False,
    retry_after_ms: int | None = None,
    observed_version: str | None = None,
) -> Failed:
    """The report on an attempt that did not succeed; `final` ends the run. The message is cut."""
    return Failed(
        session=record.session,
        pool=pool,
        resource=record.resource,
        run=record.run,
        token=record.token,
        error=ErrorDetail(code=code, message=cut(message)),
        final=final,
        retry_after_ms=retry_after_ms,
        observed_version=observed_version,
    )
