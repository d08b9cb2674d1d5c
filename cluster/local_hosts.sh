#!/usr/bin/env bash
# A Ray cluster of several hosts on one Linux machine: each host is a network namespace with its own address, its own
# Ray processes and directory, on one bridge. Links can be cut and hosts killed, as nothing inside one process tree
# can. Needs root, iproute2, procps; nothing is changed outside the namespaces but the bridge, without HOSTS_INTERNET.
#
#   cluster/local_hosts.sh up N            head = host 0 (no CPUs for work) and workers 1 … N; prints the file to source
#   cluster/local_hosts.sh exec I CMD …    runs CMD on host I
#   cluster/local_hosts.sh start I         Ray on host I, after stop, kill or a cut that lasted
#   cluster/local_hosts.sh stop I          SIGTERM to Ray on host I;  kill I: SIGKILL, all at once
#   cluster/local_hosts.sh cut I           unplugs host I;  heal I: plugs it in again
#   cluster/local_hosts.sh status          the hosts, and whether Ray runs there
#   cluster/local_hosts.sh down            ends whatever runs in the namespaces, and removes them
#
# With HOSTS_SSH=1 the hosts are machines for cluster/ssh.yaml: each runs sshd instead of Ray, which lets root in by
# $HOSTS_STATE/key alone, and has its own processes and home directory. Then kill is a power cut.
#
# With HOSTS_INTERNET=1 the hosts reach what this machine reaches, as pip on them must: until `down` the machine forwards
# packets, and iptables puts its address on theirs.
#
#   HOSTS_STATE   directories, logs, token, env; keep it short, Ray puts sockets there    ${TMPDIR:-/tmp}/distseg-hosts
#   HOSTS_NET     the /24 of the cluster; this machine is .1, host I is .10 + I           10.77.0
#   HOSTS_NAME    begins the names of namespaces and bridge, at most 8 letters            distseg
#   HOSTS_CPUS, HOSTS_HEAD_CPUS            CPUs that Ray counts on a worker, on the head   1, 0
#   HOSTS_STORE_BYTES                      shared memory of Ray's object store, per host   200000000
#   RAY           the ray program                                                          .venv/bin/ray, else ray
#   RAY_*         pass through; RAY_AUTH_MODE=disabled turns token authentication off
set -euo pipefail

state=$(realpath -m "${HOSTS_STATE:-${TMPDIR:-/tmp}/distseg-hosts}")
net=${HOSTS_NET:-10.77.0} name=${HOSTS_NAME:-distseg} bridge=${HOSTS_NAME:-distseg}br0
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { echo "local_hosts.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2; }

space() { echo "$name$1"; }
link() { echo "$name.$1"; } # the bridge's end of the cable
address() { echo "$net.$((10 + $1))"; }
spaces() { ip netns list | awk '{print $1}' | grep -E "^$name[0-9]+$" | sort -V || true; }

check_host() {
  [[ "${1:-}" =~ ^[0-9]+$ ]] || usage
  ip netns list | grep -qE "^$(space "$1")( |$)" || fail "there is no host $1; see 'status', or bring hosts up"
}

find_ray() {
  ray=${RAY:-$repository/.venv/bin/ray}
  [ -x "$ray" ] || ray=$(command -v "${RAY:-ray}") || fail "no ray program; set RAY"
}

on_host() { # I CMD …: collectives must use the cable, not the loopback that the host name may resolve to
  local i=$1
  shift
  # A dead host is found in seconds; Ray's own settings take a minute. Its log at level info has what --env gives a job.
  ip netns exec "$(space "$i")" env RAY_TMPDIR="$state/h$i" \
    GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0 TP_SOCKET_IFNAME=eth0 \
    RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}" RAY_AUTH_TOKEN_PATH="$state/token" \
    RAY_health_check_period_ms="${RAY_health_check_period_ms:-1000}" \
    RAY_health_check_timeout_ms="${RAY_health_check_timeout_ms:-1000}" \
    RAY_health_check_initial_delay_ms="${RAY_health_check_initial_delay_ms:-1000}" \
    RAY_health_check_failure_threshold="${RAY_health_check_failure_threshold:-3}" \
    RAY_LOGGER_LEVEL="${RAY_LOGGER_LEVEL:-warning}" RAY_USAGE_STATS_ENABLED=0 "$@"
}

plug_in() {
  local i=$1
  ip netns add "$(space "$i")"
  ip link add "$(link "$i")" type veth peer name eth0 netns "$(space "$i")"
  ip link set "$(link "$i")" master "$bridge" up
  ip -n "$(space "$i")" addr add "$(address "$i")/24" dev eth0
  ip -n "$(space "$i")" link set lo up
  ip -n "$(space "$i")" link set eth0 up
  ip -n "$(space "$i")" route add default via "$net.1"
  mkdir -p "$state/h$i"
}

