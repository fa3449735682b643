"""The commands of a requester: `submit`, `request`, `who`, `cancel`. Thin: `keylane.client` does the work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_answers import CancelAnswered
from keylane.cli_context import CommandContext, Context, UsageError

if TYPE_CHECKING:
    from keylane.submitting import SubmitOptions

Flag = Parameter(negative="")


@Parameter(name="*")
@dataclass(frozen=True)
class SubmitFlags:
    """What `submit` takes besides what is asked for: the options of `Client.submit`.

    Parameters
    ----------
    id:
        The request's id. The same id with the same content is answered, not done again.
    actor:
        Who asks, for people. Else KEYLANE_ACTOR, else you at this host.
    reject_if_busy:
        Refuse (LOCK_HELD, exit code 75) instead of waiting when the resource is held or waited for.
    deadline:
        Seconds after which you no longer want it, unless it is held then.
    idempotency_key:
        Remembers accepted work beyond the request id.
    expected_version:
        The version of the resource that you read and decided on.
    coalesce_key:
        Merges with requests under the same key, whatever their payload.
    requires:
        An action that must be the last completed one on the resource. May be repeated.
    """

    id: str | None = None
    actor: str | None = None
    reject_if_busy: Annotated[bool, Flag] = False
    deadline: float | None = None
    idempotency_key: str | None = None
    expected_version: str | None = None
    coalesce_key: str | None = None
    requires: Annotated[tuple[str, ...], Parameter(negative="")] = ()

    def options(self) -> SubmitOptions:
        """The same, by the names that the client has for them."""
        return {
            "request_id": self.id,
            "idempotency_key": self.idempotency_key,
            "expected_version": self.expected_version,
            "coalesce_key": self.coalesce_key,
            "reject_if_busy": self.reject_if_busy,
            "requires": self.requires,
            "deadline_s": self.deadline,
        }


NO_FLAGS = SubmitFlags()


async def submit(
    resource: str,
    action: str,
    /,
    *,
    data: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    wait: Annotated[bool, Flag] = False,
    flags: SubmitFlags = NO_FLAGS,
    context: Context,
) -> msgspec.Struct:
    """Ask for work on a resource. Prints the request's id once a router accepted it, or the outcome.

    Parameters
    ----------
    resource:
        What is acted on: a URI or an ARN.
    action:
        What a worker is to do.
    data:
        The payload: JSON, @FILE, or - for standard input.
    wait:
        Wait for the end and print the outcome: exit code 0 completed, 1 failed, 5 anything else.
    """
    from keylane.client import Client

    payload = _payload(data, context)
    async with Client(context.url, actor=flags.actor) as client:
        ticket = await client.submit(resource, action, payload, **flags.options())
        context.note(f"published as {ticket.request_id}")
        status = await ticket.accepted()
        if status.unserved:
            context.warn(f"no worker handles {action!r} now: the request waits until one does, or expires")
        if not wait and status.outcome is None:
            return status
        return await ticket.outcome()


async def request(resource: str, request_id: str, /, *, context: Context) -> msgspec.Struct:
    """Show how a request stands, or how it ended.

    Parameters
    ----------
    resource:
        The resource that it named.
    request_id:
        Its id, as `keylane submit` printed it.
    """
    from keylane.client import Client

    async with Client(context.url) as client:
        return await client.status(resource, request_id)


async def who(resource: str, /, *, context: Context) -> msgspec.Struct:
    """Show who holds a resource, who waits for it, and how the last work on it ended.

    Parameters
    ----------
    resource:
        A URI or an ARN.
    """
    from keylane.client import Client

    async with Client(context.url) as client:
        return await client.who(resource)


async def cancel(resource: str, request_id: str, /, *, actor: str | None = None, context: Context) -> msgspec.Struct:
    """Withdraw a request. Where its work is under way and nobody else wants it, its holder is asked to stop.

    Parameters
    ----------
    resource:
        The resource that it named.
    request_id:
        Its id.
    actor:
        Who cancels, for people.
    """
    from keylane.client import Client

    async with Client(context.url, actor=actor) as client:
        answer = await client.cancel(resource, request_id)
    return CancelAnswered(request_id=request_id, resource=resource, answer=answer)


def _payload(data: str | None, context: CommandContext) -> object:
    if data is None:
        return None
    try:
        if data == "-":
            raw = context.stdin.read()
        elif data.startswith("@"):
            raw = (context.directory / Path(data[1:])).read_bytes()
        else:
            raw = data.encode()
        msgspec.json.decode(raw)
        return msgspec.Raw(raw)  # as it was written: numbers keep their digits
    except OSError as error:
        raise UsageError(f"--data {data}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UsageError(f"--data is not JSON: {error}. Quote text twice: --data '\"text\"'") from error
