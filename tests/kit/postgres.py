"""What tests ask PostgreSQL."""

from typing import Any

import psycopg

__all__ = ["query"]


def query(database_url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own.

    :arg database_url: Where.

    :arg statement: Committed at once.

    :arg values: Of its parameters.

    :returns: The rows, none if it gives none.

    """
    with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:
        # A test's own text.
        cursor = connection.execute(statement, values or None)
        return list(cursor.fetchall()) if cursor.description else []
