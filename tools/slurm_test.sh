#!/usr/bin/env bash
# Evaluate on a Slurm cluster:
#   GPUS=8 GPUS_PER_NODE=8 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# Also read: CPUS_PER_TASK (5), SRUN_ARGS, GPUS_PER_NODE=0 (processes without GPUs; then TASKS_PER_NODE, 1).
set -euo pipefail
if [ $# -lt 4 ]; then sed -n 2,4p "$0"; exit 2; fi
PARTITION=$1; JOB_NAME=$2; CONFIG=$3; CHECKPOINT=$4; shift 4
GPUS=${GPUS:-8}; GPUS_PER_NODE=${GPUS_PER_NODE:-8}; CPUS_PER_TASK=${CPUS_PER_TASK:-5}
[ "$GPUS_PER_NODE" -le "$GPUS" ] || GPUS_PER_NODE=$GPUS
if [ "$GPUS_PER_NODE" = 0 ]; then
  PLACES=(--ntasks-per-node="${TASKS_PER_NODE:-1}")
else
  PLACES=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")
fi
# shellcheck disable=SC2086
exec srun -p "$PARTITION" --job-name="$JOB_NAME" "${PLACES[@]}" --ntasks="$GPUS" --cpus-per-task="$CPUS_PER_TASK" \
  --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher slurm "$@"
