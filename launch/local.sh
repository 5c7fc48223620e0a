#!/usr/bin/env bash
# One training run as several processes on this machine:
#
#     launch/local.sh N CONFIG [--config.key=value ...]
#     LOCAL_DEVICES=4 launch/local.sh 2 configs/toy/sft.py --config.mesh.fsdp=8
#
# CONFIG is a file, or the name of a config that comes with the package, such as toy/sft.
# Every process runs the same command, `python -m mirothinker_jax.train --config CONFIG ...`, and finds the
# others by COORDINATOR_ADDRESS, PROCESS_COUNT and PROCESS_ID (mirothinker_jax/parallel/processes.py). Only
# environment is set here, never a setting of the run.
#
#     LOCAL_DEVICES=K   K devices made of the CPU in each process, instead of the machine's accelerators
#     PYTHON=FILE       the interpreter (default: python)
#
# Process 0 writes as if it were alone; the lines of process 1 begin with [1], and so on. The first process
# that fails ends the others, and its exit code is the launcher's. SIGINT and SIGTERM go to every process and
# to what it has started; whoever is still there 10 s later is killed, which costs a run nothing but the
# steps since its last checkpoint.
#
# Left out: accelerators dealt to the processes; each one sees all of this machine's.
set -euo pipefail

if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh N CONFIG [--config.key=value ...]   (N: how many processes)" >&2
  exit 2
fi
count=$1 config=$2
shift 2
python=${PYTHON:-python}

if [ -n "${LOCAL_DEVICES:-}" ]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$LOCAL_DEVICES"
fi
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export COORDINATOR_ADDRESS=127.0.0.1:$port PROCESS_COUNT=$count

# With job control every process leads a group of its own: signals reach what it has started, and SIGINT is
# not ignored, as it otherwise is in a script's background jobs.
set -m
declare -A running=() # process id → PROCESS_ID

# Signal $1 for all that run, and SIGKILL for those that do not end.
stop() {
  local pid i
  for pid in "${!running[@]}"; do kill -"$1" -- "-$pid" 2>/dev/null || true; done
  for ((i = 0; i < 100; i++)); do
    for pid in "${!running[@]}"; do
      kill -0 -- "-$pid" 2>/dev/null || unset "running[$pid]"
    done
    [ ${#running[@]} -eq 0 ] && return
    sleep 0.1
  done
  for pid in "${!running[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}
trap 'stop INT; exit 130' INT
trap 'stop TERM; exit 143' TERM
trap 'stop TERM' EXIT

for ((id = 0; id < count; id++)); do
  command=("$python" -m mirothinker_jax.train --config "$config" "$@")
  if [ "$id" -eq 0 ]; then
    PROCESS_ID=$id "${command[@]}" &
  else
    PROCESS_ID=$id "${command[@]}" > >(sed -u "s/^/[$id] /") 2> >(sed -u "s/^/[$id] /" >&2) &
  fi
  running[$!]=$id
done

while [ ${#running[@]} -gt 0 ]; do
  status=0
  wait -n -p ended "${!running[@]}" || status=$?
  failed=${running[$ended]}
  unset "running[$ended]"
  if [ $status -ne 0 ]; then
    [ ${#running[@]} -gt 0 ] && echo "launch/local.sh: process $failed ended with $status; ending the others" >&2
    exit $status
  fi
done
