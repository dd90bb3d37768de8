"""Look for the database, its tables and the rights to write to them."""

import psycopg

from operators.errors import DependencyError
from operators.postgres import sql
from settings import Settings

__all__ = ["check"]


def check(settings: Settings) -> str:
    """Connect to the database and look for the tables and the rights to write to them.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    limit = settings.start_timeout.total_seconds()
    try:
        with psycopg.connect(
            settings.database_url.get_secret_value(),
            autocommit=True,
            connect_timeout=max(1, round(limit)),
        ) as connection:
            connection.execute(sql.LIMIT_STATEMENTS, [str(round(limit * 1000))])
            for table, privilege in sql.PRIVILEGES:
                if not _is(connection, sql.TABLE_EXISTS, table):
                    msg = f"DATABASE_URL: there is no table {table}: run python -m ops migrate"
                    raise DependencyError(msg)
                if not _is(connection, sql.MAY, table, privilege):
                    msg = f"DATABASE_URL: this user lacks {privilege} on {table}"
                    raise DependencyError(msg)
            info = connection.info
            version = info.server_version // 10_000
            return f"{info.dbname} at {info.host}:{info.port}, PostgreSQL {version}"
    # UnicodeError: a name that cannot be a host's, such as one with two dots in a row.
    except (psycopg.Error, UnicodeError) as error:
        # libpq's first line names host and reason, never the password.
        msg = f"DATABASE_URL: {str(error).strip().splitlines()[0]}"
        raise DependencyError(msg) from None


def _is(connection: psycopg.Connection[tuple[bool]], query: str, *values: str) -> bool:
    row = connection.execute(query, values).fetchone()
    return row is not None and row[0]
