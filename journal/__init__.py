"""keylane.journal: an ordered, partitioned, durable log of bytes; the port, its errors and `connect`."""

from .connect import connect
from .errors import (
    AccessDenied,
    BadUrl,
    JournalError,
    LaneLost,
    NoJournal,
    PositionLost,
    TooLarge,
    TopicMismatch,
    Unavailable,
)
from .port import (
    Assignment,
    Headers,
    Journal,
    LaneSession,
    Membership,
    Place,
    Reader,
    Record,
    Stored,
    TopicSpec,
)

__all__ = [
    "AccessDenied",
    "Assignment",
    "BadUrl",
    "Headers",
    "Journal",
    "JournalError",
    "LaneLost",
    "LaneSession",
    "Membership",
    "NoJournal",
    "Place",
    "PositionLost",
    "Reader",
    "Record",
    "Stored",
    "TooLarge",
    "TopicMismatch",
    "TopicSpec",
    "Unavailable",
    "connect",
]
