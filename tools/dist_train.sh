#!/usr/bin/env bash
# Train on several GPUs (or CPU processes, over gloo) of this or several nodes:
#   bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each. MAX_RESTARTS=3 starts all processes again, from the
# newest checkpoint, when one is lost.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n 2,5p "$0"; exit 2; fi
CONFIG=$1; PROCESSES=$2; shift 2
PYTHON=${PYTHON:-python}
# torchrun's default is one thread a process. Share the cores instead, and never fewer than two: with one, torch runs small
# convolutions through another kernel, whose last digits differ from a one-process run's.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
  SHARE=$(( $(getconf _NPROCESSORS_ONLN) / PROCESSES ))
  export OMP_NUM_THREADS=$(( SHARE > 2 ? SHARE : 2 ))
fi
exec "$PYTHON" -m torch.distributed.run \
  --max-restarts="${MAX_RESTARTS:-0}" --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" --nproc_per_node="$PROCESSES" \
  "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
