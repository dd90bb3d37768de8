-- What the stream stores. Rows are written once and never updated; each names the message it
-- came from, so that whatever was read can be counted against what was stored.
--
-- Indexes are paid for at every insert, so each says below what it is for.

CREATE TABLE transactions (
    id               uuid PRIMARY KEY,
    external_id      text,
    description      text NOT NULL,
    amount           numeric(18, 4) NOT NULL,
    "timestamp"      timestamptz NOT NULL,
    merchant         text,
    operation_type   text NOT NULL,
    side             text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    source_topic     text NOT NULL,
    source_partition integer NOT NULL,
    source_offset    bigint NOT NULL
);

-- Two tasks in one: a message cannot be stored twice, whatever the writer does, and the audit
-- reads all positions of a partition in order from this index alone. New entries go to the end
-- of their partition, on a few pages that stay in memory, so it is far cheaper than its size
-- suggests.
CREATE UNIQUE INDEX transactions_source_position_key
    ON transactions (source_topic, source_partition, source_offset);

-- For "what came in lately". Rows lie on disk in the order of created_at, so a summary per
-- 32 pages (256 kB) finds the pages of an hour; it is a thousandth of a btree's size and next to
-- free to maintain. Pages that have no summary yet are the newest ones, which these queries read
-- anyway.
CREATE INDEX transactions_created_at_idx
    ON transactions USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);

-- To find a transaction by the id its producer knows. Partial: where ids are UUIDs, nothing
-- is ever inserted here.
CREATE INDEX transactions_external_id_idx
    ON transactions (external_id) WHERE external_id IS NOT NULL;

COMMENT ON TABLE transactions IS
    'Valid transactions, one row each, stored together with their prediction';
COMMENT ON COLUMN transactions.external_id IS
    'The id as received, where it was no UUID; id is then derived from it';
COMMENT ON COLUMN transactions."timestamp" IS
    'When the transaction took place, by its producer; taken as UTC if it came without an offset';
COMMENT ON COLUMN transactions.created_at IS
    'When the database transaction that stored the row began';
COMMENT ON COLUMN transactions.source_topic IS
    'With source_partition and source_offset: the message this row came from';


CREATE TABLE predictions (
    transaction_id uuid PRIMARY KEY REFERENCES transactions (id) ON DELETE CASCADE,
    prediction     text NOT NULL,
    -- Refuses NaN too, which Postgres sorts above every other number.
    fraud_score    double precision NOT NULL
        CONSTRAINT predictions_fraud_score_check CHECK (fraud_score BETWEEN 0 AND 1),
    model_version  text,
    created_at     timestamptz NOT NULL DEFAULT now()
);

-- For counts and rates of the last hour or day. A btree on (created_at, prediction) would answer
-- without the table, but rows are narrow: the pages of one day cost less to read, now and then,
-- than an entry for every row costs to write.
CREATE INDEX predictions_created_at_idx
    ON predictions USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);

COMMENT ON TABLE predictions IS
    'What the model said of each transaction; every transaction has exactly one row here';
COMMENT ON COLUMN predictions.prediction IS 'The model''s own label';
COMMENT ON COLUMN predictions.fraud_score IS 'From 0 (legitimate) to 1 (fraud)';
COMMENT ON COLUMN predictions.model_version IS 'As told by the model; null if it tells none';


-- No foreign key: a position that was read stays accounted for after its transaction is deleted.
CREATE TABLE duplicates (
    transaction_id   uuid NOT NULL,
    source_topic     text NOT NULL,
    source_partition integer NOT NULL,
    source_offset    bigint NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_topic, source_partition, source_offset)
);

-- For "which messages carried this transaction?". Repeats are the exception, so entries are few.
CREATE INDEX duplicates_transaction_id_idx ON duplicates (transaction_id);

-- For the rate of repeats, as above.
CREATE INDEX duplicates_created_at_idx
    ON duplicates USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);

COMMENT ON TABLE duplicates IS
    'Messages that repeated a stored transaction with the same content: position only';
COMMENT ON COLUMN duplicates.transaction_id IS 'The stored transaction that the message repeated';
