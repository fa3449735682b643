"""What guards guard: a PostgreSQL that the tests of one process share."""

from collections.abc import Iterator

import psycopg
import pytest
from guards.postgres import running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with running_postgres() as conninfo:
        yield conninfo


@pytest.fixture
def empty_postgres(postgres: str) -> str:
    """The same, with nothing in it."""
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres
