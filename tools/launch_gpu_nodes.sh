#!/usr/bin/env bash
# One run on several machines that ssh reaches, without a scheduler: one process each, all its GPUs.
#
#   HOSTS="node0 node1 node2" tools/launch_gpu_nodes.sh \
#     --config configs/meanflow.py --workdir /shared/runs/codec
#
# All arguments go to train.py. Every host needs this checkout at the same path and sees the workdir.
# The first host is the coordinator: it must be reachable from the others at PORT. Each process is
# told three things that train.py hands to jax.distributed:
#   JAX_COORDINATOR_ADDRESS  host:port of process 0
#   JAX_NUM_PROCESSES        how many there are
#   JAX_PROCESS_ID           which one this is
# If one process fails, the others are ended; Ctrl-C (or TERM) ends all of them after a save.
set -euo pipefail

read -r -a hosts <<<"${HOSTS:?set HOSTS to the names of the machines, the coordinator first}"
address="${hosts[0]}:${PORT:-12321}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
printf -v arguments ' %q' "$@" # quoted once more: the command goes through a remote shell

pids=()
# -tt gives the remote process a terminal, so that it hears of it when its ssh ends.
for i in "${!hosts[@]}"; do
  ssh -tt "${hosts[$i]}" "cd $(printf %q "$root") && \
    JAX_COORDINATOR_ADDRESS=$address JAX_NUM_PROCESSES=${#hosts[@]} JAX_PROCESS_ID=$i \
    exec uv run --frozen --extra gpu train.py$arguments" </dev/null > >(sed -u "s/^/[$i] /") 2>&1 &
  pids+=("$!")
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM

status=0
for _ in "${pids[@]}"; do
  if ! wait -n; then
    status=1
    kill -TERM "${pids[@]}" 2>/dev/null || true
  fi
done
exit "$status"
