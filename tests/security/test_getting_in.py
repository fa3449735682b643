"""Every way in to a secured broker, and of every way to be kept out what is said: what, where, and what to do."""

import logging
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import anyio
import anyio.lowlevel
import pytest
from cryptography.x509 import load_pem_x509_certificate
from security.asking import READ, TOPIC, asking
from security.secured import Secured

from keylane import Client, ConfigError
from keylane.journal import AccessDenied, Journal, Unavailable, connect
from keylane.journal._kafka_connection import PASSWORD, USER

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

DEADLINE_S = 20
NOBODY = {"sasl": None, "user": None, "password_file": None}
NO_TLS = {"tls": None, "ca": None}


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
async def test_users_get_in_by_each_mechanism(secured_broker: Secured, mechanism: str) -> None:
    await (await connect(secured_broker.url("agent", sasl=mechanism))).close()


def subject_of(certificate: Path) -> str:
    return load_pem_x509_certificate(certificate.read_bytes()).subject.rfc4514_string()


async def may_know(journal: Journal) -> bool:
    """Whether it hears that there is no such topic, and not that it may not know."""
    try:
        return await journal.partitions("events") is None
    except AccessDenied:
        return False


async def test_a_certificate_is_a_user(secured_broker: Secured) -> None:
    """By its subject, which rights can be given to."""
    file = secured_broker.file("client.pem")
    subject = subject_of(Path(file))
    journal = await connect(secured_broker.url("agent", "MUTUAL", cert=file, prefix="certified.", **NOBODY))
    try:
        assert not await may_know(journal)
        async with asking(secured_broker.open_url) as chief:
            await chief.set_right(subject, READ, TOPIC, "certified.", given=True)
        with anyio.fail_after(DEADLINE_S):
            while not await may_know(journal):  # what the controller has written down, the broker knows a moment later
                await anyio.lowlevel.checkpoint()
    finally:
        await journal.close()


async def test_on_loopback_a_password_may_go_in_clear(secured_broker: Secured) -> None:
    await (await connect(secured_broker.url("agent", "CLEAR", **NO_TLS))).close()


