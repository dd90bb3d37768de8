"""All SQL of the stream. The tables are made by `migrations/`.

A batch is copied into a temporary table and merged from there. What a row becomes is decided by its
id and its source position, so that writing it again changes nothing:

| id is stored | content  | position | then                                                  |
| ------------ | -------- | -------- | ----------------------------------------------------- |
| no           |          |          | stored, with its prediction                           |
| yes          | the same | the same | nothing: a redelivery                                 |
| yes          | the same | another  | a repeated message: its position into `duplicates`    |
| yes          | another  | any      | a conflict: the first stays, this one is not stored   |

Nothing locks the rows that are stored already: one can be deleted between two statements. So what
became of the rows is counted in the same transaction, and has to add up.
"""
# ruff: noqa: S608 - put together from the constants of this module alone

from typing import Final

__all__ = [
    "CANARY",
    "CLASSIFY",
    "COMMIT_LOCALLY",
    "CONSTRAIN_NOW",
    "COPY",
    "COPY_TYPES",
    "HIDDEN_IN",
    "LIMIT_SESSION",
    "LIMIT_STATEMENTS",
    "LOCK_HOLDER",
    "MAY",
    "MAY_STAGE",
    "NOTE_TOPIC",
    "PRIVILEGES",
    "STAGED",
    "STORE",
    "STORED_POSITIONS",
    "TABLE_EXISTS",
    "TAKES_NO_WRITES",
    "TAKE_LOCKS",
    "TOPIC_ID",
    "UNLOCK",
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
), predicted AS (
    INSERT INTO predictions (transaction_id, {_PREDICTION})
    SELECT id, {_PREDICTION} FROM first JOIN stored USING (id)
    RETURNING 1
)
SELECT (SELECT count(*) FROM stored), (SELECT count(*) FROM predicted),
    CASE WHEN (SELECT count(*) FROM stored) < (SELECT count(*) FROM staged)
    THEN ARRAY(SELECT ordinal FROM staged EXCEPT SELECT ordinal FROM first JOIN stored USING (id))
    ELSE ARRAY[]::integer[] END
"""
"""How many transactions are new, how many predictions (the same number, unless a trigger swallows
some), and which rows are not stored."""

_SAME_CONTENT = """
    (s.external_id, s.description, s.amount, s.timestamp, s.merchant, s.operation_type, s.side)
    IS NOT DISTINCT FROM
    (t.external_id, t.description, t.amount, t.timestamp, t.merchant, t.operation_type, t.side)
"""

# A statement of its own, since it has to see what others committed while STORE waited for them.
CLASSIFY: Final = f"""
WITH known AS MATERIALIZED (
    SELECT s.ordinal, s.id, s.source_topic, s.source_partition, s.source_offset,
        {_SAME_CONTENT} AS same,
        (s.source_topic, s.source_partition, s.source_offset)
            = (t.source_topic, t.source_partition, t.source_offset) AS here,
        d.transaction_id IS NOT NULL AS noted
    FROM staged s JOIN transactions t ON t.id = s.id
    LEFT JOIN duplicates d ON (d.source_topic, d.source_partition, d.source_offset)
        = (s.source_topic, s.source_partition, s.source_offset)
    WHERE s.ordinal = ANY(%s)
), new AS (
    INSERT INTO duplicates (transaction_id, {_POSITION})
    SELECT id, {_POSITION} FROM known WHERE same AND NOT here
    ON CONFLICT DO NOTHING
    RETURNING {_POSITION}
)
SELECT
    count(*) FILTER (WHERE same AND here),
    count(*) FILTER (WHERE same AND NOT here AND (known.noted OR new.source_offset IS NOT NULL)),
    coalesce(array_agg(ordinal) FILTER (WHERE NOT same), ARRAY[]::integer[]),
    (SELECT count(*) FROM new)
FROM known LEFT JOIN new USING ({_POSITION})
"""
"""Of the rows that STORE did not store, note the repeated ones, and count: stored earlier from the
same position, repeated (in `duplicates` now), which are in conflict, and how many are new in
`duplicates`.

A row of none of these kinds is not counted: it was deleted since STORE passed over it.
"""

STORED_POSITIONS: Final = """
SELECT source_offset FROM transactions
WHERE source_topic = %(topic)s AND source_partition = %(partition)s
    AND source_offset = ANY(%(offsets)s::bigint[])
