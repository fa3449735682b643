"""Text that agents wrote cannot do anything to a terminal, and JSON still means what it meant."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keylane.cli_text import BLOCK_CHARACTERS_MAX, HIDDEN, LINE_CHARACTERS_MAX, block, line, terminal_json

# No surrogates: they cannot come out of a JSON decoder.
agent_text = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain ünïcode ✓", "plain ünïcode ✓"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("two\nlines\r", "two\\x0alines\\x0d"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\x9b31m", "\\x9b31m"),
        ("\U000e0041", "\\U000e0041"),
        ("[bold]no markup[/bold]", "[bold]no markup[/bold]"),
    ],
)
def test_a_line_shows_what_is_hidden(written: str, shown: str) -> None:
    assert line(written) == shown


def test_length_is_capped_and_the_cut_shown() -> None:
    assert line("x" * 1_000_000) == "x" * LINE_CHARACTERS_MAX + "…"
    assert block("x\n" * 1_000_000) == "x\n" * (BLOCK_CHARACTERS_MAX // 2) + "…"


@given(agent_text)
def test_nothing_hidden_is_left(written: str) -> None:
    assert not [character for character in line(written) if unicodedata.category(character) in HIDDEN]
    assert not [c for c in block(written) if unicodedata.category(c) in HIDDEN and c != "\n"]


@given(st.dictionaries(agent_text, agent_text))
def test_json_for_a_terminal_is_the_same_value_without_hidden_characters(value: dict[str, str]) -> None:
    printed = terminal_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(printed) == value
    assert not [character for character in printed if unicodedata.category(character) in HIDDEN]
