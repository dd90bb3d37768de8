"""Positions in the tables.

Their unique indexes hold the positions of a partition in order, so that each slice of a table is an
index-only scan, and only the ends of its runs leave the database. A slice is a statement of its
own: none takes long, and none holds back the clean-up of a busy database.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Timer
from typing import Any, Final, Self

import psycopg
from psycopg import sql

from operators.errors import DependencyError
from operators.postgres import sql as statements
from ops.audit.predictions import without_prediction
from ops.audit.spans import Span
from settings import Settings

__all__ = ["SPANS", "TABLES", "Tables"]

TABLES: Final = ("transactions", "duplicates")
"""Those that hold positions."""
SLICE: Final = 100_000  # rows; at worst each is a span of its own
GRACE: Final = 1.0  # seconds for the server to keep the limit itself

SPANS: Final = sql.SQL("""
SELECT min(at), max(at) FROM (
    SELECT at, at - row_number() OVER (ORDER BY at) AS run FROM (
        SELECT source_offset AS at FROM {table}
        WHERE source_topic = %s AND source_partition = %s AND source_offset >= %s
        ORDER BY source_offset LIMIT %s
    ) AS slice
) AS numbered
GROUP BY run ORDER BY 1
""")
"""Within a run of offsets, an offset less its row number is always the same."""

PLACES: Final = sql.SQL("""
SELECT source_offset FROM {table}
WHERE source_topic = %s AND source_partition = %s AND source_offset = ANY(%s)
""")


class Tables:
    """A connection to the database, for one topic.

    :arg settings: Where it is, its time limits, and the topic.

    :raises DependencyError: Which setting to look at.

    """

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.kafka_topic
        self._limit = settings.database_timeout.total_seconds()
        try:
            self._connection = psycopg.connect(
                settings.database_url.get_secret_value(),
                autocommit=True,
                # The plan depends on the values.
                prepare_threshold=None,
                application_name=f"{settings.kafka_consumer_group} audit",
                connect_timeout=max(1, round(settings.start_timeout.total_seconds())),
            )
        except (psycopg.Error, UnicodeError) as error:
            raise DependencyError(_told(error)) from None
        try:
            self._prepare()
        except DependencyError:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Use it, and close it in the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection, without a word to a server that may not answer."""
        self._connection.pgconn.finish()

    def spans(self, table: str, partition: int, start: int) -> Iterator[Span]:
        """Runs of positions in a table.

        :arg table: Its name.

        :arg partition: Of the topic.

        :arg start: The first offset that counts.

        :returns: In ascending order; two may follow each other without a gap.

        :raises DependencyError: Which setting to look at.

        """
        statement = SPANS.format(table=sql.Identifier(table))
        while True:
            spans = [
                Span(*row) for row in self._ask(statement, [self._topic, partition, start, SLICE])
            ]
            yield from spans
            if sum(span.size for span in spans) < SLICE:
                return
            start = spans[-1].last + 1

    def having(self, table: str, partition: int, offsets: Sequence[int]) -> set[int]:
        """Which of some positions are in a table.

        :raises DependencyError: Which setting to look at.

        """
        statement = PLACES.format(table=sql.Identifier(table))
        return {at for (at,) in self._ask(statement, [self._topic, partition, list(offsets)])}

    def topic_id(self) -> str:
        """Kafka's id of the topic that the rows come from; empty if it is not known.

        :raises DependencyError: Which setting to look at.

        """
        return "".join(noted for (noted,) in self._ask(statements.TOPIC_ID, [self._topic]))

    def without_prediction(self) -> dict[int, list[int]]:
        """Offsets of transactions that have no prediction, ascending, by partition.

        :raises DependencyError: Which setting to look at.

        """
        return without_prediction(self._ask, self._topic)

    def _prepare(self) -> None:
        self._ask(statements.LIMIT_STATEMENTS, [str(round(self._limit * 1000))])
        for table in (*TABLES, "predictions", "source_topics"):
            if self._ask(statements.TABLE_EXISTS, [table]) != [(True,)]:
                msg = f"DATABASE_URL: there is no table {table}: run python -m ops migrate"
                raise DependencyError(msg)
            if self._ask(statements.MAY, [table, "SELECT"]) != [(True,)]:
                msg = f"DATABASE_URL: this user lacks SELECT on {table}"
                raise DependencyError(msg)

    def _ask(
        self, statement: str | sql.Composed, values: list[Any] | dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        # The server has the same limit, but a frozen one does not keep it.
        timer = Timer(self._limit + GRACE, _break, [self._connection])
        timer.daemon = True
        timer.start()
        try:
            return self._connection.execute(statement, values).fetchall()
        except psycopg.errors.QueryCanceled:
            msg = f"DATABASE_TIMEOUT: the database took longer than {self._limit:g} s for an answer"
            raise DependencyError(msg) from None
        except psycopg.Error as error:
            raise DependencyError(_told(error)) from None
        finally:
            timer.cancel()


def _told(error: Exception) -> str:
    # The first line has the reason, never the password.
    return f"DATABASE_URL: {str(error).strip().splitlines()[0]}"


def _break(connection: psycopg.Connection[Any]) -> None:
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)
