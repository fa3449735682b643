"""The guard of HTTP: before a WSGI application over real HTTP and under the standard's own checker, and before an ASGI
application in an event loop; both over both stores. What they refuse and how is the same, so the tests are."""

import json
import sqlite3
import threading
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.error import HTTPError
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import anyio
import pytest
from guards.servers import Document, serving
from guards.test_guard_stores import in_sql, memory

from keylane.guards import StaleToken, Unusable
from keylane.guards.asgi import AsgiGuard
from keylane.guards.asgi import by_path as asgi_path
from keylane.guards.http import HttpGuard, answer, token_headers
from keylane.guards.sql import SqlGuard
from keylane.guards.stores import MemoryTokens, SqlTokens, Tokens
from keylane.guards.wsgi import WsgiGuard
from keylane.guards.wsgi import by_path as wsgi_path

DEADLINE_S = 60.0
Headers = tuple[tuple[str, str], ...]


class Said(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """What the envelope holds."""
        envelope = json.loads(self.body)
        assert list(envelope) == ["error"]
        return dict(envelope["error"])


Ask = Callable[[str, str, Headers], Said]


def by_wsgi(tokens: Tokens, acted: list[str], **options: Any) -> Ask:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        acted.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"done"]

    guarded = validator(WsgiGuard(validator(app), tokens, **options))

    def ask(method: str, path: str, headers: Headers = ()) -> Said:
        environ: WSGIEnvironment = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": ""}
        for name, value in headers:
            key = f"HTTP_{name.upper().replace('-', '_')}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        setup_testing_defaults(environ)
        said: list[Any] = []
        parts = guarded(environ, lambda status, headers, exc_info=None: said.append((status, headers)) or bytes)  # type: ignore[arg-type,func-returns-value]
        body = b"".join(parts)
        parts.close()  # type: ignore[attr-defined]
        return Said(int(said[0][0].split()[0]), dict(said[0][1]), body)

    return ask


def by_asgi(tokens: Tokens, acted: list[str], **options: Any) -> Ask:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        acted.append(f"{scope['method']} {scope['path']}")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"done"})

    def ask(method: str, path: str, headers: Headers = ()) -> Said:
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        scope = {"type": "http", "method": method, "path": path, "headers": raw}
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        anyio.run(AsgiGuard(app, tokens, **options), scope, None, send)
        start, body = said
        names = {name.decode(): value.decode() for name, value in start["headers"]}
        return Said(start["status"], {name.title(): value for name, value in names.items()}, body["body"])

    return ask


DOORS = pytest.mark.parametrize("door", [by_wsgi, by_asgi])
STORES = pytest.mark.parametrize("make", [memory, in_sql])
Door = Callable[..., Ask]


def token(value: object) -> Headers:
    return (("Keylane-Token", str(value)),)


@DOORS
@STORES
def test_what_passes_and_what_does_not(tmp_path: Path, door: Door, make: Callable[[Path], Tokens]) -> None:
    acted: list[str] = []
    ask = door(make(tmp_path), acted)
    statuses = [ask("PUT", "/cart", token(number)).status for number in (5, 5, 9, 8, 9)]
    assert statuses == [200, 200, 200, 412, 200]
    assert acted == ["PUT /cart"] * 4
    refused = ask("DELETE", "/cart", token(8))
    assert (refused.status, refused.error["code"]) == (412, "FENCED")
    assert refused.error["message"] == "token 8 is too old for '/cart': 9 has been seen there"
    assert refused.headers["Content-Type"] == "application/json"
    assert refused.headers["Content-Length"] == str(len(refused.body))
    assert refused.headers["Cache-Control"] == "no-store"
    assert ask("PUT", "/other", token(1)).status == 200, "each path is a resource"


@DOORS
def test_a_change_without_a_token_is_refused_and_reading_needs_none(door: Door) -> None:
    acted: list[str] = []
    ask = door(MemoryTokens(), acted)
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        refused = ask(method, "/cart", ())
        assert (refused.status, refused.error["code"]) == (428, "TOKEN_REQUIRED")
    assert acted == []
    assert [ask(method, "/cart", ()).status for method in ("GET", "HEAD", "OPTIONS")] == [200, 200, 200]


@DOORS
def test_who_reads_before_a_change_shuts_lower_ones_out(door: Door) -> None:
    ask = door(MemoryTokens(), [])
    assert [ask("GET", "/cart", token(9)).status, ask("PUT", "/cart", token(8)).status] == [200, 412]
    assert ask("GET", "/cart", token(8)).status == 412


@DOORS
@pytest.mark.parametrize("value", ["", "nine", "-1", "+9", "9.0", "0", "9 8", "1e3", str(2**53), "9" * 400, "\xb9"])
def test_a_header_that_is_no_token(door: Door, value: str) -> None:
    acted: list[str] = []
    refused = door(MemoryTokens(), acted)("PUT", "/cart", token(value))
    assert (refused.status, refused.error["code"]) == (400, "BAD_TOKEN")
    assert acted == []


