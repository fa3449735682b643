"""What the documentation draws is what the code has."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_in_the_architecture_is_that_of_the_router() -> None:
    spec = importlib.util.spec_from_file_location("draw_table", ROOT / "tools" / "draw_table.py")
    assert spec is not None and spec.loader is not None
    draw_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw_table)
    text = draw_table.FILE.read_text()
    assert draw_table.drawn(text) == text, "run: python tools/draw_table.py"
