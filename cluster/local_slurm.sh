#!/usr/bin/env bash
# A Slurm cluster of several nodes on one machine, to try cluster/slurm.sh: munged, slurmctld and one slurmd for each
# node, on loopback, with their own state. Needs root; packages: infra/install_debian.sh.
#
#   cluster/local_slurm.sh up N        prints the file to source: SLURM_CONF, by which sbatch and its like find it
#   cluster/local_slurm.sh down        cancels its jobs, ends its daemons, removes its directory
#
#   SLURM_STATE      directories, logs, configuration                ${TMPDIR:-/tmp}/distseg-slurm
#   SLURM_PORT       slurmctld's; the nodes take the next ones       16817
#   SLURM_NODE_CPUS  that Slurm counts on a node                     1
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../infra/process.sh"

state=$(realpath -m "${SLURM_STATE:-${TMPDIR:-/tmp}/distseg-slurm}")
port=${SLURM_PORT:-16817} conf=$state/slurm.conf
unset SLURM_CONF

write_conf() { # N
  cat >"$conf" <<END
ClusterName=distseg
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
JobRequeue=1
KillWait=30
NodeName=n[1-$1] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + $1))] CPUs=${SLURM_NODE_CPUS:-1} RealMemory=500
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

up() {
  local i
  [ "$(id -u)" = 0 ] || fail "its daemons need root"
  for i in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v $i >/dev/null || fail "$i is not installed; run infra/install_debian.sh"
  done
  [ ! -e "$state/slurmctld.pid" ] || fail "it is up already, or was not taken down: run 'down' first"
  for i in $(seq 0 "$1"); do port_is_free 127.0.0.1 $((port + i)) || fail "port $((port + i)) is taken; set SLURM_PORT"; done
  claim_state "$state"
  mkdir -p "$state/munge" "$state/controller"
  chmod 711 "$state" # munged wants its clients to reach its socket
  chmod 755 "$state/munge"
  for i in $(seq 1 "$1"); do mkdir -p "$state/n$i"; done
  write_conf "$1"
  new_secret | write_private "$state/munge.key"
  trap 'echo "local_slurm.sh: not up; its logs are kept in $state until down" >&2' EXIT
  PATH=$PATH:/usr/sbin
  munged --key-file="$state/munge.key" --socket="$state/munge/socket" --pid-file="$state/munge/pid" \
    --log-file="$state/munge/log" --seed-file="$state/munge/seed" --force 2>>"$state/munge.err"
  slurmctld -f "$conf"
  for i in $(seq 1 "$1"); do slurmd -f "$conf" -N "n$i"; done
  export SLURM_CONF=$conf
  wait_for 60 all_idle "$1" || fail "the nodes are not idle: $(sinfo -h -N -o '%N %T' | paste -sd,)"
  trap - EXIT
  echo "export SLURM_CONF=$conf" >"$state/env"
  echo "$1 nodes; next:  . $state/env"
}

all_idle() { [ "$(sinfo -h -N -t idle -o %N | wc -l)" = "$1" ]; }

down() {
  [ -e "$state" ] || return 0
  [ -e "$state/.distseg-state" ] || fail "$state was not made by this script; left alone"
  local file
  export SLURM_CONF=$conf
  if is_running "$state/slurmctld.pid" "$conf"; then
    squeue -h -o %A | xargs -r scancel 2>/dev/null || true
    wait_for 60 nothing_runs || true
  fi
  for file in "$state"/n*.pid "$state/slurmctld.pid"; do stop_process "$file" "$conf"; done
  stop_process "$state/munge/pid" "$state/munge.key"
  wipe_state "$state"
}

nothing_runs() { [ -z "$(squeue -h -o %A)" ]; }

case "${1:-}" in
  up) [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || fail "up N: how many nodes?"; up "$2" ;;
  down) down ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
