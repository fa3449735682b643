"""The commands that work: `worker run` for handlers in Python, `worker exec` for any program."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from keylane.cli_context import CommandContext, Context, UsageError
from keylane.cli_logs import AS_SET, LogFlags, log_to_stderr


@Parameter(name="*")
@dataclass(frozen=True)
class WorkerFlags:
    """What every worker takes.

    Parameters
    ----------
    metrics:
        Serve /metrics, /healthz and /readyz at HOST:PORT. Port 0: any free one. Else KEYLANE_METRICS.
    metrics_exposed:
        HOST may be one that other machines reach. They need no password.
    """

    metrics: str | None = None
    metrics_exposed: Annotated[bool, Parameter(negative="")] = False


NO_FLAGS = WorkerFlags()


@Parameter(name="*")
@dataclass(frozen=True)
class ExecFlags:
    """What a worker of programs takes.

    Parameters
    ----------
    action:
        What the command does. May be repeated: KEYLANE_ACTION tells which it is.
    pool:
        The pool that the actions belong to.
    slots:
        How many items it takes at once.
    name:
        The worker's name, for people. Else this host and process.
    kill_after:
        Seconds from SIGTERM to SIGKILL, when the command has to stop.
    """

    action: Annotated[tuple[str, ...], Parameter(negative="")]
    pool: str = "default"
    slots: int = 8
    name: str | None = None
    kill_after: float = 5.0


def worker_run(target: str, /, *, flags: WorkerFlags = NO_FLAGS, logs: LogFlags = AS_SET, context: Context) -> None:
    """Run a worker of Python handlers. The first SIGTERM or Ctrl-C lets what runs finish, a second one stops at once.

    Parameters
    ----------
    target:
        Where it is: MODULE:NAME of a keylane.Worker, found from the current directory.
    """
    from keylane.workers import Worker

    module_name, separator, name = target.partition(":")
    if not separator or not module_name or not name:
        raise UsageError(f"{target!r} is not MODULE:NAME")
    log_to_stderr(context, logs)
    # Before the import: the worker may be made, and its journal decided, when the module is loaded.
    _set_environment(context, flags)
    sys.path.insert(0, str(context.directory))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not (module_name + ".").startswith(missing.name + "."):
            raise
        raise UsageError(f"there is no module {module_name!r} here") from missing
    worker = getattr(module, name, None)
    if not isinstance(worker, Worker):
        raise UsageError(f"{target} is no keylane.Worker")
    context.note(f"worker {target}")
    worker.run()


def worker_exec(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    program: ExecFlags,
    flags: WorkerFlags = NO_FLAGS,
    logs: LogFlags = AS_SET,
    context: Context,
) -> None:
    """Run a worker that has COMMAND do the work: keylane worker exec --action restart -- ./restart.sh

    The payload is on its standard input, as JSON. Its environment has KEYLANE_RESOURCE, KEYLANE_ACTION,
    KEYLANE_TOKEN, KEYLANE_ATTEMPT, KEYLANE_RUN, and where there is one KEYLANE_EXPECTED_VERSION,
    KEYLANE_PREVIOUS_END, KEYLANE_CHECKPOINT_FILE and TRACEPARENT.

    A line on its standard output that is one of these objects is for keylane; all others go to the log:
    {"progress": CHECKPOINT} renews the lease, as nothing else does; {"blocked": "why"};
    {"result": JSON, "version": "v2"}; {"fail": "why"} ends the run; {"retry": "why", "after_s": 5}.

    Exit code 0 completes the run, any other fails the attempt. When the lease is lost the command and all of its
    process group get SIGTERM, then SIGKILL.

    Parameters
    ----------
    command:
        The program and its arguments, after --.
    """
    from keylane.workers import Worker
    from keylane.workers.program import NoProgram, handler_running

    if not command:
        raise UsageError("there is no command: write it after --, as in keylane worker exec --action NAME -- ./it.sh")
    try:
        handler = handler_running(command, kill_after_s=program.kill_after)
        worker = Worker(name=program.name, pool=program.pool, slots=program.slots)
        for action in dict.fromkeys(program.action):
            worker.handler(action)(handler)
    except (NoProgram, ValueError) as error:
        raise UsageError(str(error)) from None
    log_to_stderr(context, logs)
    _set_environment(context, flags)
    context.note(f"worker for {', '.join(program.action)}")
    worker.run()


def _set_environment(context: CommandContext, flags: WorkerFlags) -> None:
    """Flags over the environment, which is where a worker looks."""
    if context.url is not None:
        os.environ["KEYLANE_URL"] = context.url
    if flags.metrics is not None:
        os.environ["KEYLANE_METRICS"] = flags.metrics
    if flags.metrics_exposed:
        os.environ["KEYLANE_METRICS_EXPOSED"] = "true"
