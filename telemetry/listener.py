"""The HTTP listener of a process: `/metrics`, `/healthz`, `/readyz`. Read-only, and on loopback unless said otherwise.

It answers from threads of its own, so that a stuck event loop can be seen from outside. What is counted and what
ready means are its callers'.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from .address import BadAddress, parse_address

REQUEST_S_MAX = 10.0
"""A client that sends nothing is cut off."""
POLL_S = 0.1
"""How often the server looks whether it is to stop."""
JSON = [("Content-Type", "application/json")]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # Without the base class's look-up of this machine's name, which can take seconds where DNS is slow.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is nobody's error."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S_MAX

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes come every few seconds: no line for each."""


@contextmanager
def listening(
    address: str,
    *,
    exposed: bool,
    registry: CollectorRegistry,
    is_alive: Callable[[], bool],
    why_unready: Callable[[], Sequence[str]],
) -> Iterator[str]:
    """Serve at `address` ("127.0.0.1:9464"; port 0: any free one) while the body runs; yields the URL without a path.

    `is_alive` and `why_unready` (nothing: ready) are called from other threads. Raises `BadAddress`; without
    `exposed` also for an address that is not of the loopback.
    """
    host, port = parse_address(address, exposed=exposed)
    kind = _ServerV6 if ":" in host else _Server
    try:
        server = kind((host, port), _Handler)
    except OSError as error:
        raise BadAddress(
            f"metrics cannot listen on {address}: {error.strerror}; choose another port, or 0 for any free one"
        ) from None
    server.set_app(_application(registry, is_alive, why_unready))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_S}, name="metrics", daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _application(
    registry: CollectorRegistry, is_alive: Callable[[], bool], why_unready: Callable[[], Sequence[str]]
) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            start("405 Method Not Allowed", [("Allow", "GET"), ("Content-Length", "0")])
            return []
        match environ.get("PATH_INFO"):
            case "/metrics":
                found: Iterable[bytes] = metrics(environ, start)
                return found
            case "/healthz":
                alive = is_alive()
                return _json(start, alive, {"alive": alive})
            case "/readyz":
                why = [] if is_alive() else ["the event loop does not turn"]
                why += why_unready()
                return _json(start, not why, {"ready": not why, "why": why})
        start("404 Not Found", [("Content-Length", "0")])
        return []

    return answer


def _json(start: Callable[..., Any], is_well: bool, body: dict[str, object]) -> Iterable[bytes]:
    text = json.dumps(body).encode() + b"\n"
    start("200 OK" if is_well else "503 Service Unavailable", [*JSON, ("Content-Length", str(len(text)))])
    return [text]
