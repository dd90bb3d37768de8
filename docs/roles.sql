-- The roles of the stream's database, each with the least it needs. To be run once, as a superuser
-- or as the owner of the database, connected to it, before `python -m ops migrate`. Passwords are
-- set apart from this, so that they are in no file and no history: \password fraud_stream in psql.

-- Owns the tables; `python -m ops migrate` runs as this role, and nothing else does.
CREATE ROLE fraud_owner LOGIN;

-- The stream: adds rows, reads them again. It can change or delete none.
CREATE ROLE fraud_stream LOGIN;

-- `python -m ops audit`, dashboards, people.
CREATE ROLE fraud_reader LOGIN;

-- Nobody else may enter, make tables here, or make temporary ones.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO fraud_owner, fraud_stream, fraud_reader',
        current_database()
    );
    -- Rows go into a temporary table first, and from there where they belong.
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO fraud_stream', current_database());
END
$$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO fraud_owner;
GRANT USAGE ON SCHEMA public TO fraud_stream, fraud_reader;

-- Tables that migrations make from now on. Without UPDATE, DELETE and TRUNCATE for anybody.
ALTER DEFAULT PRIVILEGES FOR ROLE fraud_owner IN SCHEMA public
    GRANT SELECT, INSERT ON TABLES TO fraud_stream;
ALTER DEFAULT PRIVILEGES FOR ROLE fraud_owner IN SCHEMA public
    GRANT SELECT ON TABLES TO fraud_reader;
