#!/usr/bin/env bash
# A Ray cluster of machines that are reached by ssh: what cluster/ssh.yaml needs beside Ray's cluster launcher.
#
# On your machine, in a clone:
#   cluster/ssh.sh prepare           puts what the machines get into build/ssh; prints the file to source
#   cluster/ssh.sh down [ssh.yaml]   ends Ray on all machines; what is installed there stays
#
# On a machine, where ssh.yaml calls it:
#   ssh.sh install                   the wheel and the locked versions, into ~/distseg/venv
#   ssh.sh ray start OPTION …        Ray, with these options, under supervision; nothing if the same runs already
#   ssh.sh stop                      ends it;  stop-all: on the head, on all machines
#   ssh.sh run                       Ray in the foreground; for the supervision
#
# Ray that has ended, because it was killed, cut off or had lost its head, is started again after 5 s, for as long as it
# takes: by systemd where the user has one and may linger (then after a reboot too), else by a loop of this script.
#
#   PYTHON         prepare, down: has pip and Ray, .venv/bin/python;  install: makes the venv, python3
#   SSH_FILES      prepare: build/ssh
#   DISTSEG_EXTRAS of the package that install chooses     fast
set -euo pipefail

self=$(realpath "${BASH_SOURCE[0]}")
home=$HOME/distseg
files=$home/files python=$home/venv/bin/python node=$home/node.env
unit=distseg-ray.service
head_port=6379 raylet_port=6380 pause_s=5

fail() { echo "ssh.sh: $*" >&2; exit 1; }
# Without following links, which would leave a venv; `realpath -s` is not everywhere.
absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$self" >&2; exit 2; }

# ---- on your machine

prepare() {
  cd "$(dirname "$self")/.."
  local out=${SSH_FILES:-$PWD/build/ssh} head python
  python=$(absolute "${PYTHON:-.venv/bin/python}")
  [ -x "$python" ] || fail "no $python; run make install, or set PYTHON"
  mkdir -p "$out"
  rm -rf "$out"/*.whl build/lib build/bdist.* # files that the project has no more would come into the wheel
  "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$out" .
  cp constraints.txt cluster/ssh.sh "cluster/$unit" "$out"
  [ -s "$out/token" ] || (umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$out/token")
  head=$(sed -n 's/^ *head_ip: *\([^ #]*\).*/\1/p' cluster/ssh.yaml)
  cat >"$out/env" <<END
export RAY_API_SERVER_ADDRESS=http://$head:8265
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$out/token
END
  echo "ready for: ray up -y cluster/ssh.yaml; then  . $out/env"
}

down() { # Ray's own command ends nothing on the workers
  local python
  python=$(absolute "${PYTHON:-$(dirname "$self")/../.venv/bin/python}")
  # shellcheck disable=SC2088
  "$python" -m ray.scripts.scripts exec "$1" '~/distseg/files/ssh.sh stop-all'
  echo "ssh.sh: now Ray's launcher forgets the machines; that it finds no \`ray\` on them does not matter"
  "$python" -m ray.scripts.scripts down -y "$1"
}

# ---- on a machine

digest() { cat "$files"/* | sha256sum | cut -d' ' -f1; }

install() {
  local wheel now
  now=$(digest)
  [ "$(cat "$home/installed" 2>/dev/null)" != "$now" ] || return 0
  "${PYTHON:-python3}" -c 'import sys; sys.exit("distseg needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
  "${PYTHON:-python3}" -m venv "$home/venv" || fail "no venv; on Debian install python3-venv"
  wheel=$(ls "$files"/*.whl)
  echo "installs distseg and what it needs, 7 GB, into $home/venv on $(hostname); this takes minutes, and pip is quiet"
  "$python" -m pip install --quiet --disable-pip-version-check --constraint "$files/constraints.txt" \
    "$wheel[${DISTSEG_EXTRAS:-fast}]"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheel" # of the same version
  echo "$now" >"$home/installed"
}

start() { # OPTION of ray start …
  local wanted
  # What this start was given, for all later ones: Ray's launcher tells each machine its name by such variables.
  wanted=$(
    printf '# files: %s\noptions=(' "$(digest)"
    printf '%q ' "$@"
    echo ')'
    for name in $(compgen -e RAY_ | sort); do printf 'export %s=%q\n' "$name" "${!name}"; done
  )
  if [ "$wanted" != "$(cat "$node" 2>/dev/null)" ] || ! is_supervised; then
    stop
    echo "$wanted" >"$node"
    supervise
  fi
  local i
  for i in $(seq 120); do
    ! is_open || return 0
    sleep 1
  done
  tail -n 20 "$home/ray.log" >&2
  fail "Ray does not start; see $home/ray.log on $(hostname), or journalctl --user -u $unit. It goes on trying"
}

supervise() {
  if can_use_systemd; then
    mkdir -p ~/.config/systemd/user
    cp "$files/$unit" ~/.config/systemd/user
    systemctl --user daemon-reload
    systemctl --user enable --now "$unit"
  else
    setsid "$self" loop >/dev/null 2>&1 </dev/null &
    echo $! >"$home/loop.pid"
  fi
}

can_use_systemd() { # without lingering, a user's units end with his last session
  systemctl --user show-environment >/dev/null 2>&1 && loginctl enable-linger >/dev/null 2>&1
}

is_open() { (exec 3<>"/dev/tcp/$(own_address)/$raylet_port") 2>/dev/null; }

loop_lives() { # a pid may be reused
  local pid
  pid=$(cat "$home/loop.pid" 2>/dev/null) && { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "$self loop"
}

is_supervised() { loop_lives || systemctl --user is-active --quiet "$unit" 2>/dev/null; }

loop() {
  local session=''
  trap 'end_session "$session"; exit 0' TERM
  while true; do
    if [ -e "$home/ray.log" ]; then mv "$home/ray.log" "$home/ray.log.1"; fi
    setsid "$self" run >"$home/ray.log" 2>&1 &
    session=$!
    wait "$session" || true
    end_session "$session" # what it left behind would keep the ports
    sleep "$pause_s" &
    wait $! || true
  done
}

end_session() { # SIGTERM to its leader, `ray start`, which ends the rest; SIGKILL to whatever is left after 15 s
  local i
  [ -n "$1" ] || return 0
  kill -TERM "$1" 2>/dev/null || true
  for i in $(seq 150); do [ -e "/proc/$1/exe" ] || break; sleep 0.1; done # a process that has ended has none
  pkill -KILL --session "$1" || true
}

head_address() { # as ssh.yaml has it, which may be a name; Ray's launcher tells it to the workers alone
  local name=${RAY_HEAD_IP:-}
  [ -n "$name" ] ||
    name=$("$python" -c 'import pathlib, yaml; print(yaml.safe_load((pathlib.Path.home() / "ray_bootstrap_config.yaml").read_text())["provider"]["head_ip"])')
  getent ahostsv4 "$name" | awk 'NR == 1 { print $1 }'
}

own_address() { # the one by which the head is reached
  ip -o route get "$(head_address)" | sed -n 's/.* src \([^ ]*\).*/\1/p'
}

