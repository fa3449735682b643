"""Making text that agents wrote safe to print. Pure; nothing here knows commands, rich or terminals.

A resource, an actor or a result can hold anything: terminal escape sequences that rewrite what is above,
bidirectional overrides that turn a word around, a megabyte in one line. Whatever was not written by keylane
itself passes through here before it reaches a terminal.
"""

from __future__ import annotations

import json
import re
import unicodedata

LINE_CHARACTERS_MAX = 200
BLOCK_CHARACTERS_MAX = 4000

# Not printable as they are: controls (C0, DEL, C1), formats (bidi, zero width, tags), surrogates, private use,
# unassigned, and the two separators that some terminals take for a new line.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

_BEYOND_ASCII = re.compile("[^\x00-\x7e]")


def _visible(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _escaped(text: str, kept: str) -> str:
    return "".join(
        character if character in kept or unicodedata.category(character) not in HIDDEN else _visible(character)
        for character in text
    )


def line(text: str, characters_max: int = LINE_CHARACTERS_MAX) -> str:
    """`text` as one line without anything hidden, at most `characters_max` characters of it."""
    cut = text[:characters_max]
    return _escaped(cut, "") + ("…" if len(text) > characters_max else "")


def block(text: str, characters_max: int = BLOCK_CHARACTERS_MAX) -> str:
    """As `line`, but new lines stay: for JSON and messages that are shown in full."""
    cut = text[:characters_max]
    return _escaped(cut, "\n") + ("…" if len(text) > characters_max else "")


def terminal_json(text: str) -> str:
    """JSON that means exactly what `text` means, with hidden characters as `\\u…` escapes.

    JSON escapes controls below U+0020 by itself. All others can only be inside strings, where any character
    may be written so (RFC 8259, 7).
    """
    return _BEYOND_ASCII.sub(_escaped_in_json, text)


def _escaped_in_json(found: re.Match[str]) -> str:
    character = found.group()
    return json.dumps(character)[1:-1] if unicodedata.category(character) in HIDDEN else character
