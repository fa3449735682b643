"""Targets of the work: one that checks tokens, as a careful target does, and one that does not.

The second is the positive control: what comes late and is refused by the first must show here as a violation, or the
run has shown nothing.
"""

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from keylane.verify import Effect

DIGITS = 20


class Said(NamedTuple):
    """One effect on a resource, and what became of it: `done`, `refused`, or `late`, which is taken out of order."""

    resource: str
    run: str
    token: int
    by: str
    word: str


class Sink:
    """Effects on resources by any number of processes, a file each. `checks`: refuse a token below the highest seen."""

    def __init__(self, folder: Path, *, checks: bool) -> None:
        self._folder = folder
        self._checks = checks
        folder.mkdir(exist_ok=True)

    def act(self, resource: str, token: int, by: str, run: str) -> bool:
        """An effect by the worker `by`; whether it was taken. A process that is killed here leaves the sink whole."""
        file = os.open(self._folder / resource.replace("/", "_"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            highest = int(os.pread(file, DIGITS, 0) or 0)
            taken = not (self._checks and token < highest)
            if taken:
                os.pwrite(file, b"%0*d" % (DIGITS, max(token, highest)), 0)
            word = "late" if token < highest else "done"
            line = f"\n{token} {by} {word if taken else 'refused'} {run}"
            os.pwrite(file, line.encode(), max(DIGITS, os.fstat(file).st_size))
            return taken
        finally:
            os.close(file)

    def said(self) -> list[Said]:
        """All that happened, in order for each resource."""
        found = []
        for path in sorted(self._folder.iterdir()):
            for line in path.read_text().splitlines()[1:]:
                token, by, word, run = line.split()
                found.append(Said(path.name.replace("_", "/"), run, int(token), by, word))
        return found

    def count(self, word: str, by: str | None = None) -> int:
        """How many effects ended so, of one worker or of all."""
        return sum(each.word == word and by in (None, each.by) for each in self.said())

    def taken(self) -> list[Effect]:
        """What it took, for the judge."""
        return [
            Effect(resource=each.resource, run=each.run, token=each.token)
            for each in self.said()
            if each.word != "refused"
        ]
