#!/usr/bin/env bash
#SBATCH --job-name=distseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
# One training in one allocation of Slurm, submitted from a clone of distseg that all nodes see at the same path:
#
#   CHECKPOINTS=s3://BUCKET/runs sbatch --nodes=4 --gpus-per-node=8 --cpus-per-gpu=8 --time=24:00:00 \
#       cluster/slurm.sh ARGUMENTS…
#
# ARGUMENTS are those of python -m distseg.train, without --resume and --checkpoint.uri: checkpoints go to
# $CHECKPOINTS/slurm-JOBID. Ray's head runs on the first node, a worker on each of the others; one rank for each GPU,
# or for each node where none was asked for. The job's exit code is that of the training.
#
# Two minutes before the time limit (--signal above) Slurm sends SIGTERM: the training saves its newest step and ends,
# and the job queues again. Whenever the job starts anew, also after the loss of a node, it resumes that run.
#
#   CHECKPOINTS     s3://… or a directory that all nodes see            required
#   PYTHON          has distseg's dependencies, on every node          .venv/bin/python of the clone
#   RAY_HEAD_IP     the first node's address, where its name means another one
#   RAY_PORT        of the head; the next few are taken too            20000 + 10 times the last digits of the job's id
#   RAY_STORE_BYTES shared memory of Ray's object store, per node      1000000000
set -euo pipefail

fail() { echo "slurm.sh: $*" >&2; exit 1; }

[ -n "${SLURM_JOB_ID:-}" ] || fail "submit it: CHECKPOINTS=… sbatch cluster/slurm.sh ARGUMENTS…"
cd "$SLURM_SUBMIT_DIR"
[ -e cluster/slurm.sh ] || fail "$SLURM_SUBMIT_DIR is no clone of distseg; submit from one"
[ -n "${CHECKPOINTS:-}" ] || fail "set CHECKPOINTS to the place for checkpoints that all nodes see"
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
[ -x "$python" ] || fail "no $python; run make install, or set PYTHON"

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_TOKEN
export RAY_LOGGER_LEVEL=${RAY_LOGGER_LEVEL:-warning} # at info, Ray logs the variables of jobs
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
# A dead node is found in seconds; Ray's own settings take a minute.
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=1000 RAY_health_check_initial_delay_ms=1000
export RAY_health_check_failure_threshold=5

num_nodes=$SLURM_JOB_NUM_NODES head_node=${SLURMD_NODENAME:-$(hostname -s)}
gpus=${SLURM_GPUS_ON_NODE:-0} cpus=$SLURM_CPUS_ON_NODE
port=${RAY_PORT:-$((20000 + SLURM_JOB_ID % 1000 * 10))}
address=${RAY_HEAD_IP:-$({ getent ahostsv4 "$(hostname)" || true; } | awk 'NR == 1 { print $1 }')}
store=${CHECKPOINTS%/}/slurm-$SLURM_JOB_ID
files=/tmp/distseg-$SLURM_JOB_ID # short: Ray puts sockets there
joined=(--num-cpus="$cpus" --num-gpus="$gpus" --object-store-memory="${RAY_STORE_BYTES:-1000000000}" --block)
driver='' stopped='' ray_pids=()

[ -n "$address" ] || fail "the name $(hostname) has no address here; set RAY_HEAD_IP to that of the first node"
# Slurm gives one CPU to a task, however many GPUs it has, unless it is asked for more.
[ "$gpus" -le "$cpus" ] ||
  fail "this node has $gpus GPUs and $cpus CPUs for the job; ask for CPUs too: --cpus-per-gpu=8, or --exclusive"

on_term() { # of --signal: the training saves and ends; it hears of it before the nodes do
  stopped=yes
  if [ -n "$driver" ]; then kill -TERM "$driver" 2>/dev/null || true; fi
}
trap on_term TERM

start_ray() {
  local attempt
  for attempt in 1 2 3; do # Ray gives its own processes 30 s, which is too little on a machine that is busy
    ! start_head || break
    echo "slurm.sh: Ray's head did not start, attempt $attempt of 3" >&2
    [ "$attempt" != 3 ] || exit 1
  done
  [ "$num_nodes" = 1 ] || start_workers
  export RAY_ADDRESS=$address:$port
  "$python" -m cluster.allocation wait "$num_nodes" || { tell_why; stop_ray; exit 1; }
}

