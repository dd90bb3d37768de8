#!/bin/bash
# Run once by the image of PostgreSQL, in a new database. Passwords come from files, by way of
# standard input, so that they are in no list of processes.
set -euo pipefail

psql=(psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB")

"${psql[@]}" --file "${ROLES_SQL:-/roles.sql}"
for role in owner stream reader; do
    # Read by psql itself; :'password' is quoted for SQL.
    "${psql[@]}" <<SQL
\set password \`cat "${SECRETS:-/run/secrets}/$role-password"\`
ALTER ROLE fraud_$role PASSWORD :'password';
SQL
done