let_out() { # to where this machine may go
  iptables --version >/dev/null 2>&1 || fail "HOSTS_INTERNET needs iptables; run infra/install_debian.sh"
  cat /proc/sys/net/ipv4/ip_forward >"$state/ip_forward"
  echo 1 >/proc/sys/net/ipv4/ip_forward
  change_rules -A
}

keep_in() {
  [ -e "$state/ip_forward" ] || return 0
  change_rules -D 2>/dev/null || true
  cat "$state/ip_forward" >/proc/sys/net/ipv4/ip_forward
  rm "$state/ip_forward"
}

change_rules() { # -A or -D
  iptables -w -t nat "$1" POSTROUTING -s "$net.0/24" ! -o "$bridge" -j MASQUERADE
  iptables -w "$1" FORWARD -i "$bridge" -j ACCEPT
  iptables -w "$1" FORWARD -o "$bridge" -j ACCEPT
}

start() {
  if [ -e "$state/key" ]; then start_sshd "$1"; else start_ray "$1"; fi
}

start_sshd() {
  local i=$1 home=$state/h$1/home
  [ -z "$(ip netns pids "$(space "$i")")" ] || fail "host $i runs already; stop it first"
  mkdir -p "$home" "$state/h$i/tmp" "$state/own" /run/sshd
  if [ -e /etc/skel ]; then cp -rn /etc/skel/. "$home"; fi # as adduser does: Ray sources ~/.bashrc
  cat >"$state/h$i/sshd_config" <<END
ListenAddress $(address "$i")
HostKey $state/key
AuthorizedKeysFile $state/key.pub
StrictModes no
UsePAM no
PidFile none
SetEnv RAY_TMPDIR=$state/own TMPDIR=$state/own/tmp
END
  awk -F: -v OFS=: -v home="$home" '$1 == "root" { $6 = home } 1' /etc/passwd >"$state/h$i/passwd"
  # Its own processes, since Ray's commands signal all of Ray that they see. And its own disk below a path that all hosts
  # have: Ray's workers take over the head's directory, and what three of them unpack into one is broken now and then.
  # shellcheck disable=SC2016
  ip netns exec "$(space "$i")" setsid unshare --mount --pid --fork --kill-child --mount-proc \
    bash -c 'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1" "$2" && PATH=$PATH:/usr/sbin && exec "$(command -v sshd)" -D -e -f "$1/sshd_config"' \
    sshd "$state/h$i" "$state/own" >"$state/start$i.log" 2>&1 </dev/null &
  for _ in $(seq 100); do ! (exec 3<>"/dev/tcp/$(address "$i")/22") 2>/dev/null || return 0; sleep 0.1; done
  fail "sshd did not start on host $i: see $state/start$i.log"
}

start_ray() {
  local i=$1 role=(--address="$(address 0):6379" --num-cpus="${HOSTS_CPUS:-1}")
  if [ "$i" = 0 ]; then role=(--head --port=6379 --dashboard-host=0.0.0.0 --num-cpus="${HOSTS_HEAD_CPUS:-0}"); fi
  find_ray
  if ray_runs "$i"; then fail "Ray already runs on host $i; stop it first"; fi
  signal_ray KILL "$i" # what a raylet that was cut off left behind
  mkdir -p "$state/h$i/tmp" # as of a machine of its own: what one host leaves there no other one finds
  : >"$state/start$i.log"
  local attempt
  for attempt in 1 2 3; do # Ray gives its own processes 30 s, which is too little on a machine that is busy
    call_ray_start "$i" "${role[@]}" >>"$state/start$i.log" 2>&1 && return
    signal_ray KILL "$i"
    echo "local_hosts.sh: Ray did not start on host $i, attempt $attempt of 3" | tee -a "$state/start$i.log" >&2
  done
  tail -n 20 "$state/start$i.log" >&2
  fail "Ray did not start on host $i: see $state/start$i.log and $state/h$i/session_latest/logs"
}

call_ray_start() { # I ROLE …: its agents have ports that are known, since a raylet waits 15 s for them to choose some
  local i=$1
  shift
  # The head's Python is the `python` of submitted jobs.
  PATH=$(dirname "$ray"):$PATH TMPDIR=$state/h$i/tmp on_host "$i" "$ray" start "$@" --node-ip-address="$(address "$i")" \
    --temp-dir="$state/h$i" --object-store-memory="${HOSTS_STORE_BYTES:-200000000}" --disable-usage-stats \
    --runtime-env-agent-port=6381 --dashboard-agent-grpc-port=6382 --metrics-export-port=6383 \
    --dashboard-agent-listen-port=52365
}

