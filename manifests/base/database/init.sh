#!/bin/bash
# Runs once, on an empty volume: a database and a user of its own for each program.
set -euo pipefail
for name in mlflow worklist; do
  password="${name^^}_PASSWORD"
  # From standard input and with psql's own quoting: not in arguments, not in the server's log.
  psql --set ON_ERROR_STOP=1 --set name="$name" --set password="${!password}" --username postgres <<'SQL'
SET log_statement = 'none';
CREATE USER :"name" PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
