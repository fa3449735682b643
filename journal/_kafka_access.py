"""Why a broker and this process do not let each other in, or what was asked be done: found out, and said.

aiokafka tells its log, and its caller only that no broker could be reached. Here is asked once more, and here are
the words for what was answered. What a client is made with is `_kafka_connection.py`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Collection, Iterator

from aiokafka.conn import AIOKafkaConnection, collect_hosts
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from ._kafka_connection import PASSWORD, Cluster
from .errors import AccessDenied, Unavailable

QUESTION_TIMEOUT_MS = 3_000
CLOSE_TIMEOUT_S = 1.0
# X509_V_ERR_…: of OpenSSL, which `ssl.SSLCertVerificationError.verify_code` has.
UNKNOWN_ISSUER = (18, 19, 20, 21)
OTHER_NAME = (62, 64)
NAME = re.compile(r"[\w.-]+")
RIGHTS: tuple[tuple[type[KafkaError], str], ...] = (
    (TopicAuthorizationFailedError, "topic"),
    (GroupAuthorizationFailedError, "group"),
    (TransactionalIdAuthorizationFailed, "transactional id"),
    (ClusterAuthorizationFailedError, "cluster"),
)


class Quiet(logging.Filter):
    """At level debug, aiokafka writes down what it sends, the password of SASL among it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps all but requests that authenticate."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(type(each).__name__.startswith("SaslAuthenticate") for each in arguments)


logging.getLogger("aiokafka.conn").addFilter(Quiet())


async def begin(cluster: Cluster, starting: Awaitable[None]) -> None:
    """Start a client of aiokafka. Raises `AccessDenied` or `Unavailable` with the cause where no broker let it in."""
    try:
        await starting
    except KafkaConnectionError as error:
        found = await why_not(cluster, [(host, port) for host, port, _ in collect_hosts(cluster.servers)])
        if found is None:
            raise
        raise found from error


async def why_not(cluster: Cluster, addresses: Collection[tuple[str, int]]) -> AccessDenied | Unavailable | None:
    """What keeps this process from the brokers at `addresses`: one's denial, else why each of them did not answer."""
    reasons = []
    for host, port in addresses:
        connection = AIOKafkaConnection(host, port, request_timeout_ms=QUESTION_TIMEOUT_MS, **cluster.security)
        try:
            await connection.connect()
            await connection.send(MetadataRequest([]))
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            where = f"{host}:{port}"
            if said := denial(error):
                return AccessDenied(f"connecting to {where}: {said}")
            reasons.append(f"{where}: {_unanswered(error, cluster)}")
        finally:
            closed = connection.close()
            if connection._protocol is not None:  # else nothing was opened, and nothing will be said to be closed
                await asyncio.wait([closed], timeout=CLOSE_TIMEOUT_S)
    return Unavailable(f"connecting to {'; '.join(reasons)}") if reasons else None


def denial(error: BaseException) -> str | None:
    """What is not trusted or not allowed, and what to do about it; None where that is not what is wrong."""
    for cause in _causes(error):
        for kind, name in RIGHTS:
            if isinstance(cause, kind):
                where = _where(name, cause)
                return f"the broker gives this user no right to that{where}: SECURITY.md has what each role needs"
        if said := _not_let_in(cause):
            return said
    return None


def _not_let_in(error: BaseException) -> str | None:
    match error:
        case SaslAuthenticationFailed():
            said = f" ({error.args[0]})" if error.args and error.args[0] else ""
            return f"the broker does not accept the user or its password{said}: check user, password_file or {PASSWORD}"
        case UnsupportedSaslMechanismError():
            return "this listener does not offer that SASL mechanism: name another one by sasl="
        case IllegalSaslStateError():
            return "this listener has no SASL: leave sasl out, or take the port of another listener"
        case ssl.SSLCertVerificationError():
            said = f"the broker's certificate is not accepted: {error.verify_message}"
            if error.verify_code in UNKNOWN_ISSUER:
                return f"{said}: name the CA that signed it by ca=PATH"
            if error.verify_code in OTHER_NAME:
                return f"{said} The URL, and advertised.listeners of the broker, need a name that is in it"
            return said
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
            return f"the broker ended TLS ({reason}): it may want a certificate that it trusts, by cert=PATH"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return "this listener has no TLS: leave tls out, or take the port of another listener"
    return None


def _unanswered(error: BaseException, cluster: Cluster) -> str:
    if isinstance(error, KafkaConnectionError | ConnectionResetError | ssl.SSLEOFError):
        wanted = "without TLS, or with SASL" if "ssl_context" in cluster.security else "with TLS, or with SASL"
        return f"it ended the connection: it may be starting, or be a listener {wanted}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


def _where(kind: str, error: BaseException) -> str:
    """Which topic and so on: aiokafka gives one, several or none, and our own admin client the broker's sentence."""
    found = error.args[0] if error.args else None
    names = sorted(map(str, found)) if isinstance(found, set | frozenset | list | tuple) else [str(found or "")]
    if all(NAME.fullmatch(name) for name in names):
        return f" on {kind} {', '.join(names)}"
    return f" ({', '.join(names)})" if any(names) else f" on the {kind}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: aiokafka wraps what happens in its tasks."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
