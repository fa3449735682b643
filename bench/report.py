"""The results for people: a table on the terminal, and `docs/benchmarks.md`, prose and all. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from bench import prose
from bench.figures import number
from bench.findings import Finding, findings
from bench.results import Cost, Results
from bench.summary import Spread


def range_of(spread: Spread) -> str:
    return "" if spread.least == spread.most else f"{number(spread.least)} to {number(spread.most)}"


def target_of(finding: Finding) -> str:
    if finding.target is None:
        return ""
    return f"{'at most' if finding.at_most else 'at least'} {number(finding.target)}"


def verdict(finding: Finding) -> str:
    return {None: "", True: "reached", False: "not reached"}[finding.reached]


def show(found: Sequence[Finding], width: int) -> None:
    """The table, on standard output."""
    table = Table("", "", "median", "least to most", "target", "", title="keylane, measured")
    for each in found:
        value = f"{number(each.spread.median)} {each.unit}"
        table.add_row(each.part, each.what, value, range_of(each.spread), target_of(each), verdict(each))
    Console(width=max(width, 100)).print(table)


def text(results: Results) -> str:
    """`docs/benchmarks.md`."""
    found = findings(results)
    blocks = ["# Benchmarks", *prose.head(results), *_targets(found), "![The rates](benchmarks.svg)"]
    for part, rows in groupby(found, lambda each: each.part):
        blocks += [f"## {part}", prose.wrapped(prose.ABOUT[part]), _measured(list(rows))]
    if results.cost is not None:
        blocks += ["## CPU by part", prose.wrapped(prose.COST), _cost(results.cost)]
    if results.kafka is not None:
        blocks += ["## What bounds it", prose.bounds(results.kafka, results.cost)]
    blocks += ["## How", *prose.method(results)]
    return "\n\n".join(blocks) + "\n"


def _targets(found: Sequence[Finding]) -> list[str]:
    rows = [each for each in found if each.target is not None]
    missed = sum(not each.reached for each in rows)
    lines = [
        f"| {each.part}: {each.what} | {target_of(each)} {each.unit} | {number(each.spread.median)} "
        f"| {range_of(each.spread)} | {verdict(each)} |"
        for each in rows
    ]
    head = ["| what | target | median | least to most | |", "| --- | --- | --- | --- | --- |"]
    return ["## Targets", f"{len(rows) - missed} of {len(rows)} are reached.", "\n".join([*head, *lines])]


def _measured(rows: Sequence[Finding]) -> str:
    lines = [f"| {each.what} | {number(each.spread.median)} {each.unit} | {range_of(each.spread)} |" for each in rows]
    return "\n".join(["| what | median | least to most |", "| --- | --- | --- |", *lines])


def _cost(cost: Cost) -> str:
    names = sorted(set(cost.trips_us) | set(cost.routed_us), key=lambda name: -cost.trips_us.get(name, 0.0))
    rows = [
        f"| {name} | {prose.PARTS[name]} | {cost.trips_us.get(name, 0.0):.1f} | {cost.routed_us.get(name, 0.0):.1f} |"
        for name in names
    ]
    total = f"| all | | {sum(cost.trips_us.values()):.1f} | {sum(cost.routed_us.values()):.1f} |"
    return "\n".join(["| part | what it does | full round trip | routed |", "| --- | --- | --- | --- |", *rows, total])
