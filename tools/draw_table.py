"""Draws the router's table into docs/architecture.md, between its two markers: as a table and as a diagram.

`python tools/draw_table.py` rewrites the file; a test holds the file against what this draws.
"""

from __future__ import annotations

from pathlib import Path

from keylane.router.core.step import STATES, TABLE

FILE = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

# Where a run can be after a cell, if not where it was. Dispatch, the one place that grants, is no cell.
LEADS_TO: dict[tuple[str, str], tuple[str, ...]] = {
    ("Unknown", "arrive"): ("Waiting", "Parked", "Done"),
    ("Unknown", "acquire"): ("Waiting", "Done"),
    ("Waiting", "withdraw"): ("Done",),
    ("Waiting", "check_wait"): ("Done",),
    ("Waiting", "leave"): ("Done",),
    ("Waiting", "recheck"): ("Parked", "Done"),
    ("Waiting", "ripen"): ("Done",),
    ("Parked", "withdraw"): ("Done",),
    ("Parked", "decide"): ("Waiting", "Done"),
    ("Parked", "give_up"): ("Done",),
    ("Held", "withdraw"): ("Done",),
    ("Held", "complete"): ("Done",),
    ("Held", "give_back"): ("Done",),
    ("Held", "leave"): ("Done",),
    ("Held", "attempt_failed"): ("Waiting", "Parked", "Done"),
    ("Held", "expire"): ("Waiting", "Parked", "Done"),
    ("Done", "forget"): ("Unknown",),
}


def table() -> str:
    """The table as Markdown: a row an event, a column a run state."""
    lines = ["| event | " + " | ".join(STATES) + " |", "| --- " * (len(STATES) + 1) + "|"]
    for event, row in TABLE.items():
        names = ("-" if cell.__name__ == "impossible" else f"`{cell.__name__}`" for cell in row)
        lines.append(f"| {event.__name__} | " + " | ".join(names) + " |")
    return "\n".join(lines)


def diagram() -> str:
    """The moves between states as a Mermaid state diagram."""
    moves: dict[tuple[str, str], list[str]] = {
        ("Waiting", target): ["dispatch"] for target in ("Held", "Parked", "Done")
    }
    for event, row in TABLE.items():
        for state, cell in zip(STATES, row, strict=True):
            for target in LEADS_TO.get((state, cell.__name__), ()):
                moves.setdefault((state, target), []).append(f"{event.__name__}: {cell.__name__}")
    lines = ["```mermaid", "stateDiagram-v2"]
    for (source, target), names in sorted(moves.items()):
        lines += [f"    {source} --> {target}: {name}" for name in dict.fromkeys(names)]
    return "\n".join([*lines, "```"])


def drawn(text: str) -> str:
    """`text` with what lies between the markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{diagram()}\n\n{END}{after}"


if __name__ == "__main__":
    FILE.write_text(drawn(FILE.read_text()))
