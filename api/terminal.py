"""Job control: lending the controlling terminal to a program in a process group of its own, and getting it back.

The program begins in the background, where it can write but not read. Only when it asks for the terminal (the system
stops it with SIGTTIN or SIGTTOU) it gets it: in `keylane hold KEY -- make | less` it is `less` that reads. Where there
is no terminal, nothing here does anything.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from keylane.workers.process_groups import signal_group

ASKS = (signal.SIGTTIN, signal.SIGTTOU)


class Terminal:
    """This process's, as far as the program of group `leader` is concerned."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._lent = False
        self._wanted = False
        """It was stopped, and is to have the terminal when it goes on."""
        self._own = os.getpgrp()
        try:
            self._file: int | None = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def stopped(self, number: int) -> None:
        """The program was stopped by that signal: let it go on with the terminal, or stop as it did."""
        if self._file is None:
            return  # somebody has stopped it on purpose, and will let it go on
        if number in ASKS and self._foreground() == self._own:
            self._lend()
            signal_group(self._leader, signal.SIGCONT)
            return
        self._wanted = number in ASKS or self._lent
        was_lent = self.take_back()
        if os.getsid(0) == self._own:
            # No shell is there that would let us go on. Nor one that gives us the terminal, if it is that.
            if number not in ASKS:
                self.continued()
            return
        if was_lent:
            # Ctrl-Z went to the program alone, and was meant for the whole job.
            before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
            signal_group(self._own, signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, before)
        os.kill(os.getpid(), signal.SIGSTOP)

    def continued(self) -> None:
        """This process goes on, and so the program does: with the terminal if it had it, and we have it."""
        if self._wanted and self._foreground() == self._own:
            self._lend()
        self._wanted = False
        signal_group(self._leader, signal.SIGCONT)

    def take_back(self) -> bool:
        """Whether the program had it."""
        had = self._lent and self._foreground() == self._leader
        if had:
            self._give_to(self._own)
        self._lent = False
        return had

    def close(self) -> None:
        """Take it back, and have no more to do with it."""
        self.take_back()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lend(self) -> None:
        self._give_to(self._leader)
        self._lent = True

    def _give_to(self, group: int) -> None:
        assert self._file is not None
        # Who is not in the foreground is stopped for this, unless it does not hear of it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with suppress(OSError):
                os.tcsetpgrp(self._file, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _foreground(self) -> int | None:
        if self._file is None:
            return None
        try:
            return os.tcgetpgrp(self._file)
        except OSError:  # the terminal is gone
            return None
