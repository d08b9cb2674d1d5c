#!/usr/bin/env bash
# A real S3 server for development and tests: Ceph's RADOS gateway over one monitor and one file-backed OSD.
#
#   infra/s3_server.sh start|stop|status|wipe        stop keeps the data, wipe removes it
#   infra/s3_server.sh run                           start, and stop at SIGTERM: for containers
#   . "$S3_STATE/env"                                AWS_ENDPOINT_URL and credentials, made up at the first start
#   infra/s3_server.sh roles BUCKET                  users packer, trainer, reviewer who may do in this bucket what the
#   . "$S3_STATE/trainer.env"                        files of infra/policies say; replaces the bucket's policy
#
#   S3_STATE     data, logs, pids, env               ${TMPDIR:-/tmp}/distseg-s3
#   S3_HOST      address the endpoint is bound to    127.0.0.1
#   S3_PORT      its port; the monitor takes the next one, on loopback             9000
#   S3_BUCKETS   made if they are not there          "distseg mlflow"
#   S3_KEYS      file with keys that are not to be made up: two lines, "access KEY" and "secret KEY"
#   S3_GIB       the most it can hold; the file behind it is sparse                40
#
# Needs no root and no ceph-mgr. Packages: infra/install_debian.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/process.sh"

state=$(realpath -m "${S3_STATE:-${TMPDIR:-/tmp}/distseg-s3}")
host=${S3_HOST:-127.0.0.1} port=${S3_PORT:-9000} buckets=${S3_BUCKETS:-distseg mlflow} gib=${S3_GIB:-40}
conf=$state/ceph.conf log=$state/log/setup.log
daemons=(client.rgw.a osd.0 mon.a) # in the order in which they are stopped: the OSD must be able to write until the end

ceph_do() { local program=$1; shift; "$program" --conf "$conf" "$@" >>"$log" 2>&1; }

write_conf() { # one replica, one placement group per pool, quick elections: as small as Ceph gets
  cat >"$conf" <<END
[global]
fsid = $1
mon host = [v2:127.0.0.1:$((port + 1))]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $state/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail crit = 0
paxos propose interval = 0.05
paxos min wait = 0.01
run dir = $state
crash dir = $state/log
log file = $state/log/\$name.log
pid file = $state/\$name.pid
admin socket =
[mon.a]
mon data = $state/mon
[osd.0]
osd data = $state/osd
bluestore block size = $((gib << 30))
osd memory target = 1073741824
[client.rgw.a]
rgw data = $state/rgw
rgw run sync thread = false
rgw thread pool size = 64
END
}

make_store() {
  local fsid osd_id keyring=$state/keyring map=$state/monmap
  fsid=$(cat /proc/sys/kernel/random/uuid) osd_id=$(cat /proc/sys/kernel/random/uuid)
  mkdir -p "$state"/{mon,osd,rgw,log}
  write_conf "$fsid"
  ceph_do ceph-authtool --create-keyring "$keyring" --gen-key -n mon. --cap mon 'allow *'
  ceph_do ceph-authtool "$keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  ceph_do ceph-authtool "$keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
  ceph_do ceph-authtool "$keyring" --gen-key -n client.rgw.a --cap mon 'allow rw' --cap osd 'allow rwx'
  ceph_do monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$((port + 1))]" "$map"
  ceph_do ceph-mon --id a --mkfs --monmap "$map" --keyring "$keyring"
  ceph_do ceph-mon --id a
  ceph_do ceph --connect-timeout 60 osd new "$osd_id" 0
  ceph_do ceph-osd --id 0 --mkfs --osd-uuid "$osd_id" # the uuid that was registered, else the OSD never comes up
  touch "$state/made"
}

make_user() { # NAME FILE OPTION …: its keys; the gateway invents them, so that none stands on a command line
  [ ! -s "$2" ] || return 0
  radosgw-admin --conf "$conf" --name client.rgw.a user create --uid="$1" --display-name="$1" "${@:3}" 2>>"$log" |
    sed -n 's/.*"\(access\|secret\)_key": "\(.*\)".*/\1 \2/p' | sed 's/\\//g' | write_private "$2"
  [ -s "$2" ]
}

