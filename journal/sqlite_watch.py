"""The thread that notices what other processes have committed, wakes the tasks that wait for it, and beats.

Other processes show by `PRAGMA data_version`; then the places and groups that moved are found and only those
who wait for one of them are woken. A commit of this process wakes its own readers at once (`moved`), without
the thread. A thread, because heartbeats must go on when the event loop is busy, and because one task that
looks for all would need a task group, which `connect` does not have.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel

from .errors import JournalError
from .sqlite import Database
from .sqlite_groups import Heartbeats

# A hundredth of the time since the last change, between these: at ten requests a second a reader in another
# process learns of one in about a millisecond, and an idle one costs forty looks a second.
PAUSE_MIN_S = 0.001
PAUSE_MAX_S = 0.025
PAUSE_PER_IDLE_S = 0.01


def group_key(number: int) -> int:
    """What to wait for in a group. Places count upwards from 1, so groups count downwards."""
    return -1 - number


class Watch:
    """Who waits for what, and the thread that looks. `moved` and `interest` belong to the event loop."""

    def __init__(self, path: Path, heartbeats: Heartbeats, beat_every_s: float) -> None:
        self._database = Database(path, durable=False)  # a lost heartbeat is no loss
        self._heartbeats = heartbeats
        self._beat_every_s = beat_every_s
        self._loop = anyio.lowlevel.current_token()
        self._waiting: dict[int, set[anyio.Event]] = {}
        self._seen: dict[int, int] = self._look()
        self._nudge = threading.Event()
        self._resting = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"watch {path.name}", daemon=True)
        self._thread.start()

    @contextmanager
    def interest(self, keys: Sequence[int]) -> Iterator[anyio.Event]:
        """An event that is set when one of the keys moves. Look once more after taking it, then wait."""
        event = anyio.Event()
        for key in keys:
            self._waiting.setdefault(key, set()).add(event)
        if self._resting:
            self._nudge.set()
        try:
            yield event
        finally:
            for key in keys:
                waiting = self._waiting[key]
                waiting.discard(event)
                if not waiting:
                    del self._waiting[key]

    def moved(self, ends: Mapping[int, int]) -> None:
        """Wake those who wait for these, which this process has just moved."""
        self._seen.update(ends)
        self._wake(list(ends))

    def close(self) -> None:
        """Stop the thread and wait for it; from a worker thread, as the watch may need the event loop."""
        self._stopping = True
        self._nudge.set()
        self._thread.join()
        self._database.close()

    def _wake(self, keys: Sequence[int]) -> None:
        for key in keys:
            for event in self._waiting.get(key, ()):
                event.set()

    def _look(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for number, end in self._database.rows("SELECT id, next FROM places"):
            assert isinstance(number, int) and isinstance(end, int)
            found[number] = end
        for number, changes in self._database.rows("SELECT id, changes FROM groups"):
            assert isinstance(number, int) and isinstance(changes, int)
            found[group_key(number)] = changes
        return found

    def _run(self) -> None:
        version: int | None = None
        moved_s = beaten_s = time.monotonic()
        while not self._stopping:
            own_change = False
            if time.monotonic() >= beaten_s + self._beat_every_s:
                beaten_s = time.monotonic()
                own_change = self._heartbeats.any() and self._heartbeats.beat(self._database)
            try:
                seen, version = version, self._database.data_version()
                ends = self._look() if own_change or seen != version else {}
            except JournalError:
                ends = {}  # the tasks that wait will meet the same error where they can raise it
            keys = [key for key, end in ends.items() if self._seen.get(key) != end]
            if keys:
                moved_s = time.monotonic()
                self._seen.update({key: ends[key] for key in keys})
                if not self._wake_from_here(keys):
                    return
            self._rest(moved_s, beaten_s)

    def _wake_from_here(self, keys: Sequence[int]) -> bool:
        if not any(key in self._waiting for key in keys):
            return True
        try:
            anyio.from_thread.run_sync(self._wake, keys, token=self._loop)
        except RuntimeError:
            return False  # the event loop has ended without closing the journal
        return True

    def _rest(self, moved_s: float, beaten_s: float) -> None:
        now_s = time.monotonic()
        pause_s = min(max((now_s - moved_s) * PAUSE_PER_IDLE_S, PAUSE_MIN_S), PAUSE_MAX_S)
        # First say that this thread rests, then look who waits; `interest` does it the other way round. So
        # one of the two always sees the other.
        self._resting = True
        if not self._waiting and not self._stopping:
            pause_s = max(beaten_s + self._beat_every_s - now_s, 0)
        self._nudge.wait(pause_s)
        self._nudge.clear()
        self._resting = False