# Ray's processes on host I and all they have started: jobs and workers too, but not other servers of that host.
ray_processes() {
  local pids
  pids=$(ip netns pids "$(space "$1")" | paste -sd,)
  [ -n "$pids" ] || return 0
  ps -ww -o pid=,ppid=,args= -p "$pids" | awk -v mark="$state/h$1/" '
    { parent[$1] = $2; if (index($0, mark)) ours[$1] = 1 }
    END {
      do { grown = 0; for (p in parent) if (!(p in ours) && parent[p] in ours) { ours[p] = 1; grown = 1 } } while (grown)
      for (p in ours) print p
    }'
}

ray_runs() { ray_processes "$1" | xargs -r ps -o comm= -p 2>/dev/null | grep -qx raylet; }

signal_ray() { # SIGNAL I
  local pids
  pids=$(ray_processes "$2")
  # shellcheck disable=SC2086
  if [ -n "$pids" ]; then kill "-$1" $pids 2>/dev/null || true; fi
}

stop() {
  local i
  signal_ray TERM "$1"
  for i in $(seq 100); do [ -n "$(ray_processes "$1")" ] || return 0; sleep 0.1; done
  signal_ray KILL "$1"
}

up() {
  local i
  [ "$(id -u)" = 0 ] || fail "network namespaces need root"
  [ -z "$(spaces)" ] || fail "hosts named $name… are up already; run 'down' first, or set HOSTS_NAME and HOSTS_NET"
  [ -z "$(ip -o address show to "$net.0/24")" ] || fail "the network $net.0/24 is in use here; set HOSTS_NET to another"
  [ ! -e "$state" ] || [ -e "$state/token" ] || fail "$state was not made by this script; set HOSTS_STATE"
  trap 'unplug; echo "local_hosts.sh: not up; the logs are kept in $state until the next up or down" >&2' EXIT
  if [ -e "$state/token" ]; then rm -rf -- "$state"; fi # of an up that failed
  (umask 077; mkdir -p "$state"; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$state/token")
  ip link add "$bridge" type bridge
  ip addr add "$net.1/24" dev "$bridge"
  ip link set "$bridge" up
  if [ -n "${HOSTS_INTERNET:-}" ]; then let_out; fi
  for i in $(seq 0 "$1"); do plug_in "$i"; done
  if [ -n "${HOSTS_SSH:-}" ]; then ssh-keygen -q -t ed25519 -N '' -f "$state/key"; fi
  start 0
  local starting=()
  for i in $(seq 1 "$1"); do start "$i" & starting+=($!); done
  for i in "${starting[@]}"; do wait "$i"; done
  trap - EXIT
  if [ -n "${HOSTS_SSH:-}" ]; then
    echo "head $(address 0), workers $(address 1) …; ssh -i $state/key root@$(address 0)"
    return
  fi
  cat >"$state/env" <<END
export RAY_API_SERVER_ADDRESS=http://$(address 0):8265
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} RAY_AUTH_TOKEN_PATH=$state/token
END
  echo "head $(address 0), workers $(address 1) …; jobs at http://$(address 0):8265; next:  . $state/env"
}

unplug() { # ends what runs in the namespaces and removes them, not the directories
  local s i
  keep_in
  for s in $(spaces); do ip netns pids "$s" | xargs -r kill -TERM 2>/dev/null || true; done
  for i in $(seq 50); do [ -n "$(for s in $(spaces); do ip netns pids "$s"; done)" ] || break; sleep 0.1; done
  for s in $(spaces); do
    ip netns pids "$s" | xargs -r kill -KILL 2>/dev/null || true
    ip netns del "$s"
    ip link del "$(link "${s#"$name"}")" 2>/dev/null || true
  done
  ip link del "$bridge" 2>/dev/null || true
}

remove() {
  unplug
  if [ -e "$state/token" ]; then rm -rf -- "$state"; fi
}

status() {
  local s i ray_state
  [ -n "$(spaces)" ] || { echo "no hosts"; return 1; }
  for s in $(spaces); do
    i=${s#"$name"}
    ray_runs "$i" && ray_state=running || ray_state=stopped
    echo "host $i $(address "$i"): Ray $ray_state, link $(cat "/sys/class/net/$(link "$i")/operstate")"
  done
}

command=${1:-}
case "$command" in
  up) [[ "${2:-}" =~ ^[0-9]+$ ]] || usage; up "$2" ;;
  exec) check_host "${2:-}"; [ $# -ge 3 ] || usage; on_host "${@:2}" ;;
  start) check_host "${2:-}"; start "$2" ;;
  stop) check_host "${2:-}"; stop "$2" ;;
  kill) check_host "${2:-}"; signal_ray KILL "$2" ;;
  cut) check_host "${2:-}"; ip link set "$(link "$2")" down ;;
  heal) check_host "${2:-}"; ip link set "$(link "$2")" up ;;
  status) status ;;
  down) remove ;;
  *) usage ;;
esac
