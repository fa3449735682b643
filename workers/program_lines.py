"""What a program that handles items says, line by line on its standard output. Sans-I/O: bytes in, values out.

A line that is a JSON object with one of these keys is for keylane; every other line is the program's own.

- `{"progress": CHECKPOINT}` renews the lease and saves the checkpoint (null: keeps the last one); beside it may stand
  `"evidence"` and `"open_questions"`.
- `{"blocked": "why"}` shows that it waits for something. It does not renew the lease.
- `{"result": JSON}` is the result if the program then ends with 0; beside it `"version"`, `"observed_version"`.
- `{"fail": "why"}` ends the run: no other attempt would help.
- `{"retry": "why"}` fails this attempt; `"after_s"` says when the next may begin, else the action's backoff does.

Of the last three the last that was said counts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keylane.schemas.topics import REQUEST_BYTES_MAX

LINE_BYTES_MAX = REQUEST_BYTES_MAX
"""Of a line for keylane: what a report takes. Of a longer one the rest is dropped, and it says nothing."""


class Progressed(msgspec.Struct, forbid_unknown_fields=True):
    """The program got on, or at least is alive and says so on purpose."""

    progress: Any
    evidence: Any = None
    open_questions: list[str] = []


class Blocked(msgspec.Struct, forbid_unknown_fields=True):
    """The program waits for something that it names."""

    blocked: str


class Resulted(msgspec.Struct, forbid_unknown_fields=True):
    """What the program made."""

    result: Any
    version: str | None = None
    observed_version: str | None = None


class GaveUp(msgspec.Struct, forbid_unknown_fields=True):
    """No attempt would succeed."""

    fail: str


class ToRetry(msgspec.Struct, forbid_unknown_fields=True):
    """Another attempt may succeed."""

    retry: str
    after_s: float | None = None


Said = Progressed | Blocked | Resulted | GaveUp | ToRetry
KINDS: dict[str, type[Said]] = {
    "progress": Progressed,
    "blocked": Blocked,
    "result": Resulted,
    "fail": GaveUp,
    "retry": ToRetry,
}


def said(line: bytes) -> Said | None:
    """What the line tells keylane; None for a line that is the program's own.

    Raises ValueError for one that was meant for keylane and cannot be understood.
    """
    if not line.lstrip().startswith(b"{") or len(line) > LINE_BYTES_MAX:
        return None
    try:
        found = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    kinds = [kind for key, kind in KINDS.items() if key in found]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise ValueError(f"one line says one thing, not {' and '.join(sorted(KINDS.keys() & found.keys()))}")
    told: Said = msgspec.convert(found, kinds[0])
    return told


class Lines:
    """Cuts a stream into lines, in bounded memory: of a line that is too long only its beginning is kept."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends."""
        *ended, rest = data.split(b"\n")
        lines = []
        for part in ended:
            self._keep(part)
            lines.append(bytes(self._begun))
            self._begun.clear()
        self._keep(rest)
        return lines

    def rest(self) -> bytes:
        """What stands after the last end of a line."""
        return bytes(self._begun)

    def _keep(self, part: bytes) -> None:
        # One byte more than a line may have: `said` sees that it was longer.
        self._begun += part[: LINE_BYTES_MAX + 1 - len(self._begun)]
