"""All SQL of the stream. The tables are made by `migrations/`.

A batch is copied into a temporary table and merged from there. What a row becomes is decided by its
id and its source position, so that writing it again changes nothing:

| id is stored | content  | position | then                                                  |
| ------------ | -------- | -------- | ----------------------------------------------------- |
| no           |          |          | stored, with its prediction                           |
| yes          | the same | the same | nothing: a redelivery                                 |
| yes          | the same | another  | a repeated message: its position into `duplicates`    |
| yes          | another  | any      | a conflict: the first stays, this one is not stored   |
"""
# ruff: noqa: S608 - put together from the constants of this module alone

from typing import Final

__all__ = [
    "CONFLICTS",
    "COPY",
    "COPY_TYPES",
    "LIMIT_SESSION",
    "LIMIT_STATEMENTS",
    "LOCK",
    "LOCK_HOLDER",
    "MAY",
    "PRIVILEGES",
    "REPEATED",
    "STAGED",
    "STORE",
    "TABLE_EXISTS",
]

_TRANSACTION = "id, external_id, description, amount, timestamp, merchant, operation_type, side"
_POSITION = "source_topic, source_partition, source_offset"
_PREDICTION = "prediction, fraud_score, model_version"

STAGED: Final = """
CREATE TEMPORARY TABLE staged (
    ordinal integer, id uuid, external_id text, description text, amount numeric,
    timestamp timestamptz, merchant text, operation_type text, side text,
    source_topic text, source_partition integer, source_offset bigint,
    prediction text, fraud_score double precision, model_version text
) ON COMMIT DELETE ROWS
"""

COPY: Final = (
    f"COPY staged (ordinal, {_TRANSACTION}, {_POSITION}, {_PREDICTION}) FROM STDIN (FORMAT BINARY)"
)
COPY_TYPES: Final = [
    "int4",  # ordinal
    *("uuid", "text", "text", "numeric", "timestamptz", "text", "text", "text"),
    *("text", "int4", "int8"),
    *("text", "float8", "text"),
]

# In the order of ids, so that two writers with the same ids lock them in the same order.
STORE: Final = f"""
WITH first AS (
    SELECT DISTINCT ON (id) * FROM staged ORDER BY id, ordinal
), stored AS (
    INSERT INTO transactions ({_TRANSACTION}, {_POSITION})
    SELECT {_TRANSACTION}, {_POSITION} FROM first
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
INSERT INTO predictions (transaction_id, {_PREDICTION})
SELECT id, {_PREDICTION} FROM first JOIN stored USING (id)
"""

_SAME_CONTENT = """
    (s.external_id, s.description, s.amount, s.timestamp, s.merchant, s.operation_type, s.side)
    IS NOT DISTINCT FROM
    (t.external_id, t.description, t.amount, t.timestamp, t.merchant, t.operation_type, t.side)
"""

# The next two are statements of their own, since they have to see what other writers committed
# while STORE waited for them.
REPEATED: Final = f"""
INSERT INTO duplicates (transaction_id, {_POSITION})
SELECT s.id, s.source_topic, s.source_partition, s.source_offset
FROM staged s JOIN transactions t ON t.id = s.id
WHERE {_SAME_CONTENT}
    AND (s.source_topic, s.source_partition, s.source_offset)
     <> (t.source_topic, t.source_partition, t.source_offset)
ON CONFLICT DO NOTHING
"""

CONFLICTS: Final = f"""
SELECT s.ordinal FROM staged s JOIN transactions t ON t.id = s.id WHERE NOT ({_SAME_CONTENT})
"""

LIMIT_STATEMENTS: Final = "SELECT set_config('statement_timeout', %s, false)"
"""Milliseconds; a statement and not a connection option, which poolers refuse."""

LIMIT_SESSION: Final = """
SELECT set_config('statement_timeout', %(milliseconds)s, false),
    -- A frozen process gives up its locks, and one whose host is gone within half a minute.
    set_config('idle_in_transaction_session_timeout', %(milliseconds)s, false),
    set_config('tcp_keepalives_idle', '15', false),
    set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false)
"""

LOCK: Final = "SELECT pg_try_advisory_lock(%s)"

LOCK_HOLDER: Final = """
SELECT format(
    '%%s, process %%s at the database, from %%s, since %%s',
    application_name, pid, coalesce(host(client_addr), 'this host'), backend_start
)
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND datname = current_database()
    AND (classid::bigint << 32) | objid::bigint = %s
"""

TABLE_EXISTS: Final = "SELECT to_regclass(%s) IS NOT NULL"
MAY: Final = "SELECT has_table_privilege(%s, %s)"
PRIVILEGES: Final = [
    ("transactions", "SELECT"),
    ("transactions", "INSERT"),
    ("predictions", "INSERT"),
    ("duplicates", "INSERT"),
]
"""What the stream's database user needs, by table."""
