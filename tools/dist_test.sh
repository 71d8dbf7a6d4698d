#!/usr/bin/env bash
# Evaluate on several GPUs (or CPU processes, over gloo):
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
set -euo pipefail
if [ $# -lt 3 ]; then sed -n 2,3p "$0"; exit 2; fi
CONFIG=$1; CHECKPOINT=$2; PROCESSES=$3; shift 3
PYTHON=${PYTHON:-python}
# torchrun's default is one thread a process. Share the cores instead, and never fewer than two: with one, torch runs small
# convolutions through another kernel, whose last digits differ from a one-process run's.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
  SHARE=$(( $(getconf _NPROCESSORS_ONLN) / PROCESSES ))
  export OMP_NUM_THREADS=$(( SHARE > 2 ? SHARE : 2 ))
fi
exec "$PYTHON" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" --nproc_per_node="$PROCESSES" \
  "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
