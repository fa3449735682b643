"""The arithmetic of the benchmarks' results."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "bench" / "summary.py"


def load() -> ModuleType:
    """By its file: the package is no part of keylane, and tests have a `bench` of their own."""
    spec = importlib.util.spec_from_file_location("benchmarks_summary", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


summary = load()


def test_a_ratio_is_of_two_values_of_one_round() -> None:
    # The machine was twice as fast in the second round: of medians, the ratio would be 0.75.
    assert summary.ratios([10.0, 20.0], [20.0, 20.0]) == (0.75, 0.5, 1.0)
    assert summary.ratios([10.0, 30.0, 20.0], [20.0, 60.0, 20.0]) == (0.5, 0.5, 1.0)


def test_rounds_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(ValueError):
        summary.ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("percent", "found"), [(0, 1.0), (1, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, found: float) -> None:
    assert summary.percentile([float(value) for value in range(100, 0, -1)], percent) == found


def test_the_tail_of_few_samples_is_their_worst() -> None:
    assert summary.percentile([1.0, 2.0, 9.0], 99) == 9.0


@pytest.mark.parametrize("of_nothing", [lambda: summary.spread([]), lambda: summary.percentile([], 50)])
def test_nothing_measured_is_no_zero(of_nothing: object) -> None:
    assert callable(of_nothing)
    with pytest.raises(ValueError, match="nothing was measured"):
        of_nothing()
