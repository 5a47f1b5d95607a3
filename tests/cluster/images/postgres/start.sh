#!/bin/bash
# On an empty volume: create the database, then run the scripts of /docker-entrypoint-initdb.d on a server without a port.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # The value holds several options.
  # shellcheck disable=SC2086
  initdb -D "$PGDATA" --username=postgres --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") ${POSTGRES_INITDB_ARGS:-}
  printf 'host all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
  for script in /docker-entrypoint-initdb.d/*.sh; do
    bash "$script"
  done
  pg_ctl -D "$PGDATA" -w -m fast stop
fi
exec postgres -D "$PGDATA" -c 'listen_addresses=*'
