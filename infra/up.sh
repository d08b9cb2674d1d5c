#!/usr/bin/env bash
# All that a cluster needs beside it, without containers: Ceph's S3, PostgreSQL, MLflow on both, Prometheus.
#
#   infra/up.sh          starts what does not run yet; prints the file to source
#   infra/up.sh status   exit status 0 if all run
#   infra/up.sh down     stops them, in the other order; data and logs stay
#
# Each is a script of this folder, whose settings count here too: S3_*, PG_*, MLFLOW_*, PROMETHEUS_*. All listen on
# 127.0.0.1 unless S3_HOST, MLFLOW_HOST … say otherwise. `wipe` of a script removes its data and its logs.
#
#   INFRA_STATE   holds the states of all; that of a script alone is S3_STATE …    ${TMPDIR:-/tmp}
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

states=$(realpath -m "${INFRA_STATE:-${TMPDIR:-/tmp}}")
export S3_STATE=${S3_STATE:-$states/distseg-s3} PG_STATE=${PG_STATE:-$states/distseg-postgres}
export MLFLOW_STATE=${MLFLOW_STATE:-$states/distseg-mlflow} PROMETHEUS_STATE=${PROMETHEUS_STATE:-$states/distseg-prometheus}
scripts=(s3_server postgres mlflow_server prometheus)
# The servers' own, not those of another store that this shell may use.
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_ENDPOINT_URL MLFLOW_BACKEND_STORE_URI

up() {
  local script
  mkdir -p "$states"
  for script in "${scripts[@]}"; do
    "$here/$script.sh" start || { echo "up.sh: $script did not start; the others go on, their logs are in $states" >&2; exit 1; }
  done
  echo "all run; next:  . $S3_STATE/env; . $MLFLOW_STATE/env"
}

status() {
  local script code=0
  for script in "${scripts[@]}"; do "$here/$script.sh" status || code=1; done
  return $code
}

down() {
  local i
  for ((i = ${#scripts[@]} - 1; i >= 0; i--)); do "$here/${scripts[i]}.sh" stop; done
}

case "${1:-up}" in
  up | status | down) "${1:-up}" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
