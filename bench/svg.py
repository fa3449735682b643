"""`docs/benchmarks.svg`: the rates as bars with their spread. Written by hand, for a plotting library is larger than
all of keylane; its greys are read on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from bench.figures import number
from bench.findings import Finding, findings
from bench.results import Results

WIDTH, LABEL, ROW, HEAD, MARGIN = 840, 330, 26, 34, 16
BAR_HEIGHT = 14
VALUE_ROOM = 90
TEXT, OURS, THEIRS, SPREAD = "#7d8590", "#2f81f7", "#8b949e", "#d29922"
RATES = ("Kafka", "Embedded")


def draw(results: Results) -> str:
    """Bars of all rates a second; each part has a scale of its own."""
    rates = [each for each in findings(results) if each.unit == "/s" and each.part in RATES]
    y = MARGIN
    drawn: list[str] = []
    for part, group in groupby(rates, lambda each: each.part):
        rows = list(group)
        y += HEAD
        drawn.append(_text(MARGIN, y - 12, f"{part}: requests a second", bold=True))
        for each in rows:
            drawn += _bar(each, y, max(row.spread.most for row in rows))
            y += ROW
    height = y + MARGIN
    style = f'font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" {style}>'
    title = "<title>keylane beside its ceilings: requests a second, median and spread over the rounds</title>"
    return "\n".join([head, title, *drawn, "</svg>", ""])


def _bar(finding: Finding, y: int, most: float) -> Sequence[str]:
    scale = (WIDTH - LABEL - VALUE_ROOM - MARGIN) / most
    spread = finding.spread
    colour = OURS if finding.what.startswith(("routed", "full")) else THEIRS
    middle = y + BAR_HEIGHT / 2
    least, median, end = (LABEL + value * scale for value in (spread.least, spread.median, spread.most))
    bar = [
        _text(MARGIN, y + 12, finding.what),
        f'<rect x="{LABEL}" y="{y}" width="{median - LABEL:.1f}" height="{BAR_HEIGHT}" rx="2" fill="{colour}"/>',
        _text(max(median, end) + 8, y + 12, number(spread.median)),
    ]
    if least == end:
        return bar  # there was one round
    return [
        *bar,
        f'<path d="M{least:.1f} {middle}H{end:.1f}M{least:.1f} {middle - 4}v8M{end:.1f} {middle - 4}v8"'
        f' stroke="{SPREAD}" stroke-width="1.5" fill="none"/>',
    ]


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}"{weight}>{escape(text)}</text>'
