"""Where a Kafka cluster is and how to get in: what every client of aiokafka is made with. Nothing is connected here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cluster:
    """Its bootstrap servers, `host:port` each, and aiokafka's own keywords for TLS and SASL.

    The keywords hold a password, so nothing shows them.
    """

    servers: tuple[str, ...]
    security: Mapping[str, object] = field(default_factory=dict, repr=False)

    def keywords(self) -> dict[str, object]:
        """What any client of aiokafka takes."""
        return {"bootstrap_servers": list(self.servers), **self.security}
