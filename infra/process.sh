# Sourced by the scripts of this folder: processes by pid file, private files, waiting.
# shellcheck shell=bash

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

# is_running PID_FILE MARK: does the process live, and is it ours (its command line contains MARK)? A pid may be reused.
is_running() {
  local pid
  pid=$(head -n 1 "$1" 2>/dev/null) && [ -n "$pid" ] && { tr "\0" " " <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "$2"
}

# stop_process PID_FILE MARK [-]: SIGTERM, and SIGKILL after 15 s; with "-" to its whole process group.
stop_process() {
  local pid i
  if is_running "$1" "$2"; then
    pid=$(head -n 1 "$1")
    kill -TERM -- "${3:-}$pid" 2>/dev/null || true
    for i in $(seq 150); do is_running "$1" "$2" || break; sleep 0.1; done
    if is_running "$1" "$2"; then kill -KILL -- "${3:-}$pid" 2>/dev/null || true; fi
  fi
  rm -f "$1"
}

# wait_for SECONDS COMMAND…: until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt "$end" ] || return 1; sleep 0.1; done
}

port_is_free() { ! (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# write_private FILE: standard input into a file that only its owner can read.
write_private() { (umask 077; rm -f "$1"; cat >"$1"); }

new_secret() { od -An -N20 -tx1 /dev/urandom | tr -d ' \n'; }

# run LOG: for containers: what the script starts, its log shown, until SIGTERM; fails if it ends by itself.
run() {
  trap 'exit 0' TERM INT
  start
  tail -n +1 -F "$1" 2>/dev/null &
  trap "stop; kill $! 2>/dev/null" EXIT
  while status >/dev/null; do sleep 2 & wait $!; done
  fail "it has ended; see $1"
}

# claim_state DIRECTORY: makes it, private and marked as ours. wipe_state removes only what is so marked.
claim_state() {
  [ -e "$1/.distseg-state" ] && return
  [ ! -e "$1" ] || [ -z "$(ls -A "$1")" ] || fail "$1 is not empty and was not made by this script; choose another"
  (umask 077; mkdir -p "$1"; : >"$1/.distseg-state")
}
wipe_state() {
  [ -e "$1" ] || return 0
  [ -e "$1/.distseg-state" ] || fail "$1 was not made by this script; left alone"
  rm -rf -- "$1"
}
