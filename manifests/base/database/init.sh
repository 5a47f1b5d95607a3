#!/bin/bash
# Runs once, on an empty volume: creates a database and a user for each program.
set -euo pipefail
for name in mlflow worklist; do
  password="${name^^}_PASSWORD"
  # Passwords go through standard input with psql's quoting, not through arguments or the server's log.
  psql --set ON_ERROR_STOP=1 --set name="$name" --set password="${!password}" --username postgres <<'SQL'
SET log_statement = 'none';
CREATE USER :"name" PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
