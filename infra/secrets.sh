#!/usr/bin/env bash
# Makes up, once, the secrets that infra/compose.yaml and infra/kubernetes refer to: files in a directory that only you
# can enter. What is there stays.
#
#   infra/secrets.sh                     before docker-compose -f infra/compose.yaml up
#   . infra/secrets/client/env           for programs on this machine: AWS_* and MLFLOW_TRACKING_*
#
#   INFRA_SECRETS   the directory        infra/secrets
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/process.sh"

secrets=$(realpath -m "${INFRA_SECRETS:-$here/secrets}")

make_up() { # NAME [MODE]: standard input, if there is no such file yet. Servers in containers read it as users of their own.
  local text
  text=$(cat)
  [ ! -e "$secrets/$1" ] || return 0
  (umask 077; echo "$text" >"$secrets/$1.part")
  chmod "${2:-0444}" "$secrets/$1.part"
  mv "$secrets/$1.part" "$secrets/$1"
}

value() { sed -n "s/^$2 //p" "$secrets/$1"; }

[ $# = 0 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
(umask 077; mkdir -p "$secrets/client")
chmod 0700 "$secrets"
new_secret | make_up postgres_password
new_secret | make_up mlflow_password
new_secret | make_up grafana_password
make_up s3_keys <<END
access $(new_secret)
secret $(new_secret)
END
make_up mlflow_stores <<END
export MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://distseg:$(cat "$secrets/postgres_password")@postgres:5432/mlflow
export AWS_ENDPOINT_URL=http://object-store:9000 AWS_DEFAULT_REGION=us-east-1
export AWS_ACCESS_KEY_ID=$(value s3_keys access) AWS_SECRET_ACCESS_KEY=$(value s3_keys secret)
END
make_up client/env 0600 <<END
export AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_DEFAULT_REGION=us-east-1
export AWS_ACCESS_KEY_ID=$(value s3_keys access) AWS_SECRET_ACCESS_KEY=$(value s3_keys secret)
export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
export MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=$(cat "$secrets/mlflow_password")
END
echo "secrets in $secrets; once the servers run:  . $secrets/client/env"
