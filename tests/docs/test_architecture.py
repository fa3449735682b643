"""What the documentation draws is what the code has."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_in_the_architecture_is_that_of_the_router() -> None:
    spec = importlib.util.spec_from_file_location("draw_table", ROOT / "tools" / "draw_table.py")
    assert spec is not None and spec.loader is not None
    draw_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw_table)
    text = draw_table.FILE.read_text()
    assert draw_table.drawn(text) == text, "run: python tools/draw_table.py"


def test_the_modules_and_scenarios_that_tell_a_rule_are_there() -> None:
    section = (ROOT / "docs/architecture.md").read_text().partition("## Where each rule is")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    named = [(set(re.findall(r"`(\w+)`", decided)), set(re.findall(r"`(\w+)`", told))) for _, decided, told in rows[2:]]
    assert len(named) > 10
    modules = set().union(*(decided for decided, _ in named))
    scenarios = set().union(*(told for _, told in named))
    assert modules <= {path.stem for path in (ROOT / "router/core").glob("*.py")}
    assert scenarios <= {path.stem for path in (ROOT / "tests/scenarios").glob("*.txt")}
