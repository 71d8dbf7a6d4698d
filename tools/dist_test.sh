#!/usr/bin/env bash
# Evaluate on several GPUs (or CPU processes, over gloo):
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# Several nodes, on each: NNODES, NODE_RANK (0, 1, ...), MASTER_ADDR (that of node 0) and PORT.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n 2,4p "$0"; exit 2; fi
CONFIG=$1; CHECKPOINT=$2; PROCESSES=$3; shift 3
if ! [[ $PROCESSES =~ ^[1-9][0-9]*$ ]]; then echo "PROCESSES must be a number, got '$PROCESSES'" >&2; exit 2; fi
PYTHON=${PYTHON:-python}
# torchrun's default is one thread a process. Share the cores instead, and never fewer than two: with one, torch runs small
# convolutions through another kernel, whose last digits differ from a one-process run's. Where that is more threads than
# cores, those that wait must not spin: they would keep the others from what they wait for.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
if [ -z "${OMP_NUM_THREADS:-}" ]; then
  unset OMP_NUM_THREADS
  CORES=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)  # nproc counts those that a container or a job may use
  SHARE=$(( CORES / PROCESSES ))
  export OMP_NUM_THREADS=$(( SHARE > 2 ? SHARE : 2 ))
fi
# Nothing is restarted here, so the fixed places of torchrun's static rendezvous will do.
exec "$PYTHON" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --master-addr="${MASTER_ADDR:-127.0.0.1}" \
  --master-port="${PORT:-29500}" --nproc-per-node="$PROCESSES" \
  "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