start_head() { # until it says that it runs: before that it listens, but refuses workers
  "$python" -m ray.scripts.scripts start --head --port="$port" --node-ip-address="$address" --dashboard-port=$((port + 1)) \
    --ray-client-server-port=$((port + 2)) --dashboard-agent-listen-port=$((port + 3)) --temp-dir="$files.0" \
    "${joined[@]}" >"$files.head.log" 2>&1 &
  ray_pids=($!)
  until grep -q "Ray runtime started" "$files.head.log"; do
    kill -0 "${ray_pids[0]}" 2>/dev/null || { tail -n 20 "$files.head.log" >&2; stop_ray; return 1; }
    sleep 0.2
  done
}

tell_why() { # the log of the other nodes' Ray lies on this one
  tail -n 20 "$files.workers.log" >&2 2>/dev/null || true
  case "$num_nodes${RAY_HEAD_IP:+given} $address" in
    1\ * | *given\ *) ;;
    *\ 127.*) echo "slurm.sh: $(hostname) means $address here; other machines do not reach it: set RAY_HEAD_IP" >&2 ;;
  esac
}

start_workers() {
  # shellcheck disable=SC2016
  srun --nodes=$((num_nodes - 1)) --ntasks=$((num_nodes - 1)) --ntasks-per-node=1 --exclude="$head_node" \
    --kill-on-bad-exit=0 bash -c '
      files=$1 address=$2 port=$3; shift 3
      exec "$@" --address="$address:$port" --dashboard-agent-listen-port=$((port + 4 + SLURM_PROCID)) \
        --temp-dir="$files.$((SLURM_PROCID + 1))"' \
    worker "$files" "$address" "$port" "$python" -m ray.scripts.scripts start "${joined[@]}" >"$files.workers.log" 2>&1 &
  ray_pids+=($!)
}

stop_ray() { # srun passes SIGTERM on; Ray ends all it has started
  kill -TERM "${ray_pids[@]}" 2>/dev/null || true
  wait "${ray_pids[@]}" 2>/dev/null || true
  rm -rf "$files".*
}

scaling() { # one rank for each GPU, else for each node
  if [ "$gpus" -gt 0 ]; then
    echo --scaling.gpu True --scaling.num_workers $((num_nodes * gpus)) --scaling.cpus_per_worker $((cpus / gpus))
  else
    echo --scaling.num_workers "$num_nodes" --scaling.cpus_per_worker "$cpus"
  fi
}

train() { # returns the training's code
  local code=0 again=0
  "$python" -m distseg.train "${arguments[@]}" &
  driver=$!
  [ -z "$stopped" ] || on_term # which came just before
  wait "$driver" || code=$?
  if [ -n "$stopped" ]; then # the signal has ended `wait`; if the training had, there is nothing to wait for: 127
    wait "$driver" || again=$?
    [ "$again" = 127 ] || code=$again
  fi
  return "$code"
}

case " $* " in *" --resume"[\ =]* | *" --checkpoint.uri"[\ =]*) fail "--resume and --checkpoint.uri are this script's own; see CHECKPOINTS" ;; esac
run=$("$python" -m cluster.allocation newest "$store") || fail "cannot look for an earlier run in $store"
if [ -n "$run" ]; then
  echo "slurm.sh: resumes $run"
  arguments=(--resume "$run")
else # what the user says comes last, and counts
  recipe=()
  if [ $# -gt 0 ] && [[ "$1" != -* ]]; then recipe=("$1"); shift; fi
  # shellcheck disable=SC2207
  arguments=("${recipe[@]}" --checkpoint.uri "$store" $(scaling) "$@")
  "$python" -m distseg.train "${arguments[@]}" --print-config >/dev/null || exit $? # bad arguments need no Ray
fi

start_ray
code=0
train || code=$?
stop_ray
# Cancelled by a person, the job is not running any more; near its time limit it is.
if [ -n "$stopped" ] && [ "$code" != 0 ] && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then
  echo "slurm.sh: stopped with $code; queues again, to resume"
  scontrol requeue "$SLURM_JOB_ID" || echo "slurm.sh: not requeued; do so by scontrol requeue $SLURM_JOB_ID" >&2
fi
exit "$code"