async def test_user_and_password_can_come_from_the_environment(
    secured_broker: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(USER, "agent")
    monkeypatch.setenv(PASSWORD, secured_broker.passwords["agent"])
    await (await connect(secured_broker.url("agent", user=None, password_file=None))).close()
    # What the URL names goes before.
    with pytest.raises(AccessDenied):
        await connect(secured_broker.url("agent", password_file=secured_broker.file("worker.password")))


class KeptOut(NamedTuple):
    """Who is kept out, what that raises, and what it says."""

    listener: str
    options: dict[str, str | None]
    raises: type[Exception]
    says: str
    host: str = "localhost"


WRONG_PASSWORD = {"password_file": "worker.password"}
KEPT_OUT = {
    "wrong password": KeptOut("SASL", WRONG_PASSWORD, AccessDenied, r"does not accept the user or its password"),
    "wrong password, PLAIN": KeptOut(
        "SASL", WRONG_PASSWORD | {"sasl": "PLAIN"}, AccessDenied, r"check user, password_file or KEYLANE_KAFKA_PASSWORD"
    ),
    "CA that did not sign": KeptOut(
        "SASL", {"ca": "other-ca.pem"}, AccessDenied, r"localhost:\d+: .*not accepted: .*name the CA .* by ca=PATH"
    ),
    "the system's CAs": KeptOut("SASL", {"ca": None}, AccessDenied, r"name the CA that signed it by ca=PATH"),
    "another host name": KeptOut(
        "SASL", {}, AccessDenied, r"not valid for '127\.0\.0\.1'.*advertised\.listeners", host="127.0.0.1"
    ),
    "another host name, advertised": KeptOut("MOVED", {}, AccessDenied, r"to 127\.0\.0\.1:\d+: .*not valid for '127"),
    "no certificate": KeptOut("MUTUAL", NOBODY, AccessDenied, r"it may want a certificate .* by cert=PATH"),
    "no SASL there": KeptOut(
        "MUTUAL", {"cert": "client.pem"}, AccessDenied, r"this listener has no SASL: leave sasl out"
    ),
    "no TLS there": KeptOut("CLEAR", {}, Unavailable, r"ended the connection: .* a listener without TLS"),
    "TLS there": KeptOut(
        "SASL", NO_TLS | NOBODY, Unavailable, r"ended the connection: .* a listener with TLS, or with SASL"
    ),
    "SASL there": KeptOut("SASL", NOBODY, Unavailable, r"ended the connection: .* or with SASL"),
}


def url_of(secured: Secured, case: KeptOut) -> str:
    files = {name: secured.file(value) for name, value in case.options.items() if value and name != "sasl"}
    return secured.url("agent", case.listener, case.host, **(case.options | files))


@pytest.mark.parametrize("name", KEPT_OUT)
async def test_who_is_kept_out_hears_why_and_no_password(secured_broker: Secured, name: str) -> None:
    case = KEPT_OUT[name]
    with pytest.raises(case.raises, match=case.says) as raised:
        await connect(url_of(secured_broker, case))
    assert raised.type is case.raises
    told = "".join(traceback.format_exception(raised.value))
    assert all(password not in told for password in secured_broker.passwords.values())


async def test_a_client_says_it_as_an_error_of_the_configuration(secured_broker: Secured) -> None:
    case = KEPT_OUT["wrong password"]
    with pytest.raises(ConfigError, match=case.says):
        async with Client(url_of(secured_broker, case)):
            pass


async def test_where_nobody_listens_is_said_with_the_reason(unused_port: int) -> None:
    with pytest.raises(Unavailable, match=rf"connecting to localhost:{unused_port}: .*Connect call failed"):
        await connect(f"kafka://localhost:{unused_port}?tls=true")


def ended(secured: Secured, cwd: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "keylane.cli", "--url", url, *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert all(password not in done.stdout + done.stderr for password in secured.passwords.values())
    return done


@pytest.mark.parametrize(
    ("words", "user"),
    [
        (["who", "deploy://x"], "stranger"),
        (["submit", "deploy://x", "restart"], "stranger"),
        (["submit", "deploy://x", "restart"], "dashboard"),
        (["router"], "worker"),
        (["router", "--partitions", "2"], "operator"),  # all but the group
        (["worker", "exec", "--action", "restart", "--", "cat"], "router"),  # all but the group
        (["worker", "exec", "--action", "restart", "--", "cat"], "agent"),
    ],
)
async def test_commands_that_may_not_end_with_78(
    rightful: Secured, tmp_path: Path, words: list[str], user: str
) -> None:
    done = ended(rightful, tmp_path, rightful.url(user), *words)
    assert done.returncode == 78, done
    assert "no right to that" in done.stderr and "SECURITY.md" in done.stderr


async def test_no_password_is_shown_or_logged(
    secured_broker: Secured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    password = secured_broker.passwords["agent"]
    caplog.set_level(logging.DEBUG, "aiokafka")
    journal = await connect(secured_broker.url("agent", sasl="PLAIN"))
    await journal.close()
    assert "Request to" in caplog.text, "aiokafka logs what it sends"
    assert password not in caplog.text
    assert password not in repr(vars(journal))

    url = secured_broker.url("agent")
    shown = ended(secured_broker, tmp_path, url, "config", "show", "--origin")
    assert shown.returncode == 0 and "password_file" in shown.stdout
    for bad in (
        f"kafka://agent:{quote(password)}@localhost:9093",
        f"kafka://localhost:9093?sasl=PLAIN&user=agent&password={quote(password)}",
    ):
        for words in (["config", "show"], ["router"], ["who", "deploy://x"], ["up"]):
            refused = ended(secured_broker, tmp_path, bad, *words)
            assert refused.returncode == 78 and "KEYLANE_KAFKA_PASSWORD" in refused.stderr