run() {
  . "$node"
  local address device role=()
  address=$(own_address)
  device=$(ip -o -4 address show to "$address/32" | awk 'NR == 1 { print $2 }')
  # Collectives take the interface that the host's name resolves to, often the loopback; so they are told.
  export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$device} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$device}
  export TP_SOCKET_IFNAME=${TP_SOCKET_IFNAME:-$device}
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$files/token RAY_USAGE_STATS_ENABLED=0
  export RAY_LOGGER_LEVEL=warning # at info, Ray's log has the variables that --env gives a job
  # A dead machine is found in seconds; Ray's own settings take a minute.
  export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=1000 RAY_health_check_initial_delay_ms=1000
  export RAY_health_check_failure_threshold=5
  export RAY_enable_autoscaler_v2=0 # the new one does not count with a head that is a machine like the workers
  export PATH=$home/venv/bin:$PATH # the head's Python is the `python` of submitted jobs
  ulimit -n 65536 2>/dev/null || true
  if [[ " ${options[*]} " = *" --head "* ]]; then
    role=(--port=$head_port --dashboard-host=0.0.0.0 --dashboard-port=8265 --ray-client-server-port=10001)
  fi
  # Fixed ports, since an agent that has to tell its port gets 15 s, too few on a busy machine.
  exec "$python" -m ray.scripts.scripts start "${role[@]}" --node-ip-address="$address" --block \
    --node-manager-port=$raylet_port --object-manager-port=6381 --runtime-env-agent-port=6382 \
    --dashboard-agent-grpc-port=6383 --metrics-export-port=6384 --dashboard-agent-listen-port=52365 \
    --min-worker-port=11000 --max-worker-port=11999 --disable-usage-stats "${options[@]}"
}

stop() {
  local pid i
  if systemctl --user is-active --quiet "$unit" 2>/dev/null; then systemctl --user disable --now "$unit"; fi
  if loop_lives; then
    pid=$(cat "$home/loop.pid")
    kill -TERM "$pid"
    for i in $(seq 200); do loop_lives || break; sleep 0.1; done
    if loop_lives; then fail "the loop, process $pid, does not end"; fi
  fi
  rm -f "$home/loop.pid"
}

stop_all() { # the head has the key and the addresses from Ray's launcher
  local user worker
  while read -r user worker; do
    # shellcheck disable=SC2088
    ssh -n -i "$HOME/ray_bootstrap_key.pem" -o ConnectTimeout=10 -o StrictHostKeyChecking=no -o LogLevel=ERROR \
      -o UserKnownHostsFile=/dev/null "$user@$worker" '~/distseg/files/ssh.sh stop' ||
      echo "ssh.sh: Ray may be running on $worker" >&2 &
  done < <("$python" - <<'END'
import pathlib, yaml
config = yaml.safe_load((pathlib.Path.home() / "ray_bootstrap_config.yaml").read_text())
for worker in config["provider"]["worker_ips"]:
    print(config["auth"]["ssh_user"], worker)
END
  )
  stop
  wait
}

case "${1:-}" in
  prepare | install | run | loop | stop) "$1" ;;
  ray) [ "${2:-}" = start ] && [ $# -ge 3 ] || usage; start "${@:3}" ;;
  stop-all) stop_all ;;
  down) down "${2:-$(dirname "$self")/ssh.yaml}" ;;
  *) usage ;;
esac
