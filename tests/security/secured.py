"""A broker that lets nobody in unasked: TLS with certificates made here, SASL, client certificates, an authorizer.

One for all tests, like the open one (`kafka/running.py`). Its one listener without any of it is on loopback, for
the broker itself and for what only the tests do: setting rights up.
"""

import importlib.util
import json
import secrets
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from kafka.running import TOOL, Broker, free_ports

USERS = ("agent", "worker", "router", "dashboard", "operator", "stranger")
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised}
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=OPEN
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
# Who comes in by the open listener.
super.users=User:ANONYMOUS
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
listener.name.mutual.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
"""
LISTENERS = {
    "OPEN": "PLAINTEXT",
    "SASL": "SASL_SSL",
    "MUTUAL": "SSL",
    "CLEAR": "SASL_PLAINTEXT",
    # Its certificate is for localhost; what it tells clients to come back to is not.
    "MOVED": "SASL_SSL",
}


class Secured(NamedTuple):
    """The broker: the port of each listener, and each user's password."""

    folder: str
    ports: dict[str, int]
    passwords: dict[str, str]

    def file(self, name: str) -> str:
        """`ca.pem`, `other-ca.pem`, `client.pem` (certificate and key), or `USER.password`."""
        return str(Path(self.folder) / name)

    @property
    def open_url(self) -> str:
        """Without any security: everything is allowed."""
        return f"kafka://127.0.0.1:{self.ports['OPEN']}"

    def url(self, user: str, /, listener: str = "SASL", host: str = "localhost", **options: str | None) -> str:
        """What `user` would write. An option None is left out."""
        usual = {"tls": "true", "ca": self.file("ca.pem"), "sasl": "SCRAM-SHA-512", "user": user}
        usual |= {"password_file": self.file(f"{user}.password")}
        written = {name: value for name, value in (usual | options).items() if value is not None}
        return f"kafka://{host}:{self.ports[listener]}?{urlencode(written)}"


def secured(broker: Broker) -> Secured:
    """What `lay_out` made for it."""
    return Secured(*json.loads((Path(broker.folder) / "secured.json").read_text()))


def lay_out(broker: Broker) -> None:
    """Certificates, users and properties, and a formatted data folder: all that `broker.py up` finds there."""
    folder = Path(broker.folder)
    folder.mkdir(parents=True)
    ports = dict(zip(LISTENERS, [broker.port, *free_ports(len(LISTENERS) - 1)], strict=True))
    made = Secured(str(folder), ports, {user: f"hush-{user}-{secrets.token_urlsafe(12)}" for user in USERS})
    write_certificates(folder)
    for user, password in made.passwords.items():
        (folder / f"{user}.password").write_text(password + "\n")
    (folder / "server.properties").write_text(properties(made))
    format_storage(made)
    (folder / "secured.json").write_text(json.dumps(made))


def properties(made: Secured) -> str:
    hosts = dict.fromkeys(LISTENERS, "localhost") | {"OPEN": "127.0.0.1", "MOVED": "127.0.0.1"}
    text = PROPERTIES.format(
        controller=free_ports(1)[0],
        folder=made.folder,
        listeners=",".join(f"{name}://127.0.0.1:{port}" for name, port in made.ports.items()),
        advertised=",".join(f"{name}://{hosts[name]}:{port}" for name, port in made.ports.items()),
        protocols=",".join(f"{name}:{protocol}" for name, protocol in LISTENERS.items()),
    )
    users = " ".join(f'user_{user}="{password}"' for user, password in made.passwords.items())
    for listener in ("sasl", "clear", "moved"):
        prefix = f"listener.name.{listener}"
        text += f"{prefix}.plain.sasl.jaas.config={PLAIN} required {users};\n"
        for size in (256, 512):
            text += f"{prefix}.scram-sha-{size}.sasl.jaas.config={SCRAM} required;\n"
    return text


def write_certificates(folder: Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other-ca.pem")
    for name, issued in (
        ("server", ca.issue_cert("localhost")),
        (
            "client",
            ca.issue_cert(
                "client@keylane.test",
                common_name="by-certificate",
                # trustme's own have a sign that Java writes in another way: the subject is a user's name here.
                organization_name="keylane",
                organization_unit_name="tests",
            ),
        ),
    ):
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        # Kafka reads no other form of a key.
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(pem + b"".join(each.bytes() for each in issued.cert_chain_pems))


def format_storage(made: Secured) -> None:
    tool = load_tool()
    name = tool.run(*tool.java("kafka.tools.StorageTool", "random-uuid")).stdout.split()[-1]
    scram = [
        argument
        for user, password in made.passwords.items()
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for argument in ("--add-scram", f"{mechanism}=[name={user},password={password}]")
    ]
    command = ["format", "--standalone", "-t", name, "-c", made.file("server.properties"), *scram]
    done = tool.run(*tool.java("kafka.tools.StorageTool", *command))
    assert done.returncode == 0, done.stdout


def load_tool() -> Any:
    """`tools/kafka/broker.py`, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("kafka_broker_tool", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
