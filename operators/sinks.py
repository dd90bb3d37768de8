"""Store scored transactions in PostgreSQL.

One writer a worker takes what is waiting and writes it as one database transaction, while the
stream goes on; an epoch ends only after all of it is committed.
"""

from collections.abc import Callable

import psycopg
from bytewax.outputs import StatefulSinkPartition

from operators.engine.aligned import SourceAlignedSink
from operators.errors import DependencyError
from operators.postgres import sql as statements
from operators.postgres.writer import PostgresWriter
from operators.records import Scored
from settings import Settings

__all__ = ["PostgresSink", "check"]


def check(settings: Settings) -> str:
    """Connect to the database and look for the tables and the rights to write to them.

    :arg settings: Where it is.

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
            connection.execute(statements.LIMIT_STATEMENTS, [str(round(limit * 1000))])
            for table, privilege in statements.PRIVILEGES:
                if not _is(connection, statements.TABLE_EXISTS, table):
                    msg = f"DATABASE_URL: there is no table {table}: run python -m ops migrate"
                    raise DependencyError(msg)
                if not _is(connection, statements.MAY, table, privilege):
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


class _Partition(StatefulSinkPartition[Scored, None]):
    def __init__(self, writer: PostgresWriter, partition_key: str) -> None:
        self._writer = writer
        writer.open(partition_key)

    def write_batch(self, values: list[Scored]) -> None:
        self._writer.write(values)

    def snapshot(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class PostgresSink(SourceAlignedSink[Scored]):
    """Scored transactions to PostgreSQL. Exactly once: rows are idempotent by id and position.

    :arg settings: The topic whose partitions it has.

    :arg writers: Gives the calling worker's writer.

    """

    def __init__(self, settings: Settings, *, writers: Callable[[], PostgresWriter]) -> None:
        super().__init__(settings)
        self._writers = writers

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Partition:
        """See ABC docstring."""
        del step_id, resume_state
        return _Partition(self._writers(), for_part)
