"""Kafka Streams: its jars, the compiled `streams/Route.java`, and the command that runs it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.processes import ROOT, Failed
from bench.say import say

SOURCE = Path(__file__).resolve().parent / "streams"
HOME = ROOT / ".kafka" / "streams"
HEAP = "-Xmx2g"


def build() -> None:
    """Fetch the jars (once, from Maven Central) and compile."""
    pom = SOURCE / "pom.xml"
    fetched = HOME / "pom.xml"
    if not fetched.exists() or fetched.read_bytes() != pom.read_bytes():
        say("fetching the jars of Kafka Streams from Maven Central (once)")
        shutil.rmtree(HOME, ignore_errors=True)
        copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={HOME / 'lib'}"]
        _run("mvn", "-B", "-q", "-f", str(pom), *copy)
        shutil.copy(pom, fetched)
    _run("javac", "-cp", f"{HOME / 'lib'}/*", "-d", str(HOME / "classes"), str(SOURCE / "Route.java"))


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Failed(f"{command[0]} failed:\n{done.stdout[-2000:]}")


def command(
    servers: str, source: str, target: str, threads: int, commit_ms: int, writes: float, outputs: Sequence[float]
) -> list[str]:
    """The store is made anew: what an earlier run left would be restored first."""
    store = HOME / "store"
    shutil.rmtree(store, ignore_errors=True)
    arguments = [servers, source, target, f"{target}app", str(store), str(threads), str(commit_ms)]
    classes = f"{HOME / 'classes'}:{HOME / 'lib'}/*"
    return ["java", HEAP, "-cp", classes, "Route", *arguments, *(f"{each:.4f}" for each in (writes, *outputs))]
