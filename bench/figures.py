"""How figures are written."""

from __future__ import annotations


def number(value: float) -> str:
    """Three significant digits, or all of a whole number."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