@DOORS
def test_two_headers_are_no_token(door: Door) -> None:
    refused = door(MemoryTokens(), [])("PUT", "/cart", token(9) + token(9))
    assert (refused.status, refused.error["code"]) == (400, "BAD_TOKEN")


@DOORS
def test_a_resource_that_cannot_be(door: Door) -> None:
    refused = door(MemoryTokens(), [])("PUT", "/" + "x" * 512, token(9))
    assert (refused.status, refused.error["code"]) == (400, "BAD_RESOURCE")


@DOORS
def test_the_resource_is_what_the_server_says(door: Door) -> None:
    tokens = MemoryTokens()
    ask = door(tokens, [], resource=lambda _: "deploy://cart")
    assert [ask("PUT", "/a", token(9)).status, ask("PUT", "/b", token(8)).status] == [200, 412]
    assert tokens.highest("deploy://cart") == 9


@DOORS
def test_who_is_held_up_is_told_when_to_try_again(door: Door) -> None:
    tokens = MemoryTokens(wait_s=0.01)
    with tokens.holding("/cart", 5):
        refused = door(tokens, [])("PUT", "/cart", token(9))
    assert (refused.status, refused.error["code"], refused.headers["Retry-After"]) == (503, "UNAVAILABLE", "1")


@pytest.mark.parametrize("path", ["/cart", "/a b", "/日本語", "/%2F", "/a;b=c,d", "/\n"])
def test_a_path_is_the_same_name_under_wsgi_and_asgi(path: str) -> None:
    name = wsgi_path({"SCRIPT_NAME": "", "PATH_INFO": path.encode().decode("latin-1")})
    assert name == asgi_path({"path": path})
    assert name.isascii() and name.isprintable()


def test_a_response_that_is_still_written_holds_the_resource() -> None:
    tokens, closed = MemoryTokens(wait_s=0.01), []

    class Parts:
        def __iter__(self) -> Any:
            yield b"one"
            yield b"two"

        def close(self) -> None:
            closed.append(True)

    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Parts()

    environ: WSGIEnvironment = {"HTTP_KEYLANE_TOKEN": "5", "REQUEST_METHOD": "PUT", "PATH_INFO": "/cart"}
    parts = WsgiGuard(app, tokens)(environ, lambda *_: bytes)  # type: ignore[arg-type,return-value]
    again = HttpGuard(tokens)
    assert next(iter(parts)) == b"one"
    with pytest.raises(Exception, match="UNAVAILABLE"), again.holding("PUT", "/cart", ["9"]):
        pass
    parts.close()  # type: ignore[attr-defined]
    assert closed == [True]
    with again.holding("PUT", "/cart", ["9"]):
        pass


