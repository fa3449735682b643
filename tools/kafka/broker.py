#!/usr/bin/env python3
"""One real Kafka broker on loopback, for development and tests, without Docker.

Standard library only, so that it runs before anything is installed. Commands:

    jars    fetch the jars named in pom.xml into .kafka/lib (once; needs the network)
    up      start a broker and return when it answers; does nothing when it already does
    down    end the broker that `up` started, and nothing else

`KAFKA_PORT` or `--port` chooses the port (9092). Data, log and pid lie in `.kafka/PORT` or `--dir`. Where
Java 17 or Maven is missing they are installed with apt-get when that is allowed; else exit 69 says what
to do.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / ".kafka"
LIB = HOME / "lib"
UNAVAILABLE = 69
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},PROXY://127.0.0.1:{behind_proxy}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXY://127.0.0.1:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXY:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
# A producer that mistypes a topic must hear of it, not make one.
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
# A lane killed inside a transaction stalls its readers for as long as this, plus its transaction timeout.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""


class Refused(Exception):
    """What stands in the way, said so that a person can remove it."""


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock file, so that concurrent calls neither download nor start twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def has_java() -> bool:
    """Java 17 or newer with a compiler (the partitioner's test launches a source file)."""
    if shutil.which("java") is None:
        return False
    version = re.search(r'version "(\d+)', run("java", "-version").stdout)
    return bool(version and int(version[1]) >= 17) and "jdk.compiler" in run("java", "--list-modules").stdout


def ensure_tools(*, maven: bool) -> None:
    wanted = [] if has_java() else ["openjdk-17-jdk-headless"]
    if maven and shutil.which("mvn") is None:
        wanted.append("maven")
    if not wanted:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Refused(
            "a real Kafka needs Java 17 (JDK) and Maven on the PATH; missing here: "
            f"{', '.join(wanted)} (as Debian names them). Install them, or run this as root with apt-get."
        )
    say(f"installing {' '.join(wanted)}")
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-qy", "--no-install-recommends", *wanted],
    ):
        done = run("env", "DEBIAN_FRONTEND=noninteractive", *command)
        if done.returncode:
            raise Refused(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    if not has_java():
        raise Refused("Java 17 was installed, but the `java` on the PATH is an older one or has no compiler")


def ensure_jars() -> None:
    """Fetch the jars unless those of this very pom.xml are there. A broken download leaves nothing behind."""
    pom = HERE / "pom.xml"
    with only_one(HOME / "jars.lock"):
        fetched = LIB / "pom.xml"
        if fetched.exists() and fetched.read_bytes() == pom.read_bytes():
            ensure_tools(maven=False)
            return
        ensure_tools(maven=True)
        say("fetching Kafka's jars from Maven Central (54 MB, once)")
        partial = HOME / "lib.partial"
        shutil.rmtree(partial, ignore_errors=True)
        done = run(
            "mvn", "-B", "-q", "-f", str(pom), "dependency:copy-dependencies",
            "-DincludeScope=runtime", f"-DoutputDirectory={partial}",
        )  # fmt: skip
        if done.returncode:
            raise Refused(f"Maven could not fetch Kafka's jars:\n{done.stdout[-2000:]}")
        shutil.copy(pom, partial / "pom.xml")
        shutil.rmtree(LIB, ignore_errors=True)
        partial.rename(LIB)


def answers(port: int) -> bool:
    """Whether a broker answers an ApiVersions request (KIP-35); an open port alone may be one that starts."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(8)) == 8
    except OSError:
        return False


def pid_of(folder: Path) -> int | None:
    """The pid that `up` left in `folder`, if it is still that broker (pids are used again)."""
    try:
        pid = int((folder / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    if Path("/proc/self").exists():
        process = Path(f"/proc/{pid}/cmdline")
        command = process.read_text().replace("\0", " ") if process.exists() else ""
    else:
        command = run("ps", "-ww", "-p", str(pid), "-o", "command=").stdout
    return pid if str(folder / "server.properties") in command else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def java(main: str, *arguments: str) -> list[str]:
    return ["java", "-Xmx1g", "-cp", f"{LIB}/*", main, *arguments]


def prepare(folder: Path, port: int, proxy: int, behind_proxy: int) -> Path:
    """Format a data folder once; the ports stay those of the first time, for the quorum remembers them."""
    properties = folder / "server.properties"
    if properties.exists():
        return properties
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "server.properties.new"
    draft.write_text(
        PROPERTIES.format(
            port=port,
            controller=free_port(),
            proxy=proxy or port,
            behind_proxy=behind_proxy or free_port(),
            data=folder / "data",
        )
    )
    storage = "kafka.tools.StorageTool"
    name = run(*java(storage, "random-uuid")).stdout.split()[-1]
    done = run(*java(storage, "format", "--standalone", "--ignore-formatted", "-t", name, "-c", str(draft)))
    if done.returncode:
        raise Refused(f"formatting {folder} failed:\n{done.stdout[-2000:]}")
    draft.rename(properties)
    return properties


def up(folder: Path, port: int, proxy: int, behind_proxy: int) -> None:
    ensure_jars()
    with only_one(folder / "up.lock"):
        if pid_of(folder) is not None and answers(port):
            say(f"Kafka is up at 127.0.0.1:{port}")
            return
        if answers(port):
            raise Refused(f"something that `up` did not start answers at port {port}; choose another KAFKA_PORT")
        properties = prepare(folder, port, proxy, behind_proxy)
        with (folder / "broker.log").open("ab") as log:
            broker = subprocess.Popen(
                java("kafka.Kafka", str(properties)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True,
            )  # fmt: skip
        (folder / "pid").write_text(str(broker.pid))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(port):
            if broker.poll() is not None or time.monotonic() > deadline:
                broker.kill()
                last = (folder / "broker.log").read_text(errors="replace")[-2000:]
                raise Refused(f"the broker did not come up; its log {folder / 'broker.log'} ends:\n{last}")
            time.sleep(0.1)
    say(f"Kafka is up at 127.0.0.1:{port} (pid {broker.pid}, data in {folder})")


def down(folder: Path) -> None:
    pid = pid_of(folder)
    if pid is None:
        say("no broker of ours is running")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while pid_of(folder) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    (folder / "pid").unlink(missing_ok=True)
    say(f"Kafka (pid {pid}) is down")


def say(message: str) -> None:
    sys.stderr.write(message + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["jars", "up", "down"])
    parser.add_argument("--port", type=int, default=int(os.environ.get("KAFKA_PORT", "9092")))
    parser.add_argument("--dir", type=Path, help="data folder, if not .kafka/PORT")
    parser.add_argument("--proxy-port", type=int, default=0, help="advertised to clients of --behind-proxy-port")
    parser.add_argument("--behind-proxy-port", type=int, default=0, help="a listener for a proxy in front")
    options = parser.parse_args()
    folder = (options.dir or HOME / str(options.port)).resolve()
    try:
        if options.command == "jars":
            ensure_jars()
        elif options.command == "up":
            up(folder, options.port, options.proxy_port, options.behind_proxy_port)
        else:
            down(folder)
    except Refused as reason:
        say(str(reason))
        return UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
