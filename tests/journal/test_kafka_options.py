"""What a Kafka URL may say of TLS and SASL, what it may not, and that no secret is ever said back."""

import traceback
from pathlib import Path

import pytest
import trustme

from keylane.journal import BadUrl, connect
from keylane.journal._kafka_connection import KEY_PASSWORD, PASSWORD, USER, Cluster, cluster_of, is_loopback
from keylane.journal.connect import resolve_url

SECRET = "hush-hush"
FAR = ["kafka.example:9093"]
NEAR = ["127.0.0.1:9092", "[::1]:9092", "localhost:9092"]


def made(servers: list[str], options: str, **environ: str) -> Cluster:
    """`options` as `name=value` words."""
    return cluster_of(servers, dict(word.split("=", 1) for word in options.split()), environ)


def protocol(cluster: Cluster) -> object:
    return cluster.security["security_protocol"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A CA, a certificate with its key, that key under a password, and passwords."""
    ca = trustme.CA()
    issued = ca.issue_cert("agent@keylane.test")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "locked.pem").write_bytes(locked(issued.private_key_pem.bytes()))
    (tmp_path / "password").write_text(SECRET + "\r\n")
    (tmp_path / "bad").write_bytes(b"\xff" + SECRET.encode())
    (tmp_path / "empty").write_text("\n")
    return tmp_path


def locked(key: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    encryption = BestAvailableEncryption(SECRET.encode())
    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def test_without_options_nothing_is_secured() -> None:
    assert made(FAR, "").keywords() == {"bootstrap_servers": FAR, "security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize("cert", ["cert={}/both.pem", "cert={0}/cert.pem key={0}/key.pem"])
def test_tls_with_a_certificate(files: Path, cert: str) -> None:
    cluster = made(FAR, f"tls=true ca={files}/ca.pem {cert.format(files)}")
    assert protocol(cluster) == "SSL"
    context = cluster.security["ssl_context"]
    assert context.check_hostname and context.verify_mode.name == "CERT_REQUIRED"  # type: ignore[attr-defined]


def test_a_key_under_a_password(files: Path) -> None:
    options = f"tls=true cert={files}/cert.pem key={files}/locked.pem"
    assert protocol(made(FAR, f"{options} key_password_file={files}/password")) == "SSL"
    assert protocol(made(FAR, options, **{KEY_PASSWORD: SECRET})) == "SSL"
    for environ in ({}, {KEY_PASSWORD: "wrong"}):  # nor is anybody asked at a terminal
        with pytest.raises(BadUrl, match=r"locked\.pem.*key is encrypted.*KEYLANE_KAFKA_KEY_PASSWORD"):
            made(FAR, options, **environ)


def test_the_password_is_of_the_file_without_its_line_end_else_of_the_environment(files: Path) -> None:
    named = made(FAR, f"tls=true sasl=PLAIN user=u password_file={files}/password", **{PASSWORD: "other"})
    assert protocol(named) == "SASL_SSL" and named.security["sasl_plain_password"] == SECRET
    found = made(FAR, "tls=true sasl=SCRAM-SHA-256", **{USER: "u", PASSWORD: SECRET})
    assert (found.security["sasl_plain_username"], found.security["sasl_plain_password"]) == ("u", SECRET)


@pytest.mark.parametrize(
    ("servers", "options", "said"),
    [
        (FAR, "tls=yes", "tls=yes .* true or false"),
        (FAR, "tls=", "tls= is empty"),
        (FAR, "ca={}/ca.pem", "ca .*add tls=true"),
        (FAR, "tls=true ca={}/none.pem", r"ca .*/none\.pem: No such file"),
        (FAR, "tls=true ca={}/password", "it has no certificate in PEM form"),
        (FAR, "tls=true key={}/key.pem", "key in the URL without a certificate: add cert=PATH"),
        (FAR, "tls=true cert={}/none.pem", r"cert .*/none\.pem: No such file"),
        (FAR, "tls=true cert={}/cert.pem", "no certificate in PEM form with its key"),
        (FAR, "tls=true cert={}/cert.pem key={}/ca.pem", "no certificate in PEM form with its key"),
        (FAR, "tls=true user=u", "user in the URL without a mechanism: add sasl="),
        (FAR, "tls=true sasl=GSSAPI user=u", "sasl=GSSAPI .* SCRAM-SHA-512, SCRAM-SHA-256, PLAIN"),
        (FAR, "tls=true sasl=PLAIN", "needs a user: add user=NAME .*KEYLANE_KAFKA_USER"),
        (FAR, "tls=true sasl=PLAIN user=u", "needs a password: add password_file=PATH .*KEYLANE_KAFKA_PASSWORD"),
        (FAR, "tls=true sasl=PLAIN user=u password_file={}/none", "password_file .*/none: No such file"),
        (FAR, "tls=true sasl=PLAIN user=u password_file={}/bad", "password_file .*/bad: it is not UTF-8"),
        (FAR, "tls=true sasl=PLAIN user=u password_file={}/empty", "password_file .*/empty: it is empty"),
        (FAR, "sasl=PLAIN user=u password_file={}/password", "add tls=true, or sasl_in_clear=true"),
        ([*NEAR, *FAR], "sasl=PLAIN user=u password_file={}/password", "add tls=true, or sasl_in_clear=true"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(files: Path, servers: list[str], options: str, said: str) -> None:
    with pytest.raises(BadUrl, match=said) as refused:
        made(servers, options.format(*[files] * options.count("{}")))
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_sasl_in_clear_needs_loopback_or_to_be_asked_for(files: Path) -> None:
    options = f"sasl=PLAIN user=u password_file={files}/password"
    assert protocol(made(NEAR, options)) == "SASL_PLAINTEXT"
    assert protocol(made(FAR, f"{options} sasl_in_clear=true")) == "SASL_PLAINTEXT"
    assert not any(is_loopback(server) for server in ("localhost.example:1", "127.0.0.1.example:1", "10.0.0.1:1"))


def test_a_cluster_does_not_show_its_secrets(files: Path) -> None:
    cluster = made(FAR, f"tls=true sasl=PLAIN user=u password_file={files}/password")
    assert all(SECRET not in text for text in (repr(cluster), str(cluster), f"{cluster}", repr([cluster])))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    [
        f"kafka://user:{SECRET}@kafka.example:9093",
        f"kafka://user:{SECRET}/x@kafka.example:9093",
        f"kafka://user:{SECRET}?x@kafka.example:9093",
        f"kafka://user:{SECRET}=x@kafka.example:9093?tls=true",
        f"kafka://kafka.example?sasl=PLAIN&user=u&password={SECRET}",
        f"kafka://kafka.example?sasl=PLAIN&user=u&SASL_Password={SECRET}",
        f"kafka://kafka.example?pass%77ord={SECRET}",
        f"user:{SECRET}@kafka.example:9093",
    ],
)
async def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    for refused in (lambda: resolve_url(url, {}), lambda: resolve_url(None, {"KEYLANE_URL": url})):
        with pytest.raises(BadUrl, match="password_file=PATH") as error:
            refused()
        assert SECRET not in str(error.value)
    with pytest.raises(BadUrl, match="password_file=PATH"):
        await connect(url)


@pytest.mark.anyio
@pytest.mark.parametrize("url", [f"kafka://localhost?{SECRET}=1", f"kafka://localhost/{SECRET}", f"kafka:///{SECRET}"])
async def test_what_is_wrong_in_a_url_is_not_repeated(url: str) -> None:
    with pytest.raises(BadUrl, match=r"options are|form") as error:
        await connect(url)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "url", ["sqlite:///home/me@work/x.db", "kafka://localhost?sasl=PLAIN&user=me@corp", "memory://a@b"]
)
def test_an_at_sign_where_it_belongs_is_none_of_it(url: str) -> None:
    assert resolve_url(url, {}) == url
