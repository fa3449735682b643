"""The registry that a process begins with: what is built in, and what every process tells of itself.

A registry of its own, never the library's global one: two routers in one process (tests, `up`) are two.
"""

from __future__ import annotations

import platform
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector


def process_registry(journal_scheme: str) -> CollectorRegistry:
    """A registry with `keylane_build_info` and the collectors of process, platform and garbage collection."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    info = Gauge(
        "keylane_build_info",
        "1; what runs here.",
        ["version", "python", "journal"],
        registry=registry,
    )
    info.labels(version("keylane"), platform.python_version(), journal_scheme).set(1)
    return registry
