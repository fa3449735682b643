"""`python -m bench.sampler FILE ARGUMENT…`: keylane's command line, with a sample of its stack every 4 ms of its CPU.

The kernel's profiling timer counts CPU of the process, not wall time, so what waits is not seen; time in C is seen as
its caller's. At the end FILE gets a line a sample: monotonic seconds, and the stack, outermost first.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.004
PACKAGES = ("keylane", "aiokafka", "asyncio", "anyio", "prometheus_client", "msgspec")


def start(samples: list[tuple[float, str]]) -> None:
    def take(_: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_name}")
            frame = frame.f_back
        samples.append((time.monotonic(), ";".join(reversed(stack))))

    signal.signal(signal.SIGPROF, take)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)


def main(file: Path, arguments: list[str], command: Callable[[], object]) -> None:
    samples: list[tuple[float, str]] = []
    sys.argv = ["keylane", *arguments]
    start(samples)
    try:
        command()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        file.write_text("".join(f"{at_s:.4f} {stack}\n" for at_s, stack in samples))


if __name__ == "__main__":
    from keylane.cli import main as command

    main(Path(sys.argv[1]), sys.argv[2:], command)
