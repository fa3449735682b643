"""`keylane.guards.http` before a WSGI application (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from keylane.guards.http import HttpGuard, answer, path_name
from keylane.guards.stores import Tokens
from keylane.schemas.errors import KeylaneError


def by_path(environ: WSGIEnvironment) -> str:
    """A request's path, without its query."""
    # PEP 3333: bytes, written as the characters of Latin-1.
    return path_name((environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1"))


class WsgiGuard:
    """Lets a request through to `app` only under a token that is not too old; see `keylane.guards.http`.

    `resource` says what a request acts on, its path unless given: give one where several paths lead to one thing. A
    resource is held until its response is closed, so that a slow request has acted before a higher token passes.
    """

    def __init__(
        self, app: WSGIApplication, tokens: Tokens, *, resource: Callable[[WSGIEnvironment], str] = by_path
    ) -> None:
        self._app = app
        self._guard = HttpGuard(tokens)
        self._resource = resource

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        value = environ.get("HTTP_KEYLANE_TOKEN")
        with ExitStack() as stack:
            try:
                resource = self._resource(environ)
                values = () if value is None else (value,)
                stack.enter_context(self._guard.holding(environ["REQUEST_METHOD"], resource, values))
            except KeylaneError as error:
                status, headers, body = answer(error)
                start_response(f"{status.value} {status.phrase}", headers)
                return [body]
            return _Response(self._app(environ, start_response), stack.pop_all())


class _Response:
    """What the application answers; the server closes it, which lets go of the resource."""

    def __init__(self, parts: Iterable[bytes], held: ExitStack) -> None:
        self._parts = parts
        self._held = held

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    def close(self) -> None:
        with self._held:
            if hasattr(self._parts, "close"):
                self._parts.close()
