"""The guard of Kubernetes: the highest token is an annotation of the object, and is compared and written with it.

An object is read and its annotation compared; then it is written with the `resourceVersion` that was read, which the
API server refuses with 409 when somebody wrote in between. After a 409 it is read and compared again, a few times. So
check and change are one atomic step, though the API server knows nothing of tokens.

`resourceVersion` alone stops nobody who wakes up late and reads again before writing, as clients do that try again on
conflicts. No client library is needed: any two functions that read and replace one object will do, and `HttpObject` has
them over plain HTTP.
"""

from __future__ import annotations

import json
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.error import HTTPError

from keylane.guards.tokens import Busy, StaleToken, Unusable, check_token, parse_token

ANNOTATION = "keylane.dev/token"
ATTEMPTS = 5
BACKOFF_S = 0.01
"""Before the second attempt; doubles."""
TIMEOUT_S = 10.0
STATUS_BYTES_MAX = 65_536

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


def change(
    read: Callable[[], Object],
    replace: Callable[[Object], Object],
    token: int,
    edit: Callable[[Object], object],
    *,
    annotation: str = ANNOTATION,
    attempts: int = ATTEMPTS,
) -> Object:
    """Read an object, `edit` it in place and replace it, under `token`; returns what `replace` does.

    `edit` may be called again, each time with the object as it then is. With one that does nothing the token is
    remembered before a change: from then on lower ones are refused. `replace` raises an exception with a `status`
    or `code` of 409 where the object has changed since it was read; its other errors come as they are, and after one
    that leaves open what was done, do the same again: an equal token passes. One object belongs to one resource of
    keylane, since tokens of several cannot be compared.

    Raises StaleToken; Unusable, also where the annotation is no token or the object has no `resourceVersion`, without
    which it would be replaced whatever it is now; and Busy after `attempts` conflicts.
    """
    check_token(token)
    for attempt in range(attempts):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        found = read()
        metadata = found["metadata"]
        version = metadata.get("resourceVersion")
        if not version:
            raise Unusable("BAD_TARGET", f"{_name(found)} has no resourceVersion to compare by")
        seen = highest(found, annotation)
        if seen is not None and token < seen:
            raise StaleToken(_name(found), token, seen)
        edit(found)
        metadata = found["metadata"]
        metadata["annotations"] = {**(metadata.get("annotations") or {}), annotation: str(token)}
        metadata["resourceVersion"] = version
        try:
            return replace(found)
        except Exception as error:
            if not _is_conflict(error):
                raise
    raise Busy(f"somebody else has written the object each time, {attempts} times")


def highest(found: Mapping[str, Any], annotation: str = ANNOTATION) -> int | None:
    """The highest token that was let pass for an object that was read; None where none was."""
    text = (found["metadata"].get("annotations") or {}).get(annotation)
    return None if text is None else parse_token(text, f"the annotation {annotation} of {_name(found)}")


class HttpObject:
    """One object at `url`, such as `https://HOST/apis/apps/v1/namespaces/shop/deployments/cart`.

    `headers` are sent with each request (`{"Authorization": f"Bearer {token}"}`), `context` says which CA to trust and
    which certificate to show. Redirects are refused, which would take the headers elsewhere.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._url = url
        self._headers = {**(headers or {}), "Accept": "application/json"}
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context))

    def read(self) -> Object:
        """The object as it is. Raises `urllib.error.HTTPError` and `URLError`."""
        return self._ask("GET", None)

    def replace(self, found: Object) -> Object:
        """Write the object whole, and return it as it is then. Raises as `read`; 409 where it has changed since."""
        return self._ask("PUT", json.dumps(found).encode())

    def _ask(self, method: str, body: bytes | None) -> Object:
        request = urllib.request.Request(self._url, data=body, headers=dict(self._headers), method=method)
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                said: Object = json.load(response)
                return said
        except HTTPError as error:
            raise _explained(error) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """None: the answer that redirects is the answer, and an error."""


def _explained(error: HTTPError) -> HTTPError:
    """The error with what the API server says of it in its Status, and closed."""
    with error:
        body = error.read(STATUS_BYTES_MAX)
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = error.msg
    return HTTPError(error.url, error.code, message, error.headers, BytesIO(body))


def _is_conflict(error: Exception) -> bool:
    """By `code` (urllib) or `status` (the Kubernetes client): whichever of them is a number."""
    return HTTPStatus.CONFLICT in (getattr(error, "code", None), getattr(error, "status", None))


def _name(found: Mapping[str, Any]) -> str:
    metadata = found["metadata"]
    parts = (found.get("kind"), metadata.get("namespace"), metadata.get("name"))
    return "/".join(str(part) for part in parts if part)