def test_an_application_that_fails_lets_go_of_the_resource() -> None:
    tokens = MemoryTokens(wait_s=0.01)

    def app(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        raise ZeroDivisionError

    async def async_app(*_: Any) -> None:
        raise StaleToken("of its own", 1, 2)

    environ: WSGIEnvironment = {"HTTP_KEYLANE_TOKEN": "5", "REQUEST_METHOD": "PUT", "PATH_INFO": "/cart"}
    with pytest.raises(ZeroDivisionError):
        WsgiGuard(app, tokens)(environ, lambda *_: bytes)  # type: ignore[arg-type,return-value]
    scope = {"type": "http", "method": "PUT", "path": "/cart", "headers": [(b"keylane-token", b"6")]}
    with pytest.raises(StaleToken, match="of its own"):
        anyio.run(AsgiGuard(async_app, tokens), scope, None, None)
    with tokens.holding("/cart", 6):
        pass


def test_other_scopes_of_asgi_go_through() -> None:
    seen: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        anyio.run(AsgiGuard(app, MemoryTokens()), {"type": kind}, None, None)
    assert seen == ["lifespan", "websocket"]


@pytest.mark.anyio
async def test_an_application_behind_the_guard_has_the_context_of_its_request() -> None:
    trace, seen = ContextVar("trace", default="none"), []

    async def app(*_: Any) -> None:
        seen.append(trace.get())

    trace.set("of this request")
    scope = {"type": "http", "method": "PUT", "path": "/cart", "headers": [(b"keylane-token", b"5")]}
    await AsgiGuard(app, MemoryTokens())(scope, None, None)  # type: ignore[arg-type]
    assert seen == ["of this request"]


@STORES
@pytest.mark.anyio
async def test_many_requests_at_once_in_one_loop(tmp_path: Path, make: Callable[[Path], Tokens]) -> None:
    """More than may be under way, on one resource: each acts alone, none after a higher one, and nothing is stuck."""
    acting: list[int] = []
    acted: list[int] = []
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = int(dict(scope["headers"])[b"keylane-token"])
        acting.append(number)
        await anyio.lowlevel.checkpoint()
        assert acting == [number], "alone"
        acted.append(number)
        acting.clear()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    guarded = AsgiGuard(app, make(tmp_path), at_once=4)

    async def request(number: int) -> None:
        async def send(message: Any) -> None:
            if "status" in message:
                statuses.append(message["status"])

        headers = [(b"keylane-token", str(number).encode())]
        await guarded({"type": "http", "method": "PUT", "path": "/cart", "headers": headers}, None, send)  # type: ignore[arg-type]

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            for number in (7, 3, 9, 1, 20, 5, 12, 11, 19, 2, 18, 4):
                tasks.start_soon(request, number)
    assert acted == sorted(acted)
    assert acted[-1] == 20
    assert statuses.count(200) == len(acted) and statuses.count(412) == 12 - len(acted)


@pytest.mark.anyio
async def test_who_only_reads_keeps_no_guarded_request_waiting() -> None:
    """As many streams without a token as guarded requests may be under way, and none of them ends by itself."""
    written, reading = anyio.Event(), []

    async def app(scope: Any, *_: Any) -> None:
        if scope["method"] == "PUT":
            written.set()
        else:
            reading.append(scope)
            await written.wait()

    guarded = AsgiGuard(app, MemoryTokens(), at_once=2)
    scope = {"type": "http", "method": "GET", "path": "/cart", "headers": []}
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(guarded, scope, None, None)
            while len(reading) < 2:
                await anyio.lowlevel.checkpoint()
            await guarded(scope | {"method": "PUT", "headers": [(b"keylane-token", b"5")]}, None, None)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_request_that_is_cancelled_lets_go_of_the_resource() -> None:
    tokens, begun = MemoryTokens(wait_s=DEADLINE_S), anyio.Event()

    async def app(*_: Any) -> None:
        begun.set()
        await anyio.sleep_forever()

    scope = {"type": "http", "method": "PUT", "path": "/cart", "headers": [(b"keylane-token", b"5")]}
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(AsgiGuard(app, tokens), scope, None, None)
            await begun.wait()
            tasks.cancel_scope.cancel()
        await anyio.to_thread.run_sync(lambda: tokens.holding("/cart", 6).__enter__())


def test_a_server_started_anew_remembers_by_its_table(tmp_path: Path) -> None:
    guard, file = SqlGuard(sqlite3), tmp_path / "tokens.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        guard.create_table(connection)
    document = Document()
    for number, expected in ((9, 200), (8, 412), (9, 200)):
        app = WsgiGuard(document, SqlTokens(guard, lambda: sqlite3.connect(file)))
        with serving(app) as url:
            assert put(url + "/cart", f"by {number}", token_headers(number)) == expected
    assert document.text == "by 9"


def test_over_real_http_threads_at_once_leave_the_highest() -> None:
    """And without the guard a lower token is last as soon as it comes last."""
    document, together = Document(), threading.Barrier(4)
    with serving(WsgiGuard(document, MemoryTokens())) as url:

        def client(number: int) -> list[int]:
            together.wait(DEADLINE_S)
            return [put(url + "/cart", str(each), token_headers(each)) for each in range(1 + number, 81, 4)]

        with ThreadPoolExecutor(4) as threads:
            statuses = [status for each in threads.map(client, range(4)) for status in each]
        assert set(statuses) == {200, 412}
        assert document.text == "80"
        numbers = [int(each) for each in document.written]
        assert numbers == sorted(numbers)
    with serving(document) as url:
        assert put(url + "/cart", "late", token_headers(8)) == 200
        assert document.text == "late"


def put(url: str, text: str, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, data=text.encode(), headers=headers, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


# What a client sends, and the plain check.


def test_the_headers_of_what_is_held() -> None:
    item, lease = SimpleNamespace(token=7), SimpleNamespace(resources={"deploy://a": 8})
    both = SimpleNamespace(resources={"deploy://a": 8, "deploy://b": 9})
    assert token_headers(7) == token_headers(item) == {"Keylane-Token": "7"}
    assert token_headers(lease) == token_headers(both, "deploy://a") == {"Keylane-Token": "8"}
    assert token_headers(both, "deploy://b") == {"Keylane-Token": "9"}
    for held, resource in ((both, None), (both, "deploy://c"), (lease, "deploy://c"), (0, None), (True, None)):
        with pytest.raises(Unusable):
            token_headers(held, resource)  # type: ignore[arg-type]


def test_a_refusal_by_an_application_of_its_own_is_answered_alike() -> None:
    said = answer(StaleToken("deploy://a", 7, 9))
    assert said.status == HTTPStatus.PRECONDITION_FAILED
    assert json.loads(said.body)["error"]["code"] == "FENCED"
