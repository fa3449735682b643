"""keylane: one owner at a time for everything that agents and automations touch.

The public face; everything else is reached by its own name. Names are loaded when they are first used, since
`keylane.schemas` and the layers above it are imported through this package: a router must not pay for the
client, and no layer may come to depend on the face by accident of import order.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keylane.changes import ChangeTicket
    from keylane.client import Client, SubmitOptions
    from keylane.errors import ConfigError, ErrorBody, KeylaneError, LockHeld, Refused, RunFailed, Unavailable
    from keylane.events import EventStream
    from keylane.outcome import (
        Ended,
        Holding,
        Json,
        OnApprove,
        Outcome,
        Ownership,
        Pending,
        Position,
        Status,
        Touch,
        Wait,
    )
    from keylane.reviews import Review
    from keylane.sync import SyncChangeTicket, SyncClient, SyncTicket
    from keylane.waiting import Ticket
    from keylane.workers import Done, Fail, Item, LeaseLost, Retry, Worker

__all__ = [
    "ChangeTicket",
    "Client",
    "ConfigError",
    "Done",
    "Ended",
    "ErrorBody",
    "EventStream",
    "Fail",
    "Holding",
    "Item",
    "Json",
    "KeylaneError",
    "LeaseLost",
    "LockHeld",
    "OnApprove",
    "Outcome",
    "Ownership",
    "Pending",
    "Position",
    "Refused",
    "Retry",
    "Review",
    "RunFailed",
    "Status",
    "SubmitOptions",
    "SyncChangeTicket",
    "SyncClient",
    "SyncTicket",
    "Ticket",
    "Touch",
    "Unavailable",
    "Wait",
    "Worker",
]

_HOMES = {
    "keylane.changes": ("ChangeTicket",),
    "keylane.client": ("Client", "SubmitOptions"),
    "keylane.errors": (
        "ConfigError",
        "ErrorBody",
        "KeylaneError",
        "LockHeld",
        "Refused",
        "RunFailed",
        "Unavailable",
    ),
    "keylane.events": ("EventStream",),
    "keylane.outcome": (
        "Ended",
        "Holding",
        "Json",
        "OnApprove",
        "Outcome",
        "Ownership",
        "Pending",
        "Position",
        "Status",
        "Touch",
        "Wait",
    ),
    "keylane.reviews": ("Review",),
    "keylane.sync": ("SyncChangeTicket", "SyncClient", "SyncTicket"),
    "keylane.waiting": ("Ticket",),
    "keylane.workers": ("Done", "Fail", "Item", "LeaseLost", "Retry", "Worker"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
