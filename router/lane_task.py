"""One lane under supervision: claim, load, take turns; and after anything goes wrong, drop all and load again.

Crash-only: there is one way to recover and no rollback. What may not happen here is a decision about work.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from keylane.journal.errors import JournalError, LaneLost, PositionLost
from keylane.journal.port import Journal, LaneSession, Membership
from keylane.router.clock import REAL, Clocks, LaneClock
from keylane.router.core.lane import Lane
from keylane.router.core.policy import Policy
from keylane.router.core.records import Halted
from keylane.router.meter import LaneMeter
from keylane.router.setup import Changing
from keylane.router.turn import INPUTS, Culprit, LaneTurns, load
from keylane.router.waits_task import WaitsTask
from keylane.schemas import topics

log = logging.getLogger("keylane.router")

PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 5.0
CONFIRM_POLL_S = 0.05
CLOSE_S = 5.0


class LaneTask:
    """Runs one lane until it is stopped. `stop` may be called at any time; `run` then returns soon."""

    def __init__(
        self,
        partition: int,
        journal: Journal,
        membership: Membership,
        policy: Policy,
        place: Callable[[str], int],
        token_floor: int,
        loaded: Callable[[int], None],
        meter: LaneMeter,
        agreed: Callable[[], Awaitable[None]],
        waits: WaitsTask,
        clocks: Clocks = REAL,
        owner_of: Callable[[str], str] = str,
    ) -> None:
        self.partition = partition
        self.halted: str | None = None
        """Why it stopped for good, until an operator has looked."""
        self.turning = False
        """Loaded, and taking turns."""
        self.trouble: str | None = None
        """Why the journal did not let it, the last time; None while it turns."""
        self.meter = meter
        self.finished = anyio.Event()
        self._journal = journal
        self._membership = membership
        self._policy = policy
        self._place = place
        self._owner_of = owner_of
        self._token_floor = token_floor
        self._loaded = loaded
        self._agreed = agreed
        self._waits = waits
        self._clocks = clocks
        self._stopping = False
        self._waiting: anyio.CancelScope | None = None
        self._culprits: dict[tuple[str, int] | bytes, str] = {}
        self._careful = False
        self._failed_ms = 0

    def stop(self) -> None:
        """Ask it to end after the turn that it is in: a turn is short, and its outputs are not lost."""
        self._stopping = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(self) -> None:
        """Until stopped, or halted by what an operator has to look at."""
        pause_s = PAUSE_S_MIN
        try:
            while not self._stopping:
                started_s = self._clocks.monotonic()
                pause_s = PAUSE_S_MIN if await self._live() else min(pause_s * 2, PAUSE_S_MAX)
                if self._clocks.monotonic() - started_s > PAUSE_S_MAX:
                    pause_s = PAUSE_S_MIN
                await self._wait(pause_s)
        except (Halted, PositionLost) as error:
            log.critical("lane %d halted: %s", self.partition, error, extra={"partition": self.partition})
            self.halted = str(error)
            self.meter.halted()
            # It will not load, and is not to be waited for: the others are ready without it.
            self._loaded(self.partition)
        finally:
            self.finished.set()

    async def _live(self) -> bool:
        """One life of the lane. Whether the next may follow at once."""
        session: LaneSession | None = None
        reason: str | None = None
        try:
            await self._agreed()  # so as not to fence whoever changes the metadata, which claims lanes to do it
            session = await self._journal.claim(self.partition, INPUTS, topics.STATE)
            await self._agreed()  # whoever changes it from now on claims this lane after it was claimed here
            await self._take_turns(session)
        except Changing as error:
            reason, self.trouble = "changing", str(error)
            log.warning("lane %d waits: %s", self.partition, error, extra={"partition": self.partition})
            return False
        except Culprit as culprit:
            reason = "culprit"
            return self._blame(culprit)
        except LaneLost as error:
            reason, self.trouble = "lost", str(error)
            log.warning("lane %d lost: %s", self.partition, error, extra={"partition": self.partition})
            await self._confirm()
        except PositionLost:
            raise
        except JournalError as error:
            reason, self.trouble = "unavailable", str(error)
            log.warning("lane %d: journal unavailable: %s", self.partition, error, extra={"partition": self.partition})
            return False
        except Halted:
            raise
        except Exception:
            # A fault outside a turn: other lanes of this process must not go down with this one.
            reason = "fault"
            log.exception("lane %d: fault", self.partition, extra={"partition": self.partition})
            return False
        finally:
            if reason is not None:
                self.meter.reloads(reason)
            if session is not None:
                await self._close(session)
        return True

    async def _close(self, session: LaneSession) -> None:
        with anyio.move_on_after(CLOSE_S, shield=True):
            try:
                await session.close()
            except Exception:
                # It was to be dropped anyhow: the next claim fences whatever is left of it.
                log.exception("lane %d: its session could not be closed", self.partition)

    async def _take_turns(self, session: LaneSession) -> None:
        lane = Lane(self.partition, self._policy, self._place, self._owner_of)
        load(lane, await session.load(), self._token_floor, self._clocks.wall_us)
        positions = await session.seek(lane.own.positions)
        log.info(
            "lane %d loaded: %d runs, %d sessions",
            self.partition,
            len(lane.runs),
            len(lane.sessions),
            extra={"partition": self.partition},
        )
        clock = LaneClock(lane.own.clock_ms, *self._clocks)
        turns = LaneTurns(lane, session, clock, positions, self._culprits, self._careful, self.meter)
        self.meter.loaded(lane, positions, clock.now().clock_ms)
        self.turning, self.trouble = True, None
        try:
            with self._waits.following(turns.waits):
                self._loaded(self.partition)
                await self._turn_until_stopped(turns)
        finally:
            self.turning = False
            self.meter.stands()

    async def _turn_until_stopped(self, turns: LaneTurns) -> None:
        while not self._stopping:
            # A stop interrupts a turn only where it waits for input: not in a commit, whose outcome would be unknown.
            with anyio.CancelScope() as self._waiting:
                await turns.read()
            self._waiting = None
            if self._stopping:
                return
            await turns.turn()
            if self._careful and turns.is_clear(self._failed_ms):
                self._careful = turns.careful = False
                self._culprits.clear()

    def _blame(self, culprit: Culprit) -> bool:
        """A turn failed. First replay it one step at a time; a step that fails alone is set aside from then on.

        Whether that is known to help, so that the next life may follow at once.
        """
        log.error("lane %d: a turn failed at %s: %s", self.partition, culprit.what, culprit.reason, exc_info=culprit)
        if self._careful and culprit.what is not None:
            self._culprits[culprit.what] = culprit.reason
        was_careful, self._careful = self._careful, True
        self._failed_ms = max(self._failed_ms, culprit.at_ms)
        return culprit.what is not None or not was_careful

    async def _confirm(self) -> None:
        """After being fenced, claim again only when the group still counts this router in (kafka-facts)."""
        fenced_s = self._clocks.monotonic()
        while not self._stopping and not self._membership.confirmed_since(fenced_s):
            await self._wait(CONFIRM_POLL_S)

    async def _wait(self, seconds: float) -> None:
        if not self._stopping:
            with anyio.CancelScope() as self._waiting:
                await anyio.sleep(seconds)
            self._waiting = None
