#!/usr/bin/env bash
# One run on all hosts of a TPU pod slice.
#
#   tools/launch_tpu_pod.sh NAME ZONE --config configs/meanflow.py --workdir gs-mounted/runs/codec
#
# NAME and ZONE are those of the slice; the rest goes to train.py. The checkout has to lie in
# ~/big_audio on every host (git clone once with the same `ssh --worker=all`), and the workdir on a
# file system that every host sees. jax reads the slice's topology from the TPU itself; we only say
# that it should (BIG_AUDIO_DISTRIBUTED=auto). The same command resumes the run.
set -euo pipefail

if (($# < 3)); then
  echo "usage: $0 NAME ZONE ARGUMENTS_OF_TRAIN..." >&2
  exit 2
fi
name="$1" zone="$2"
shift 2

printf -v arguments ' %q' "$@" # quoted once more: the command goes through a remote shell
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="\
cd ~/big_audio && BIG_AUDIO_DISTRIBUTED=auto \
exec uv run --frozen --extra tpu train.py$arguments"
