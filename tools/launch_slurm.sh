#!/usr/bin/env bash
# One run on the nodes of a SLURM job: one process per node, all its GPUs.
#
#   sbatch --nodes=4 --gpus-per-node=8 tools/launch_slurm.sh \
#     --config configs/meanflow.py --workdir /shared/runs/codec
#
# All arguments go to train.py. The workdir must lie on a file system that every node sees. jax finds
# the coordinator, the number of processes and its own index in SLURM's variables; we only say that
# it should (BIG_AUDIO_DISTRIBUTED=auto). The same command resumes the run.
#SBATCH --job-name=big_audio
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
# TERM comes two minutes before the time limit: the loop saves and exits, and the next job resumes.
set -euo pipefail

# SLURM runs a copy of this file, so its own path does not lead to the checkout.
cd "${BIG_AUDIO_ROOT:-${SLURM_SUBMIT_DIR:?start this with sbatch, from the root of the checkout}}"
if [[ ! -f train.py ]]; then
  echo "$PWD has no train.py: submit from the root of the checkout or set BIG_AUDIO_ROOT." >&2
  exit 1
fi
export BIG_AUDIO_DISTRIBUTED=auto
exec srun --kill-on-bad-exit=1 uv run --frozen --extra gpu train.py "$@"
