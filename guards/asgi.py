"""`keylane.guards.http` before an ASGI application.

Stores block, so a guarded request is entered and left in a thread of its own, and the application runs in the loop in
between: a connection to a database is used by one thread only, and to leave never waits for a thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from typing import Any

from anyio import CapacityLimiter, from_thread, to_thread

from keylane.guards.http import HEADER, HttpGuard, answer, goes_by_no_token, path_name
from keylane.guards.stores import Tokens
from keylane.schemas.errors import KeylaneError

# What ASGI says, which is JSON and bytes.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
NAME = HEADER.lower().encode()
AT_ONCE_MAX = 40


def by_path(scope: Message) -> str:
    """A request's path, without its query."""
    path: str = scope["path"]
    return path_name(path.encode("utf-8", "surrogateescape"))


class AsgiGuard:
    """Lets a request through to `app` only under a token that is not too old; see `keylane.guards.http`.

    `resource` says what a request acts on, its path unless given: give one where several paths lead to one thing. A
    resource is held until the application has returned. At most `at_once` guarded requests are under way, the others
    wait. What is no request, websockets too, goes through unguarded, and so does who reads without a token.
    """

    def __init__(
        self,
        app: Application,
        tokens: Tokens,
        *,
        resource: Callable[[Message], str] = by_path,
        at_once: int = AT_ONCE_MAX,
    ) -> None:
        self._app = app
        self._guard = HttpGuard(tokens)
        self._resource = resource
        self._at_once = at_once
        self._limiter: CapacityLimiter | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        values = tuple(value.decode("latin-1") for name, value in scope["headers"] if name.lower() == NAME)
        if goes_by_no_token(scope["method"], values):  # else readers of long streams would keep all others waiting
            await self._app(scope, receive, send)
            return

        async def act() -> None:
            await self._app(scope, receive, send)

        def held() -> KeylaneError | None:
            with ExitStack() as stack:
                try:
                    stack.enter_context(self._guard.holding(scope["method"], self._resource(scope), values))
                except KeylaneError as error:
                    return error
                from_thread.run(act)
            return None

        # Made in a running loop, which the application need not be when it is put together.
        self._limiter = self._limiter or CapacityLimiter(self._at_once)
        error = await to_thread.run_sync(held, limiter=self._limiter)
        if error is not None:
            status, headers, body = answer(error)
            raw = [(name.lower().encode(), value.encode()) for name, value in headers]
            await send({"type": "http.response.start", "status": status.value, "headers": raw})
            await send({"type": "http.response.body", "body": body})
