#!/usr/bin/env bash
# Train on several GPUs (or CPU processes, over gloo) of this or several nodes:
#   bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# PROCESSES is of this node. MAX_RESTARTS=3 starts all processes again, from the newest checkpoint, when one is lost.
# Several nodes, on each: NNODES, MASTER_ADDR (a name or address of one of them) and PORT, the same everywhere; NODE_RANK
# 0 on MASTER_ADDR and 1, 2, ... on the others. Also read: RDZV_ID (one name for each training at the same address),
# RDZV_CONF (join_timeout=600), LOCAL_ADDR (where the others reach this node, if not by its host name). See
# docs/distributed.md.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n 2,8p "$0"; exit 2; fi
CONFIG=$1; PROCESSES=$2; shift 2
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
NNODES=${NNODES:-1}; MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}; PORT=${PORT:-29500}
if [ "$NNODES" = 1 ]; then
  MEETING=(--nnodes=1 --node-rank=0 --master-addr="$MASTER_ADDR" --master-port="$PORT")
else
  CONF=${RDZV_CONF:-join_timeout=600}
  if [ -n "${NODE_RANK:-}" ]; then
    CONF="$CONF,is_host=$([ "$NODE_RANK" = 0 ] && echo true || echo false)"
  fi
  MEETING=(--nnodes="$NNODES" --rdzv-backend=c10d --rdzv-endpoint="$MASTER_ADDR:$PORT" --rdzv-id="${RDZV_ID:-effdense}"
    --rdzv-conf="$CONF")
  if [ -n "${LOCAL_ADDR:-}" ]; then MEETING+=(--local-addr="$LOCAL_ADDR"); fi
  # A store of its own for every attempt: each node counts only the restarts that it saw, so in one that is kept the
  # processes of a second attempt would look for each other under different names.
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
fi
exec "$PYTHON" -m torch.distributed.run --max-restarts="${MAX_RESTARTS:-0}" --nproc-per-node="$PROCESSES" "${MEETING[@]}" \
  "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
