"""`python -m bench --tiny` runs to its end on SQLite, and what it writes is what it measured."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]


def test_a_tiny_run_measures_and_writes_everything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--tiny", "--rounds", "1", "--backlog", "120000"]
    command += ["--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

    found = json.loads((tmp_path / "benchmarks.json").read_text())
    (one,) = found["embedded"]["rounds"]
    trips, routed = one["keylane"]["trips"], one["keylane"]["routed"]
    assert trips["ended"] > 0
    assert routed["answered"] > 0 and routed["commits"] > 0
    # An answer is an event and two state records at least: that of the run, and that of who asked.
    assert routed["written"]["events"] >= routed["answered"]
    assert routed["written"]["state"] >= 2 * routed["answered"]
    assert one["raw"]["requests_per_s"] > 0
    # A run is more than the 300 bytes that were asked for, and no leak of a process.
    assert all(300 < each < 10_000 for each in found["memory"]["bytes_a_run"].values())

    said = (tmp_path / "benchmarks.md").read_text()
    for title in ("# Benchmarks", "## Targets", "## Embedded", "## Memory", "## How"):
        assert title in said
    ratio = routed["answered"] / routed["seconds"] / one["raw"]["requests_per_s"]
    verdict = "reached" if ratio >= 0.5 else "not reached"
    assert f"| Embedded: routed, of raw inserts | at least 0.50 x | {ratio:.2f} |  | {verdict} |" in said

    drawing = ElementTree.fromstring((tmp_path / "benchmarks.svg").read_text())
    bars = drawing.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 3
