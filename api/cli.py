"""The command `keylane`: from the command line to a command, from its answer to print and exit code.

Commands themselves are in the modules `cli_…` and in `demo`. They
return a struct, or show a stream of them, and raise what goes wrong; this module alone turns either into
output. Nothing slow is imported here: `keylane --help` must be quick.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO, cast

import msgspec
from cyclopts import App, CycloptsError, Group, Parameter

from keylane import (
    cli_config,
    cli_conflicts,
    cli_deadletters,
    cli_doctor,
    cli_hold,
    cli_ingest,
    cli_locks,
    cli_operating,
    cli_people,
    cli_requests,
    cli_services,
    cli_verify,
    cli_workers,
)
from keylane.cli_context import CommandContext, Output, UsageError
from keylane.cli_exits import BROKEN_PIPE, DONE, exit_of_answer, failure_of
from keylane.render import Renderer

HELP = "One owner at a time for everything that agents and automations touch."


class _Invocation:
    """One run of the command: its streams, and the answer once there is one."""

    def __init__(self, out: TextIO, err: TextIO, stdin: BinaryIO) -> None:
        self.out = out
        self.err = err
        self.stdin = stdin
        self.renderer = Renderer("text", out, err)

    def context(self, url: str | None, output: Output, program: tuple[str, ...]) -> CommandContext:
        self.renderer = Renderer(output, self.out, self.err)
        return CommandContext(
            url=url,
            environ=os.environ,
            directory=Path.cwd(),
            stdin=self.stdin,
            watched=self.err.isatty(),
            show=self.renderer.show,
            warn=self.renderer.warn,
            note=self.renderer.note,
            program=program,
        )


def _version() -> str:
    from importlib.metadata import version  # slow to load, and asked for rarely

    return version("keylane")


def _add_commands(app: App) -> None:
    app.command(cli_services.up)
    app.command(cli_services.router)
    worker = App(name="worker", help="Run workers.")
    worker.command(cli_workers.worker_run, name="run")
    worker.command(cli_workers.worker_exec, name="exec")
    app.command(worker)
    app.command(cli_requests.submit)
    app.command(cli_requests.request)
    app.command(cli_requests.who)
    app.command(cli_requests.cancel)
    app.command(cli_hold.hold)
    lock = App(name="lock", help="Locks that are kept between commands.")
    lock.command(cli_locks.acquire)
    lock.command(cli_locks.renew)
    lock.command(cli_locks.release)
    lock.command(cli_locks.list_all, name="list")
    app.command(lock)
    session = App(name="session", help="Sessions of agents.")
    session.command(cli_locks.end_session, name="end")
    app.command(session)
    app.command(cli_people.change)
    app.command(cli_people.decide)
    app.command(cli_conflicts.conflicts)
    conflict = App(name="conflict", help="One conflict.")
    conflict.command(cli_conflicts.show)
    conflict.command(cli_conflicts.resolve)
    app.command(conflict)
    config = App(name="config", help="The routers' configuration.")
    config.command(cli_services.config_show, name="show")
    config.command(cli_config.apply)
    app.command(config)
    app.command(cli_operating.leases)
    app.command(cli_operating.lag)
    app.command(cli_operating.events)
    app.command(cli_verify.verify)
    letters = App(name="deadletters", help="Records that were set aside.")
    letters.command(cli_deadletters.list_all, name="list")
    letters.command(cli_deadletters.show)
    letters.command(cli_deadletters.replay)
    app.command(letters)
    topics = App(name="topics", help="The journal's topics, against what routers need.")
    topics.command(cli_doctor.plan)
    topics.command(cli_doctor.apply)
    app.command(topics)
    app.command(cli_doctor.doctor)
    ingest = App(name="ingest", help="Turn what happens elsewhere into work requests.")
    ingest.command(cli_ingest.github)
    app.command(ingest)
    app.command(cli_services.demo)


def build(invocation: _Invocation) -> App:
    """The commands, and above them the options that every one of them takes, anywhere on the line."""
    app = App(
        name="keylane",
        help=HELP,
        help_format="plaintext",  # markdown takes a seventh of the time of --help, and none of it is markdown
        version=_version,
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
    )
    _add_commands(app)
    app.meta.group_parameters = Group("Options of every command", sort_key=1)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        url: str | None = None,
        output: Output = "text",
    ) -> object:
        """Parse the options that stand above every command, and hand the rest to one.

        Parameters
        ----------
        url:
            The journal: kafka://HOST:9092 or sqlite:///PATH. Else KEYLANE_URL, else ./.keylane.
        output:
            Text for people, or JSON: one object an answer, a line each.
        """
        tokens, program = _parted(tokens)
        # The format first: an error in the rest of the line is already told in it.
        context = invocation.context(url, output, program)
        command, bound, unparsed = app.parse_args(tokens, exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs, **{name: context for name in unparsed})

    return app


def _parted(tokens: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a command, and those of the program that it runs: of `hold`, whose own can be any number."""
    if tokens[:1] != ("hold",) or "--" not in tokens:
        return tokens, ()
    at = tokens.index("--")
    return tokens[:at], tokens[at + 1 :]


def _perform(app: App, arguments: Sequence[str]) -> msgspec.Struct | None:
    answer = app.meta(list(arguments))
    if inspect.iscoroutine(answer):
        import anyio

        async def awaited() -> object:
            return await answer

        answer = anyio.run(awaited)
    return cast("msgspec.Struct | None", answer)


def run(arguments: Sequence[str], out: TextIO, err: TextIO, stdin: BinaryIO) -> int:
    """One command from its arguments to its exit code (`cli_exits`), with the streams that it uses.

    Never raises for what a command can meet; a fault in keylane itself is raised when `KEYLANE_DEBUG` is set.
    """
    invocation = _Invocation(out, err, stdin)
    try:
        answer = _perform(build(invocation), arguments)
        if answer is not None:
            invocation.renderer.show(answer)
        out.flush()
        return DONE if answer is None else exit_of_answer(answer)
    except CycloptsError as mistaken:
        failure = failure_of(UsageError(str(mistaken)))
    except BaseException as error:
        failure = failure_of(error)
        if failure.is_fault and os.environ.get("KEYLANE_DEBUG"):
            raise
    if failure.body is not None:
        invocation.renderer.fail(failure.body)
    return failure.exit_code


def rlock() -> int:
    """The program `rlock`: `keylane lock acquire`."""
    return main("lock", "acquire")


def runlock() -> int:
    """The program `runlock`: `keylane lock release`."""
    return main("lock", "release")


def rlock_heartbeat() -> int:
    """The program `rlock-heartbeat`: `keylane lock renew`."""
    return main("lock", "renew")


def main(*command: str) -> int:
    """The entry point of the distribution. `command`: what stands before what was given, if anything does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know a character that an agent does
    # A process can be started without standard input.
    stdin = sys.stdin.buffer if sys.stdin is not None else io.BytesIO()
    code = run([*command, *sys.argv[1:]], sys.stdout, sys.stderr, stdin)
    if code == BROKEN_PIPE:
        # The interpreter flushes standard output once more as it goes; nobody reads it (Python docs, SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
