"""The database: session, locks, rows."""
