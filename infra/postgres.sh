#!/usr/bin/env bash
# PostgreSQL for the MLflow server, for development and tests.
#
#   infra/postgres.sh start|stop|status|wipe        stop keeps the data, wipe removes it
#   infra/postgres.sh backup FILE                   the database as it is at this moment; MLflow may go on
#   infra/postgres.sh restore FILE                  after MLflow was stopped; what was there is kept under another name
#   . "$PG_STATE/env"                               PGHOST … PGPASSWORD, and MLFLOW_BACKEND_STORE_URI
#
#   PG_STATE     data, log, env         ${TMPDIR:-/tmp}/distseg-postgres
#   PG_HOST      address to bind        127.0.0.1
#   PG_PORT                             55432
#   PG_DATABASE  made at first start    mlflow
#
# The password is made up at the first start and asked of every client (SCRAM). Run by root, the server runs as
# the user postgres. Package: infra/install_debian.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/process.sh"

state=$(realpath -m "${PG_STATE:-${TMPDIR:-/tmp}/distseg-postgres}")
host=${PG_HOST:-127.0.0.1} port=${PG_PORT:-55432} database=${PG_DATABASE:-mlflow}
data=$state/data

find_programs() { # Debian keeps them out of PATH, one directory per version
  bin=$({ find /usr/lib/postgresql /usr/local/pgsql -path '*/bin/initdb' 2>/dev/null || true; } | sort -V | tail -n 1)
  bin=${bin:-$(command -v initdb || true)}
  [ -n "$bin" ] || fail "PostgreSQL is not installed; run infra/install_debian.sh"
  bin=$(dirname "$bin")
}

as_owner() { # initdb and postgres refuse to run as root
  if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

make_store() {
  claim_state "$state"
  rm -rf "$data" "$state/env"
  if [ "$(id -u)" = 0 ]; then chown postgres "$state"; fi
  as_owner test -x "$state" || fail "the user postgres cannot enter $state; choose another PG_STATE"
  new_secret | write_private "$state/password"
  if [ "$(id -u)" = 0 ]; then chown postgres "$state/password"; fi
  as_owner "$bin/initdb" -D "$data" -U distseg --auth=scram-sha-256 --pwfile="$state/password" --encoding=UTF8 \
    --locale=C >"$state/initdb.log" 2>&1 || { cat "$state/initdb.log" >&2; fail "initdb failed"; }
}

write_env() {
  local password
  password=$(cat "$state/password")
  write_private "$state/env" <<END
export PGHOST=$host PGPORT=$port PGUSER=distseg PGPASSWORD=$password PGDATABASE=$database
export MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://distseg:$password@$host:$port/$database
END
}

start() {
  find_programs
  if is_running "$data/postmaster.pid" "$data"; then status; return; fi
  port_is_free "$host" "$port" || fail "port $port of $host is taken; choose another with PG_PORT"
  [ -s "$data/PG_VERSION" ] || make_store
  write_env
  as_owner "$bin/pg_ctl" -D "$data" -l "$state/postgres.log" -w -t 60 \
    -o "-p $port -c listen_addresses=$host -c unix_socket_directories=''" start >/dev/null ||
    { tail -n 5 "$state/postgres.log" >&2; fail "did not start; see $state/postgres.log"; }
  (
    . "$state/env"
    export PATH=$bin:$PATH
    [ -n "$(psql -d postgres -Atc "select 1 from pg_database where datname = '$database'")" ] || createdb "$database"
  )
  echo "PostgreSQL at $host:$port, database $database; next:  . $state/env"
}

stop() {
  find_programs
  if is_running "$data/postmaster.pid" "$data"; then as_owner "$bin/pg_ctl" -D "$data" -m fast -w stop >/dev/null; fi
}

status() {
  if is_running "$data/postmaster.pid" "$data"; then echo "postgres: running"; else echo "postgres: stopped"; return 1; fi
}

client() { # PROGRAM …, as the database's owner
  find_programs
  is_running "$data/postmaster.pid" "$data" || fail "the server does not run; start it first"
  . "$state/env"
  PATH=$bin:$PATH "$@"
}

backup() { # FILE is complete or not there
  local part=$1.part
  (umask 077; client pg_dump --format=custom --file="$part" "$database") || { rm -f "$part"; fail "no backup was made"; }
  mv "$part" "$1"
  echo "backup of database $database in $1 ($(stat -c %s "$1") bytes)"
}

restore() { # into a new database, which takes the place of the old one when it is complete
  local new=${database}_new old
  old=${database}_until_$(date +%Y%m%d_%H%M%S)
  [ -r "$1" ] || fail "there is no file $1 to restore from"
  client dropdb --if-exists "$new" 2>/dev/null
  client createdb "$new"
  client pg_restore --exit-on-error --no-owner --dbname="$new" "$1" ||
    { client dropdb "$new"; fail "$1 cannot be restored; the database is as it was"; }
  client psql -d postgres -q -v ON_ERROR_STOP=1 --single-transaction \
    -c "alter database \"$database\" rename to \"$old\"" -c "alter database \"$new\" rename to \"$database\"" ||
    { client dropdb "$new"; fail "somebody uses database $database; stop MLflow first. The database is as it was"; }
  echo "database $database is that of $1; the one before is kept as $old"
}

case "${1:-}" in
  backup | restore) [ $# = 2 ] || fail "$1 FILE: which file?"; "$1" "$(realpath -m "$2")" ;;
  start | stop | status) "$1" ;;
  wipe) stop; wipe_state "$state" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