give_keys() { # NAME FILE: these instead of the ones that were made up; a file, since a command line is public
  radosgw-admin --conf "$conf" --name client.rgw.a metadata get "user:$1" 2>>"$log" | python3 -c '
import json, sys
user = json.load(sys.stdin)
given = dict(line.split() for line in open(sys.argv[1]))
user["data"]["keys"] = [{"user": sys.argv[2], "access_key": given["access"], "secret_key": given["secret"]}]
json.dump(user, sys.stdout)' "$2" "$1" | radosgw-admin --conf "$conf" --name client.rgw.a metadata put "user:$1" 2>>"$log"
  write_private "$state/keys" <"$2"
}

write_env() { # KEYS ENV
  local access secret
  access=$(sed -n 's/^access //p' "$1") secret=$(sed -n 's/^secret //p' "$1")
  write_private "$2" <<END
export AWS_ENDPOINT_URL=http://$host:$port
export AWS_ACCESS_KEY_ID=$access
export AWS_SECRET_ACCESS_KEY=$secret
export AWS_DEFAULT_REGION=us-east-1
END
}

call() { # PATH OPTION …: credentials through standard input, since a command line is public
  printf 'user = "%s:%s"\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" |
    curl -sS --fail -o /dev/null --config - --aws-sigv4 aws:amz:us-east-1:s3 \
      -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "${@:2}" "$AWS_ENDPOINT_URL/$1" # the gateway insists on the header
}

make_buckets() {
  local bucket
  . "$state/env"
  for bucket in $buckets; do call "$bucket" -X PUT; done
}

roles() { # BUCKET
  local role policies
  is_running "$state/client.rgw.a.pid" "$conf" || fail "the gateway does not run; start it first"
  policies=$(dirname "${BASH_SOURCE[0]}")/policies
  for role in packer trainer reviewer; do
    make_user "$role" "$state/$role.keys" --max-buckets=-1 # may make none
    write_env "$state/$role.keys" "$state/$role.env"
  done
  python3 - "$1" "$policies"/*.json >"$state/policy.json" <<'END'
import json, sys
bucket, *files = sys.argv[1:]
statements = [statement for file in files for statement in json.load(open(file))["Statement"]]
print(json.dumps({"Version": "2012-10-17", "Statement": statements}).replace("BUCKET", bucket))
END
  . "$state/env"
  call "$1?policy=" -X PUT --data-binary "@$state/policy.json" || fail "the policy of bucket $1 is refused; is there such a bucket?"
  echo "roles of bucket $1; next, as one of them:  . $state/trainer.env"
}

start() {
  local program
  if is_running "$state/client.rgw.a.pid" "$conf"; then status; return; fi
  for program in ceph-mon ceph-osd radosgw; do
    command -v $program >/dev/null || fail "$program is not installed; run infra/install_debian.sh"
  done
  port_is_free "$host" "$port" || fail "port $port of $host is taken; choose another with S3_PORT"
  claim_state "$state"
  trap 'stop; echo "s3_server.sh: did not start; see $state/log" >&2' EXIT
  if [ -e "$state/made" ]; then ceph_do ceph-mon --id a; else stop; rm -rf "$state"/{mon,osd}; make_store; fi
  ceph_do ceph-osd --id 0
  make_user distseg "$state/keys"
  if [ -n "${S3_KEYS:-}" ]; then give_keys distseg "$S3_KEYS"; fi
  ceph_do radosgw --name client.rgw.a --rgw-frontends "beast endpoint=$host:$port tcp_nodelay=1"
  wait_for 60 curl -s -o /dev/null "http://$host:$port/"
  write_env "$state/keys" "$state/env"
  make_buckets
  trap - EXIT
  echo "S3 at http://$host:$port with buckets: $buckets; next:  . $state/env"
}

stop() { local name; for name in "${daemons[@]}"; do stop_process "$state/$name.pid" "$conf"; done; }

status() {
  local name up=0
  for name in "${daemons[@]}"; do
    if is_running "$state/$name.pid" "$conf"; then echo "$name: running"; else echo "$name: stopped"; up=1; fi
  done
  return $up
}

case "${1:-}" in
  start | stop | status) "$1" ;;
  run) run "$state/log/client.rgw.a.log" ;;
  roles) [ $# = 2 ] || fail "roles BUCKET: which bucket?"; roles "$2" ;;
  wipe) stop; wipe_state "$state" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
