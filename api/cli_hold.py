"""`keylane hold`: a command runs while it holds resources, and no longer.

Here is what it takes; what it does is in `holding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from cyclopts import Parameter

from keylane.cli_context import Context, UsageError
from keylane.cli_locks import AS_IT_IS, NO_SESSION, AcquireFlags, SessionFlags, seconds


@Parameter(name="*")
@dataclass(frozen=True)
class HoldFlags:
    """What `hold` takes beside what is held.

    Parameters
    ----------
    max:
        How long it may be held: 2h, 30m. Then the command is stopped.
    kill_after:
        How long after SIGTERM comes SIGKILL, when the command has to stop.
    """

    max: str | None = None
    kill_after: str = "5s"


AS_LONG_AS_IT_TAKES = HoldFlags()


def hold(
    *resources: str,
    flags: HoldFlags = AS_LONG_AS_IT_TAKES,
    how: AcquireFlags = AS_IT_IS,
    whose: SessionFlags = NO_SESSION,
    context: Context,
) -> NoReturn:
    """Run a command while holding resources: keylane hold deploy://api-prod --max 2h -- ./migrate.sh

    All of them are acquired, or none. Leases are renewed while the command runs, and given back on every way out. When
    a lease is lost, --max is over or somebody asks for it back (keylane cancel), the command and all of its process
    group get SIGTERM, then SIGKILL, and the exit code is 4. Else it is the command's own, 128 and the signal that ended
    it, or 75 where another holds a resource. SIGINT, SIGTERM and SIGHUP are passed on to the command.

    Its environment has KEYLANE_TOKENS and KEYLANE_RESOURCES (JSON), and of a single resource KEYLANE_TOKEN and
    KEYLANE_RESOURCE: give tokens to targets that refuse lower ones. KEYLANE_SESSION_TMP is a folder for temporary files
    of the session alone.

    Parameters
    ----------
    resources:
        What is held: URIs or ARNs.
    """
    import anyio

    from keylane.commands import checked_key
    from keylane.held_program import HeldProgram, look_for
    from keylane.holding import Holding, Terms

    if not resources:
        raise UsageError("name what is to be held, as in keylane hold deploy://api-prod -- ./migrate.sh")
    if not context.program:
        raise UsageError("there is no command: write it after --, as in keylane hold deploy://api-prod -- ./migrate.sh")
    terms = Terms(
        keys=tuple(dict.fromkeys(checked_key(resource) for resource in resources)),
        named=whose.named(context),
        wait_s=how.wait_s,
        ttl_s=how.ttl_s,
        actor=how.actor,
        max_s=None if flags.max is None else seconds("--max", flags.max),
    )
    kill_after_s = seconds("--kill-after", flags.kill_after)
    look_for(context.program[0])
    program = HeldProgram(context.program, kill_after_s)  # forks, so before anything that has threads
    try:
        code = anyio.run(Holding(terms, program, context).run)
    finally:
        program.close()
    raise SystemExit(code)
