"""A command that is killed: `python killed_writer.py FOLDER N COMMAND…` sends itself SIGKILL before the N-th step of a
file under FOLDER: before it is made, is written to disk, or gets its name."""

import os
import signal
import sys
from typing import Any

from keylane.cli import main

FOLDER, LEFT = sys.argv[1], int(sys.argv[2])
STEPS = {"os.rename", "os.link"}
left = LEFT


def step() -> None:
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook. `open` counts where it writes."""
    writes = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if (writes or event in STEPS) and str(arguments[0]).startswith(FOLDER):
        step()


sys.addaudithook(watch)
fsync = os.fsync


def fsync_counted(descriptor: int) -> None:
    if os.readlink(f"/proc/self/fd/{descriptor}").startswith(FOLDER):
        step()
    fsync(descriptor)


os.fsync = fsync_counted
del sys.argv[1:3]
sys.exit(main())
