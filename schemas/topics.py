"""The topics by name. Names are logical: a Kafka journal puts its prefix (`keylane.` by default) before them."""

from __future__ import annotations

REQUESTS = "requests"
RESULTS = "results"
EVENTS = "events"
CONFLICTS = "conflicts"
STATE = "state"
WAITS = "waits"
DEADLETTERS = "deadletters"
METADATA = "metadata"

REQUEST_BYTES_MAX = 256 * 1024
"""What input topics take. Well below what outputs take, so that every item or dead letter made of it fits."""
OUTPUT_BYTES_MAX = 2 * 1024 * 1024


def items(pool: str) -> str:
    """The topic of a pool. Pools come from configuration only, never from a record."""
    return f"items.{pool}"
