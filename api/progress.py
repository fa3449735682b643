"""A bar for long work, on standard error and only on a terminal: nothing is drawn where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from keylane.cli_context import CommandContext

Advance = Callable[[int], None]


def unseen(_: int) -> None:
    """Progress that nobody watches."""


@contextmanager
def progress(context: CommandContext, title: str, total: int) -> Iterator[Advance]:
    """Yields what is to be called with how much more is done, of `total`. The bar is gone afterwards."""
    with growing(context, title) as (found, advance):
        found(total)
        yield advance


@contextmanager
def growing(context: CommandContext, title: str) -> Iterator[tuple[Advance, Advance]]:
    """As `progress`, where how much there is comes out on the way: the first is called with how much more there is."""
    if not context.watched:
        yield unseen, unseen
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=0)
        total = 0

        def found(more: int) -> None:
            nonlocal total
            total += more
            bar.update(task, total=total)

        def advance(done: int) -> None:
            bar.advance(task, done)

        yield found, advance
