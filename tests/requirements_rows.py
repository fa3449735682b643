"""The rows that `@pytest.mark.requirement(row)` may name: what the project's sources ask for, by number."""

ROWS = frozenset(
    [
        *(f"M.{n}" for n in range(1, 5)),
        *(f"S0.{n}" for n in range(1, 5)),
        *(f"S1.{n}" for n in range(1, 10)),
        *(f"S2.{n}" for n in range(1, 4)),
        *(f"S3.{n}" for n in range(1, 5)),
        *(f"S4.{n}" for n in range(1, 5)),
    ]
)
