"""The log of a serving process: one line a record, as text for people or as JSON. Commands configure it.

What a record says beside its message is passed as `extra` under the names in `FIELDS`, so that a request can be
followed over processes. Text that agents wrote cannot forge a line, steer a terminal or flood the log: it is escaped
and cut here, whatever it was passed as. Payloads, results, checkpoints and secrets are never passed.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from datetime import UTC, datetime
from typing import Literal, TextIO

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

FIELDS = ("partition", "request", "run", "resource", "action", "token", "session", "code", "generation")
ROOT = "keylane"
MESSAGE_CHARACTERS_MAX = 4_096
FIELD_CHARACTERS_MAX = 512
PLAIN = re.compile(r'[^\s="]+')
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def configure(format: Format, level: Level, stream: TextIO) -> None:
    """Write what keylane logs from `level` on to `stream`, and what other libraries warn of."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())


class TextFormatter(logging.Formatter):
    """`2026-11-24T12:00:00.000Z INFO keylane.router: lane 3 loaded partition=3`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a line each for a traceback."""
        said = [_time(record), record.levelname, f"{record.name}:", _safe(_message(record), MESSAGE_CHARACTERS_MAX)]
        for name, value in _fields(record).items():
            text = _safe(str(value), FIELD_CHARACTERS_MAX)
            said.append(f"{name}={text if PLAIN.fullmatch(text) else json.dumps(text)}")
        text = " ".join(said)
        if record.exc_info:
            trace = self.formatException(record.exc_info)[-MESSAGE_CHARACTERS_MAX:]
            text += "".join(f"\n    {_safe(line, MESSAGE_CHARACTERS_MAX)}" for line in trace.splitlines())
        return text


class JsonFormatter(logging.Formatter):
    """An object a line: `time`, `level`, `logger`, `message`, what of `FIELDS` is known, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """ASCII, so that no reader takes a character in it for the end of the line."""
        told: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(_message(record), MESSAGE_CHARACTERS_MAX),
        }
        for name, value in _fields(record).items():
            told[name] = value if isinstance(value, int) else _cut(str(value), FIELD_CHARACTERS_MAX)
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)[-MESSAGE_CHARACTERS_MAX:]
        return json.dumps(told)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        # A record that cannot be told must not take the line of another, nor stop what logged it.
        return f"{record.msg!s} (its arguments do not fit)"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found = {name: getattr(record, name, None) for name in FIELDS}
    return {name: value for name, value in found.items() if value is not None}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def _safe(text: str, characters_max: int) -> str:
    """One line without anything that a terminal obeys or hides."""
    return "".join(
        character if unicodedata.category(character) not in HIDDEN else _visible(character)
        for character in _cut(text, characters_max)
    )


def _visible(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
