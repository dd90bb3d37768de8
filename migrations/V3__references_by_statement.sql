-- A prediction needs its transaction, and goes with it, as with the foreign key that stood here. That
-- is looked at once a statement now, and not once a row, which took a quarter of what PostgreSQL does
-- to store a row. What a foreign key does and this does not: it locks the transaction that a new
-- prediction refers to, against somebody who deletes it at the same moment. The stream stores both
-- together, so nobody else can know of the transaction yet.

ALTER TABLE predictions DROP CONSTRAINT predictions_transaction_id_fkey;

CREATE FUNCTION refuse_predictions_alone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM written
        LEFT JOIN transactions ON transactions.id = written.transaction_id
        WHERE transactions.id IS NULL
    ) THEN
        RAISE foreign_key_violation USING
            MESSAGE = 'a prediction needs its transaction',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER predictions_need_transactions
    AFTER INSERT ON predictions REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_predictions_alone();
CREATE TRIGGER predictions_keep_transactions
    AFTER UPDATE ON predictions REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_predictions_alone();

-- Runs with the rights of whoever deletes, who needs DELETE on both tables.
CREATE FUNCTION delete_predictions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM predictions USING deleted WHERE predictions.transaction_id = deleted.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER transactions_take_predictions
    AFTER DELETE ON transactions REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION delete_predictions();

CREATE FUNCTION refuse_other_ids() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM changed JOIN predictions ON predictions.transaction_id = changed.id
        WHERE NOT EXISTS (SELECT FROM transactions WHERE transactions.id = changed.id)
    ) THEN
        RAISE foreign_key_violation USING
            MESSAGE = 'a transaction with a prediction keeps its id',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER transactions_keep_their_ids
    AFTER UPDATE ON transactions REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_other_ids();

CREATE FUNCTION refuse_predictions_left() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM predictions) THEN
        RAISE foreign_key_violation USING
            MESSAGE = 'truncate predictions together with transactions',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER transactions_are_not_truncated_alone
    AFTER TRUNCATE ON transactions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_predictions_left();
