#!/usr/bin/env bash
# Prometheus, which keeps the measurements of Ray and of trainings, for development and tests.
#
#   infra/prometheus.sh start|stop|status|wipe      stop keeps the data, wipe removes it
#
#   PROMETHEUS_STATE     data, log                  ${TMPDIR:-/tmp}/distseg-prometheus
#   PROMETHEUS_HOST      address to bind            127.0.0.1
#   PROMETHEUS_PORT                                 9090
#   PROMETHEUS_CONFIG    what it collects           infra/prometheus.yml
#
# Package: infra/install_debian.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/process.sh"

state=$(realpath -m "${PROMETHEUS_STATE:-${TMPDIR:-/tmp}/distseg-prometheus}")
host=${PROMETHEUS_HOST:-127.0.0.1} port=${PROMETHEUS_PORT:-9090} config=${PROMETHEUS_CONFIG:-$here/prometheus.yml}
mark="--storage.tsdb.path=$state/data"

start() {
  if is_running "$state/pid" "$mark"; then status; return; fi
  command -v prometheus >/dev/null || fail "Prometheus is not installed; run infra/install_debian.sh"
  port_is_free "$host" "$port" || fail "port $port of $host is taken; choose another with PROMETHEUS_PORT"
  claim_state "$state"
  setsid prometheus --config.file="$config" --web.listen-address="$host:$port" "$mark" >>"$state/server.log" 2>&1 </dev/null &
  echo $! >"$state/pid"
  if ! wait_for 60 settled || ! is_running "$state/pid" "$mark"; then
    tail -n 5 "$state/server.log" >&2
    stop
    fail "did not start; see $state/server.log"
  fi
  echo "Prometheus at http://$host:$port"
}

settled() { ! kill -0 "$(cat "$state/pid")" || healthy; } # one that has died will never be healthy

healthy() {
  is_running "$state/pid" "$mark" && curl -sf -m 2 "http://$host:$port/-/ready"
}

stop() { stop_process "$state/pid" "$mark"; }

status() {
  if is_running "$state/pid" "$mark"; then echo "prometheus: running"; else echo "prometheus: stopped"; return 1; fi
}

case "${1:-}" in
  start | stop | status) "$1" ;;
  wipe) stop; wipe_state "$state" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