UNION ALL
SELECT source_offset FROM duplicates
WHERE source_topic = %(topic)s AND source_partition = %(partition)s
    AND source_offset = ANY(%(offsets)s::bigint[])
"""

NOTE_TOPIC: Final = """
INSERT INTO source_topics (source_topic, topic_id) VALUES (%s, %s) ON CONFLICT DO NOTHING
"""

TOPIC_ID: Final = "SELECT topic_id FROM source_topics WHERE source_topic = %s"

LIMIT_STATEMENTS: Final = "SELECT set_config('statement_timeout', %s, false)"
"""Milliseconds; a statement and not a connection option, which poolers refuse."""

LIMIT_SESSION: Final = """
SELECT pg_backend_pid(),
    set_config('statement_timeout', %(milliseconds)s, false),
    -- A frozen process gives up its locks, and one whose host is gone within half a minute.
    set_config('idle_in_transaction_session_timeout', %(milliseconds)s, false),
    set_config('tcp_keepalives_idle', '15', false),
    set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false)
"""

COMMIT_LOCALLY: Final = "SET LOCAL synchronous_commit = local"
"""To make a temporary table is a commit too, which would wait for a synchronous standby that is
gone, and leave a process at the database behind with each attempt."""

# A session that takes a lock twice would have to give it up twice: CASE sees to it that none does.
TAKE_LOCKS: Final = """
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS key FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid = pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT wanted.key, CASE WHEN held.key IS NOT NULL THEN true
    ELSE pg_try_advisory_lock(wanted.key) END
FROM unnest(%s::bigint[]) AS wanted (key) LEFT JOIN held USING (key)
"""
"""Whether the session holds each lock, after it has tried to take those that it did not."""

UNLOCK: Final = "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) AS key"

LOCK_HOLDER: Final = """
SELECT format(
    '%%s, process %%s at the database, from %%s, since %%s%%s',
    application_name, pid, coalesce(host(client_addr), 'this host'), backend_start,
    CASE wait_event WHEN 'SyncRep' THEN ', which waits for a synchronous standby' END
), pid
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND datname = current_database()
    AND (classid::bigint << 32) | objid::bigint = %s
"""

TAKES_NO_WRITES: Final = (
    "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean"
)
HIDDEN_IN: Final = """
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = %s AND c.relkind IN ('r', 'p') AND NOT has_schema_privilege(n.oid, 'USAGE')
    AND n.nspname = ANY(string_to_array(current_setting('search_path'), ', '))
"""
"""Schema in which a table is that cannot be seen."""
MAY_STAGE: Final = "SELECT has_database_privilege(current_database(), 'TEMPORARY')"

CONSTRAIN_NOW: Final = "SET CONSTRAINTS ALL IMMEDIATE"
"""What would be found at the commit is found at once, where there will be none."""

CANARY: Final = f"""
INSERT INTO staged (ordinal, {_TRANSACTION}, {_POSITION}, {_PREDICTION})
SELECT number, %(id)s, CASE WHEN external_id IS NOT NULL THEN %(id)s::text END,
    description, amount, timestamp, merchant, operation_type, side,
    source_topic, source_partition, %(offset)s::bigint + number, {_PREDICTION}
FROM transactions JOIN predictions ON transaction_id = id, generate_series(0, 1) AS number
WHERE id = (
    SELECT id FROM transactions
    WHERE source_topic = %(topic)s AND source_partition = %(partition)s
    ORDER BY source_offset DESC LIMIT 1
)
"""
"""Stage the newest row of a partition, under an id and a place of its own, and its repetition."""

TABLE_EXISTS: Final = "SELECT to_regclass(%s) IS NOT NULL"
MAY: Final = "SELECT has_table_privilege(%s, %s)"
PRIVILEGES: Final = [
    ("transactions", "SELECT"),
    ("transactions", "INSERT"),
    ("predictions", "SELECT"),
    ("predictions", "INSERT"),
    ("duplicates", "SELECT"),
    ("duplicates", "INSERT"),
    ("source_topics", "SELECT"),
    ("source_topics", "INSERT"),
]
"""What the stream's database user needs, by table."""
