"""All that a run of the benchmarks found, as `docs/benchmarks.json` has it; and the machine that it was found on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.idle import Idle
from bench.keylane_side import Plan
from bench.processes import ROOT
from bench.rounds import EmbeddedRound, KafkaRound, LatencyRound
from bench.takeover import Takeover
from keylane.schemas.times import rfc3339


class Machine(Struct, frozen=True):
    cpu: str
    cores: int
    memory_gib: int
    system: str
    python: str
    java: str
    kafka: str
    commit: str


class Kafka(Struct, frozen=True):
    rounds: list[KafkaRound]


class Embedded(Struct, frozen=True):
    rounds: list[EmbeddedRound]


class Latency(Struct, frozen=True):
    """`capacity`: requests a second of which the rates are parts."""

    capacity: float
    rounds: list[LatencyRound]


class Cost(Struct, frozen=True):
    """CPU of a router, in microseconds a request, by part; for full round trips and for routing alone."""

    trips_us: dict[str, float]
    routed_us: dict[str, float]


class Memory(Struct, frozen=True):
    """Bytes a run, of a lane with so many."""

    runs: int
    bytes_a_run: dict[str, float]


class Takeovers(Struct, frozen=True):
    by_journal: dict[str, list[Takeover]]


class Idles(Struct, frozen=True):
    by_journal: dict[str, Idle]


class Results(Struct, kw_only=True, omit_defaults=True):
    """Parts that were not measured are not there."""

    at: str
    machine: Machine
    plan: Plan
    kafka: Kafka | None = None
    embedded: Embedded | None = None
    latency: Latency | None = None
    cost: Cost | None = None
    memory: Memory | None = None
    takeover: Takeovers | None = None
    idle: Idles | None = None


def encode(results: Results) -> bytes:
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def now(time_s: float) -> str:
    return rfc3339(time_s)


def machine() -> Machine:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory_kib = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    java = re.search(r'version "(.*?)"', _said("java", "-version"))
    kafka = re.search(r"<kafka.version>(.*?)<", (ROOT / "tools" / "kafka" / "pom.xml").read_text())
    return Machine(
        cpu=cpu[1] if cpu else platform.machine(),
        cores=os.cpu_count() or 0,
        memory_gib=round(int(memory_kib[1]) / 2**20) if memory_kib else 0,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        java=java[1] if java else "",
        kafka=kafka[1] if kafka else "",
        commit=_said("git", "describe", "--always", "--dirty").strip(),
    )


def _said(*command: str) -> str:
    """What a program says of itself; nothing where there is none."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""
