"""What runs have shown, added up in a file: each part that came to its end, whole, and the totals over all of them."""

import json
import os
import platform
import re
import subprocess
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kafka.running import LIB, locked_file


class Part:
    """One part of a run: a fleet that lived, suffered and was judged."""

    def __init__(self, mode: str, backend: str, seed: int) -> None:
        self.mode = mode
        self.backend = backend
        self.seed = seed
        self.done: Counter[str] = Counter()
        """Faults that were done."""
        self.bitten: Counter[str] = Counter()
        """Those of them that are known to have had their effect."""
        self.seen: Counter[str] = Counter()
        """What else was counted: requests, events, takeovers, late writes."""
        self.violations: list[str] = []
        self._began_s = time.monotonic()

    def did(self, fault: str, bit: bool) -> None:
        self.done[fault] += 1
        self.bitten[fault] += bit

    def report(self) -> dict[str, Any]:
        """As it is written down."""
        return {
            "mode": self.mode,
            "backend": self.backend,
            "seed": self.seed,
            "seconds": round(time.monotonic() - self._began_s, 1),
            "done": dict(self.done),
            "bitten": {fault: self.bitten[fault] for fault in self.done},
            "seen": dict(self.seen),
            "violations": self.violations[:20],
        }


def totals(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """By mode and backend, the sums of what was done, of what bit and of what was seen. A part with violations counts
    for those alone."""
    found: dict[str, Any] = {}
    for part in parts:
        total = found.setdefault(
            f"{part['mode']} {part['backend']}",
            {"parts": 0, "violations": 0, "seconds": 0.0, "done": {}, "bitten": {}, "seen": {}},
        )
        total["violations"] += len(part["violations"])
        if part["violations"]:
            continue
        total["parts"] += 1
        total["seconds"] = round(total["seconds"] + part["seconds"], 1)
        for what in ("done", "bitten", "seen"):
            for name, count in part[what].items():
                total[what][name] = total[what].get(name, 0) + count
    return found


def without_effect(parts: list[dict[str, Any]]) -> list[str]:
    """The faults that were done in a run and never bit: what they were to show is not shown."""
    bitten: Counter[str] = Counter()
    for part in parts:
        bitten.update(part["bitten"])
    return sorted(fault for fault, count in bitten.items() if not count)


def add(file: Path, part: Part) -> dict[str, Any]:
    """Add a part to the file, which is replaced in one step, by one run at a time; returns the totals."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(file.with_suffix(".lock")):
        known = json.loads(file.read_text()) if file.exists() else {"parts": []}
        parts = [*known["parts"], part.report()]
        new = file.with_suffix(".new")
        new.write_text(json.dumps({"versions": versions(), "totals": totals(parts), "parts": parts}, indent=1) + "\n")
        new.rename(file)
    return totals(parts)


def versions() -> dict[str, str]:
    """Of everything that a figure depends on."""
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    kafka = sorted(LIB.glob("kafka_2.13-*.jar"))
    return {
        **{name: version(name) for name in ("keylane", "aiokafka", "apsw")},
        "kafka": kafka[-1].stem.partition("-")[2] if kafka else "none",
        "java": (re.findall(r'version "([^"]+)', java) or ["none"])[0],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }
