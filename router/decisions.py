"""The log of decisions: what a turn has committed, for whoever follows a request over processes.

At debug every event; at info those that an operator asks about. Ids and codes only: no payload, result or note.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from keylane.router.core.records import Output
from keylane.schemas import topics
from keylane.schemas.events import AttemptFailed, DeadLettered, Ended, Fenced, Lost, Refused, Withdrawn

log = logging.getLogger("keylane.router.decisions")

NOTABLE = (Refused, Lost, Fenced, DeadLettered, AttemptFailed)
ASKED_ABOUT = frozenset({*NOTABLE, Ended, Withdrawn})
SAID = ("request", "run", "resource", "action", "token", "session", "code")


def log_decisions(partition: int, outputs: Sequence[Output]) -> None:
    """Called after the commit: what was not committed was not decided."""
    level = logging.DEBUG if log.isEnabledFor(logging.DEBUG) else logging.INFO
    if not log.isEnabledFor(level):
        return
    for output in outputs:
        event = output.record
        if level > logging.DEBUG and type(event) not in ASKED_ABOUT:
            continue  # most of a turn's outputs
        if output.topic != topics.EVENTS:
            continue
        notable = isinstance(event, NOTABLE) or _ended_badly(event)
        if notable or level == logging.DEBUG:
            extra = {name: value for name in SAID if (value := getattr(event, name, None)) not in (None, "")}
            how = getattr(event, "status", None) or getattr(event, "reason", None)
            log.log(
                logging.INFO if notable else logging.DEBUG,
                "%s%s",
                type(event).__name__,
                f" {how}" if how else "",
                extra=extra | {"partition": partition},
            )


def _ended_badly(event: object) -> bool:
    return isinstance(event, Ended | Withdrawn) and event.status not in ("completed", "cancelled")
