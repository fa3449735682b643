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
    from keylane.client import Client
    from keylane.errors import (
        ConfigError,
        ErrorBody,
        KeylaneError,
        LeaseLost,
        LockHeld,
        Refused,
        RunFailed,
        Unavailable,
    )
    from keylane.events import EventStream
    from keylane.lease import Lease
    from keylane.locks import Credential, LockInfo
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
    from keylane.sessions import Session
    from keylane.submitting import SubmitOptions
    from keylane.sync import SyncChangeTicket, SyncClient, SyncTicket
    from keylane.sync_locks import SyncLease
    from keylane.waiting import Ticket
    from keylane.workers import Done, Fail, Item, Retry, Worker

__all__ = [
    "ChangeTicket",
    "Client",
    "ConfigError",
    "Credential",
    "Done",
    "Ended",
    "ErrorBody",
    "EventStream",
    "Fail",
    "Holding",
    "Item",
    "Json",
    "KeylaneError",
    "Lease",
    "LeaseLost",
    "LockHeld",
    "LockInfo",
    "OnApprove",
    "Outcome",
    "Ownership",
    "Pending",
    "Position",
    "Refused",
    "Retry",
    "Review",
    "RunFailed",
    "Session",
    "Status",
    "SubmitOptions",
    "SyncChangeTicket",
    "SyncClient",
    "SyncLease",
    "SyncTicket",
    "Ticket",
    "Touch",
    "Unavailable",
    "Wait",
    "Worker",
]

_HOMES = {
    "keylane.changes": ("ChangeTicket",),
    "keylane.client": ("Client",),
    "keylane.errors": (
        "ConfigError",
        "ErrorBody",
        "KeylaneError",
        "LeaseLost",
        "LockHeld",
        "Refused",
        "RunFailed",
        "Unavailable",
    ),
    "keylane.events": ("EventStream",),
    "keylane.lease": ("Lease",),
    "keylane.locks": ("Credential", "LockInfo"),
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
    "keylane.sessions": ("Session",),
    "keylane.submitting": ("SubmitOptions",),
    "keylane.sync": ("SyncChangeTicket", "SyncClient", "SyncTicket"),
    "keylane.sync_locks": ("SyncLease",),
    "keylane.waiting": ("Ticket",),
    "keylane.workers": ("Done", "Fail", "Item", "Retry", "Worker"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
