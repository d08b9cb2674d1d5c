#!/usr/bin/env bash
# An MLflow tracking server: metadata in PostgreSQL, artifacts in S3, both proxied, so that clients need only its address
# and a password.
#
#   infra/mlflow_server.sh start|stop|status|wipe   after infra/postgres.sh start and infra/s3_server.sh start
#   infra/mlflow_server.sh run                      start, and stop at SIGTERM: for containers
#   . "$MLFLOW_STATE/env"                           MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD
#
# The password of its user `admin` is made up at the first start; $MLFLOW_STATE/env is readable by its owner alone.
# MLflow's page /signup makes more users.
#
#   MLFLOW_STATE          log, pid, env, users           ${TMPDIR:-/tmp}/distseg-mlflow
#   MLFLOW_AUTH           basic, or off: it then answers everybody who reaches it      basic
#   MLFLOW_PASSWORD_FILE  its first line is the password, which is not to be made up then
#   MLFLOW_HOST           address to bind                127.0.0.1
#   MLFLOW_PORT                                          5000
#   MLFLOW_WORKERS                                       2
#   MLFLOW_BACKEND_STORE_URI, MLFLOW_ARTIFACTS_DESTINATION, AWS_*     from $PG_STATE/env and $S3_STATE/env, s3://mlflow
#   MLFLOW_STORES         file to source instead of those two
#   PYTHON                has mlflow[auth]               .venv/bin/python, else python3
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/process.sh"

tmp=${TMPDIR:-/tmp}
state=$(realpath -m "${MLFLOW_STATE:-$tmp/distseg-mlflow}")
host=${MLFLOW_HOST:-127.0.0.1} port=${MLFLOW_PORT:-5000} workers=${MLFLOW_WORKERS:-2}
auth=${MLFLOW_AUTH:-basic}
mark="mlflow server --host $host --port $port"
running=$(cat "$state/mark" 2>/dev/null || echo "$mark") # as it was started, whatever address is asked for now

find_python() {
  python=${PYTHON:-$here/../.venv/bin/python}
  [ -x "$python" ] || python=$(command -v "${PYTHON:-python3}") || fail "no Python; set PYTHON"
  "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("mlflow") is None)' ||
    fail "$python has no mlflow; set PYTHON to one that has"
  [ "$auth" = off ] || "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("flask_wtf") is None)' ||
    fail "$python has no Flask-WTF, which MLflow needs to ask for passwords; pip install 'mlflow[auth]', or MLFLOW_AUTH=off"
}

load_stores() {
  if [ -n "${MLFLOW_STORES:-}" ]; then
    [ -r "$MLFLOW_STORES" ] || fail "MLFLOW_STORES=$MLFLOW_STORES cannot be read"
    . "$MLFLOW_STORES"
  fi
  if [ -z "${MLFLOW_BACKEND_STORE_URI:-}" ]; then
    [ -r "${PG_STATE:=$tmp/distseg-postgres}/env" ] || fail "no $PG_STATE/env; run infra/postgres.sh start first"
    . "$PG_STATE/env"
  fi
  if [ -z "${AWS_ACCESS_KEY_ID:-}" ]; then
    [ -r "${S3_STATE:=$tmp/distseg-s3}/env" ] || fail "no $S3_STATE/env; run infra/s3_server.sh start first"
    . "$S3_STATE/env"
  fi
  # All by environment, not by arguments: the addresses hold a password, and a command line is public.
  export MLFLOW_BACKEND_STORE_URI MLFLOW_ARTIFACTS_DESTINATION=${MLFLOW_ARTIFACTS_DESTINATION:-s3://mlflow}
}

# The password is given by a file: a command line is public, and all that the server starts has its environment.
make_users() {
  if [ -n "${MLFLOW_PASSWORD_FILE:-}" ]; then
    # MLflow reads it without the blanks around it, so clients must send it so.
    head -n 1 "$MLFLOW_PASSWORD_FILE" | sed 's/^[[:space:]]*//; s/[[:space:]]*$//' | write_private "$state/password"
  fi
  [ -s "$state/password" ] || new_secret | write_private "$state/password"
  [ -s "$state/secret_key" ] || new_secret | write_private "$state/secret_key"
  write_private "$state/auth.ini" <<END
[mlflow]
default_permission = READ
database_uri = sqlite:///${state//%/%%}/users.db
admin_username = admin
admin_password = $(sed 's/%/%%/g' "$state/password")
# A password is hashed again for each request, which takes longer than most answers. A changed one counts a minute later.
auth_cache_ttl_seconds = 60
END
  MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "$state/secret_key")
  export MLFLOW_AUTH_CONFIG_PATH=$state/auth.ini MLFLOW_FLASK_SERVER_SECRET_KEY
}

write_env() {
  {
    echo "export MLFLOW_TRACKING_URI=http://$host:$port"
    [ "$auth" = off ] ||
      printf 'export MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=%q\n' "$(cat "$state/password")"
  } | write_private "$state/env"
}

start() {
  local options=()
  case "$auth" in
    basic) options=(--app-name basic-auth) ;;
    off) ;;
    *) fail "MLFLOW_AUTH=$auth: give basic or off" ;;
  esac
  if is_running "$state/pid" "$running"; then status; return; fi
  find_python
  load_stores
  port_is_free "$host" "$port" || fail "port $port of $host is taken; choose another with MLFLOW_PORT"
  claim_state "$state"
  # The job backend, on by default, is a second service of 2 GB that nothing here uses.
  export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
  # Browsers ask from the server's own address, which MLflow takes for its own only if that is localhost.
  export MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=${MLFLOW_SERVER_CORS_ALLOWED_ORIGINS:-http://$host:$port}
  unset MLFLOW_TRACKING_URI MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD
  unset MLFLOW_AUTH_ADMIN_USERNAME MLFLOW_AUTH_ADMIN_PASSWORD # they would win over the file
  [ "$auth" = off ] || make_users
  (cd "$state" && exec setsid "$python" -m $mark --workers "$workers" "${options[@]}" >>"$state/server.log" 2>&1 </dev/null) &
  echo $! >"$state/pid"
  running=$mark && echo "$mark" >"$state/mark"
  if ! wait_for 300 settled || ! is_running "$state/pid" "$mark"; then
    tail -n 5 "$state/server.log" >&2
    stop
    fail "did not start; see $state/server.log"
  fi
  write_env
  echo "MLflow at http://$host:$port; next:  . $state/env"
}

settled() { ! kill -0 "$(cat "$state/pid")" || healthy; } # one that has died will never be healthy

healthy() {
  is_running "$state/pid" "$mark" && curl -sf -m 2 "http://$host:$port/health"
}

stop() { stop_process "$state/pid" "$running" -; }

status() {
  if is_running "$state/pid" "$running"; then echo "mlflow: running"; else echo "mlflow: stopped"; return 1; fi
}

case "${1:-}" in
  start | stop | status) "$1" ;;
  run) run "$state/server.log" ;;
  wipe) stop; wipe_state "$state" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
