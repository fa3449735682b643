"""Judges a recorded history by the promises of design section 7. Imports `keylane.schemas` and nothing else of ours.

Shares no code with the router, not even helpers: what judges must not make the same mistakes. `history` has what
is read, `verify` the one function, `report` what it says; each promise has a module of its own.
"""

from .history import Acknowledged, Configured, Effect, Entry, Line, Span
from .lines import BadLine, decode_lines, encode_line, redacted
from .report import Report, Violation
from .verify import PROMISES, Verifier, verify

__all__ = [
    "PROMISES",
    "Acknowledged",
    "BadLine",
    "Configured",
    "Effect",
    "Entry",
    "Line",
    "Report",
    "Span",
    "Verifier",
    "Violation",
    "decode_lines",
    "encode_line",
    "redacted",
    "verify",
]
