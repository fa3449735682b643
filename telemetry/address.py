"""Where a process may listen: loopback, unless an explicit setting says otherwise. Pure, and quick to import."""

from __future__ import annotations

import ipaddress


class BadAddress(ValueError):
    """The address cannot be listened on. The message says why and what to write instead."""


def parse_address(address: str, *, exposed: bool) -> tuple[str, int]:
    """Host and port. Names other than `localhost` are not resolved: whether they are loopback could change."""
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise BadAddress(f"{address!r} is no HOST:PORT: write 127.0.0.1:9464, or 127.0.0.1:0 for any free port")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise BadAddress(f"{host!r} is no IP address: write 127.0.0.1:{port}, [::1]:{port} or 0.0.0.0:{port}") from None
    if not (ip.is_loopback or exposed):
        raise BadAddress(
            f"{address} can be reached from other machines, and metrics have no password: "
            "listen on 127.0.0.1, or set metrics_exposed = true (KEYLANE_METRICS_EXPOSED=true) as well"
        )
    return host, int(port)
