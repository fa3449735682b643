"""Progress, on standard error."""

from __future__ import annotations

import sys
import time

_began_s = time.monotonic()


def say(message: str) -> None:
    sys.stderr.write(f"{time.monotonic() - _began_s:7.1f} s  {message}\n")
    sys.stderr.flush()
