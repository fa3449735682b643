"""A small server over real HTTP that does with one kind of object what the Kubernetes API server does with
`resourceVersion`. It is no API server: that is all it has of one.

- Each write gives the object a new `resourceVersion`, an opaque text; a write that changes nothing gives none.
- A PUT with another `resourceVersion` than the object has is refused with 409 and a Status, whose reason is Conflict.
- A PUT without one replaces the object whatever it is, as it does for most kinds.
- Names, `uid` and `kind` cannot be changed (422); what is not there is 404; without the bearer token it is 401.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BEARER = "secret-of-the-service-account"
Object = dict[str, Any]


class Refusal(Exception):
    """Answered as a Status object."""

    def __init__(self, status: HTTPStatus, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": status.value,
        }


class Cluster:
    """Objects by path, and every write that was taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self._version = 4_711
        self.writes: list[Object] = []
        self.before_write: Callable[[], None] = lambda: None
        """Called before a PUT is looked at: others may write in between."""
        self.url = ""

    def create(self, path: str, found: Object) -> str:
        """Returns its URL."""
        with self._lock:
            self._objects[path] = deepcopy(found)
            self._objects[path]["metadata"]["uid"] = f"uid-{len(self._objects)}"
            self._stamp(self._objects[path])
        return self.url + path

    def get(self, path: str) -> Object:
        with self._lock:
            return deepcopy(self._existing(path))

    def put(self, path: str, new: Object) -> Object:
        with self._lock:
            old = self._existing(path)
            told, is_now = new["metadata"].get("resourceVersion"), old["metadata"]["resourceVersion"]
            if told not in (None, "", is_now):
                message = (
                    f'Operation cannot be fulfilled on deployments.apps "{old["metadata"]["name"]}": the object has '
                    "been modified; please apply your changes to the latest version and try again"
                )
                raise Refusal(HTTPStatus.CONFLICT, "Conflict", message)
            for field in ("name", "namespace", "uid"):
                if new["metadata"].get(field, old["metadata"][field]) != old["metadata"][field]:
                    raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", f"{field}: field is immutable")
            if new["kind"] != old["kind"]:
                raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", "kind: field is immutable")
            new = deepcopy(new)
            new["metadata"]["resourceVersion"] = is_now
            new["metadata"]["uid"] = old["metadata"]["uid"]
            if new != old:
                self._stamp(new)
                self._objects[path] = new
                self.writes.append(deepcopy(new))
            return deepcopy(new)

    def _existing(self, path: str) -> Object:
        if path not in self._objects:
            raise Refusal(HTTPStatus.NOT_FOUND, "NotFound", f'deployments.apps "{path.rsplit("/", 1)[1]}" not found')
        return self._objects[path]

    def _stamp(self, found: Object) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)


def deployment(name: str, image: str, namespace: str = "shop") -> tuple[str, Object]:
    """Its path and itself."""
    found = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"template": {"spec": {"containers": [{"name": name, "image": image}]}}},
    }
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}", found


def image_of(found: Object) -> str:
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


def set_image(found: Object, image: str) -> None:
    found["spec"]["template"]["spec"]["containers"][0]["image"] = image


@contextmanager
def serving() -> Iterator[Cluster]:
    """A cluster that is reached at its `url`."""
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(lambda: cluster.get(self.path))

        def do_PUT(self) -> None:
            new = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            cluster.before_write()
            self._answer(lambda: cluster.put(self.path, new))

        def _answer(self, what: Callable[[], Object]) -> None:
            status = HTTPStatus.OK
            try:
                if self.headers["Authorization"] != f"Bearer {BEARER}":
                    raise Refusal(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")
                body = what()
            except Refusal as refusal:
                status, body = refusal.status, refusal.body
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield cluster
        finally:
            server.shutdown()
            thread.join()
