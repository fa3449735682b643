"""A document that is read and written over real HTTP, as a WSGI application, and a server of threads to put it on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class Document:
    """GET and PUT of one text. Knows nothing of tokens."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.written: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            self.text = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
            self.written.append(self.text)
        body = self.text.encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]


class Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


class Threads(ThreadingMixIn, WSGIServer):
    """A thread a request."""


@contextmanager
def serving(app: WSGIApplication) -> Iterator[str]:
    """Yields the server's URL."""
    with make_server("127.0.0.1", 0, app, Threads, Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
