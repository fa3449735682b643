"""Promise 14, of what routers write: no secret of a session is in it.

All secrets are looked for at once: each record is cut into pieces of eight bytes, and whatever is as long as a secret
holds a whole one of them, at one of eight places of it. Inputs may come after outputs: so much of these is kept.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from keylane.schemas import topics
from keylane.schemas.codec import Undecodable

from .commands import HIDDEN
from .findings import Findings
from .history import Entry

PIECE = 8
SHORTEST = 2 * PIECE
"""Shorter ones are refused, and would be found anywhere."""
KEPT_BYTES = 32 * 1024 * 1024
INPUTS = frozenset((topics.REQUESTS, topics.RESULTS))
NONE: frozenset[bytes] = frozenset()
IN_RAW = re.compile(rb'"secret"\s*:\s*"((?:[^"\\]|\\.)+)"')
"""A secret in what is no record."""


class Secrecy:
    """All secrets of a history, and where they were found."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.places: dict[bytes, str] = {}
        """Each secret as JSON has it, and the input that had it first."""
        self.public: set[bytes] = set()
        """Those that an input says elsewhere as well: its sender has told them."""
        self.found: dict[tuple[bytes, str], int] = {}
        """Secrets with the outputs that have them, and of which partition."""
        self._pieces: dict[int, set[tuple[int, int]]] = {}
        """Where in a secret a piece stands, and how long that secret is: many may begin alike."""
        self._kept: deque[Entry] = deque()
        self._kept_bytes = 0
        self._dropped = False
        self._late = False
        """A secret came after outputs in which it was not looked for."""
        self._hidden = 0

    def take_input(self, entry: Entry, record: Any) -> None:
        """A record of `requests` or `results`, as it was decoded."""
        value = entry.value or b""
        own = b""
        if isinstance(record, Undecodable):
            for secret in IN_RAW.findall(value):
                self._learn(secret, entry)
        else:
            secret = getattr(record, "secret", None) or ""
            if secret.startswith(HIDDEN):
                self._hidden += 1
                return
            own = msgspec.json.encode(secret)[1:-1]
            self._learn(own, entry)
            for found in self._in(value):
                if value.count(found) > (found == own):
                    self.public.add(found)

    def _learn(self, secret: bytes, entry: Entry) -> None:
        if len(secret) < SHORTEST or secret in self.places:
            return
        self.places[secret] = f"{entry.topic}/{entry.partition}/{entry.offset}"
        self._late = self._late or bool(self._kept_bytes)
        for begin in range(PIECE):
            piece = int.from_bytes(secret[begin : begin + PIECE], sys.byteorder)
            self._pieces.setdefault(piece, set()).add((begin, len(secret)))

    def take_output(self, entry: Entry) -> None:
        """A record that routers wrote."""
        size = len(entry.value or b"")
        self._look(entry)
        self._kept.append(entry)
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft().value or b"")
            self._dropped = True

    def _look(self, entry: Entry) -> None:
        for part in (entry.value, entry.key):
            for secret in self._in(part or b""):
                place = f"{entry.topic}/{entry.partition}/{entry.offset}"
                self.found[secret, place] = entry.partition

    def _in(self, value: bytes) -> AbstractSet[bytes]:
        """The secrets that are somewhere in it."""
        if not self._pieces or len(value) < SHORTEST:
            return NONE
        pieces = memoryview(value)[: len(value) // PIECE * PIECE].cast("Q")
        if self._pieces.keys().isdisjoint(pieces):
            return NONE
        found = set()
        for index, piece in enumerate(pieces):
            for begin, length in self._pieces.get(piece, ()):
                start = index * PIECE - begin
                text = value[start : start + length] if start >= 0 else b""
                if text in self.places:
                    found.add(text)
        return found

    def close(self, drained: bool) -> None:
        """Look for what came late, and judge."""
        if self._late:
            for entry in self._kept:
                self._look(entry)
            if self._dropped and drained:
                self.findings.undecided(14, "secrets came after what they were to be looked for in")
            elif self._dropped:
                self.findings.open("secrets that came late", 1)
        self.findings.undecided(14, "secrets are redacted: whether one is in an output is not to be seen", self._hidden)
        for (secret, place), partition in self.found.items():
            if secret not in self.public:
                message = "a session's secret is in what a router wrote"
                self.findings.violation(14, partition, message, self.places[secret], place)
