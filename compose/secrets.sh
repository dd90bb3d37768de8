#!/bin/sh
# Makes the passwords of compose.yaml, in files, those that are missing: `make secrets`.
# The folder is for its owner alone. The files are not: they keep their mode inside the containers,
# whose users are others.
set -eu
cd "$(dirname "$0")/.."
mkdir -p secrets
chmod 700 secrets
umask 022

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in postgres-password owner-password stream-password reader-password grafana-password; do
    [ -s "secrets/$name" ] || random > "secrets/$name"
done

url() { printf 'postgresql://fraud_%s:%s@postgres:5432/fraud' "$1" "$(cat "secrets/$1-password")"; }
url stream > secrets/database-url
url owner > secrets/migration-database-url
