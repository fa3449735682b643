"""Where a Kafka cluster is and how to get in: TLS and SASL, from a URL's options and from files and variables.

Nothing is connected here, and this is the one place that reads secrets. They come from files, or from
`KEYLANE_KAFKA_PASSWORD` and `KEYLANE_KAFKA_KEY_PASSWORD`, never from the URL: that is logged, shown and listed with
processes (`docs/decisions/kafka-security.md`).
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import BadUrl

OPTIONS = ("tls", "ca", "cert", "key", "key_password_file", "sasl", "user", "password_file", "sasl_in_clear")
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
USER = "KEYLANE_KAFKA_USER"
PASSWORD = "KEYLANE_KAFKA_PASSWORD"
KEY_PASSWORD = "KEYLANE_KAFKA_KEY_PASSWORD"


@dataclass(frozen=True)
class Cluster:
    """Its bootstrap servers, `host:port` each, and aiokafka's own keywords for TLS and SASL.

    The keywords hold a password, so nothing shows them.
    """

    servers: tuple[str, ...]
    security: Mapping[str, object] = field(default_factory=dict, repr=False)

    def keywords(self) -> dict[str, object]:
        """What any client of aiokafka takes."""
        return {"bootstrap_servers": list(self.servers), **self.security}

    def __str__(self) -> str:
        return ",".join(self.servers)


def cluster_of(servers: Sequence[str], options: MutableMapping[str, str], environ: Mapping[str, str]) -> Cluster:
    """The cluster at `servers`, by those of `OPTIONS` that are given; they are taken out of `options`.

    Raises `BadUrl` for options that do not fit, a file that cannot be used, a secret that is missing, and SASL without
    TLS where others could listen.
    """
    given = {name: options.pop(name) for name in OPTIONS if name in options}
    for name, value in given.items():
        if not value:
            raise BadUrl(f"{name}= is empty in the URL: give it a value or leave it out")
    tls, in_clear = _truth("tls", given), _truth("sasl_in_clear", given)
    security: dict[str, object] = {}
    if tls:
        security["ssl_context"] = _tls_context(given, environ)
    elif stray := sorted({"ca", "cert", "key", "key_password_file"} & given.keys()):
        raise BadUrl(f"{', '.join(stray)} in the URL without TLS: add tls=true")
    if "sasl" in given:
        if not (tls or in_clear or all(map(is_loopback, servers))):
            raise BadUrl(
                "sasl without TLS would let others on the way read what they need to be this user: add tls=true, "
                "or sasl_in_clear=true where nobody can listen"
            )
        security |= _sasl(given, environ)
    elif stray := sorted({"user", "password_file", "sasl_in_clear"} & given.keys()):
        raise BadUrl(f"{', '.join(stray)} in the URL without a mechanism: add sasl=SCRAM-SHA-512")
    security["security_protocol"] = {
        (False, False): "PLAINTEXT",
        (True, False): "SSL",
        (False, True): "SASL_PLAINTEXT",
        (True, True): "SASL_SSL",
    }[tls, "sasl" in given]
    return Cluster(tuple(servers), security)


def is_loopback(server: str) -> bool:
    """Whether `host:port` is this machine by its very name. No other name is resolved: that could change."""
    host = server.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _truth(name: str, given: Mapping[str, str]) -> bool:
    value = given.get(name, "false")
    if value not in ("true", "false"):
        raise BadUrl(f"{name}={value} in the URL: it can be true or false")
    return value == "true"


def _sasl(given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, object]:
    mechanism = given["sasl"]
    if mechanism not in MECHANISMS:
        raise BadUrl(f"sasl={mechanism} in the URL: it can be {', '.join(MECHANISMS)}")
    user = given.get("user") or environ.get(USER)
    if not user:
        raise BadUrl(f"sasl needs a user: add user=NAME to the URL, or set {USER}")
    password = _secret("password_file", PASSWORD, given, environ)
    if password is None:
        raise BadUrl(f"sasl needs a password: add password_file=PATH to the URL, or set {PASSWORD}")
    return {"sasl_mechanism": mechanism, "sasl_plain_username": user, "sasl_plain_password": password}


def _secret(option: str, variable: str, given: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    """A file's content without the end of its line, else the variable's; None where neither is given."""
    if option not in given:
        return environ.get(variable) or None
    try:
        secret = _content(option, given).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # Without its cause, which quotes what it could not decode.
        raise BadUrl(f"{option} {given[option]}: it is not UTF-8") from None
    if not secret:
        raise BadUrl(f"{option} {given[option]}: it is empty")
    return secret


def _content(option: str, given: Mapping[str, str]) -> bytes:
    try:
        return Path(given[option]).read_bytes()
    except OSError as error:
        raise BadUrl(f"{option} {given[option]}: {error.strerror}") from error


def _tls_context(given: Mapping[str, str], environ: Mapping[str, str]) -> ssl.SSLContext:
    """Certificates and host names are checked, always: what is not trusted is added as a CA."""
    # OpenSSL's own errors do not name the file.
    for option in ("ca", "cert", "key"):
        if option in given:
            _content(option, given)
    try:
        context = ssl.create_default_context(cafile=given.get("ca"))
    except (ssl.SSLError, ValueError) as error:
        raise BadUrl(f"ca {given.get('ca')}: it has no certificate in PEM form") from error
    if "cert" in given:
        _load_certificate(context, given, environ)
    elif stray := sorted({"key", "key_password_file"} & given.keys()):
        raise BadUrl(f"{', '.join(stray)} in the URL without a certificate: add cert=PATH")
    return context


def _load_certificate(context: ssl.SSLContext, given: Mapping[str, str], environ: Mapping[str, str]) -> None:
    # Not None: OpenSSL would ask at the terminal for the password of an encrypted key.
    password = _secret("key_password_file", KEY_PASSWORD, given, environ) or ""
    where = f"cert {given['cert']}" + (f", key {given['key']}" if "key" in given else "")
    try:
        context.load_cert_chain(given["cert"], given.get("key"), password)
    except (ssl.SSLError, ValueError) as error:
        raise BadUrl(
            f"{where}: they are no certificate in PEM form with its key, or the key is encrypted: give its password by "
            f"key_password_file=PATH, or {KEY_PASSWORD}"
        ) from error
