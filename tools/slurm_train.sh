#!/usr/bin/env bash
# Train on a Slurm cluster, from a login node or inside of a job:
#   GPUS=16 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# Also read: CPUS_PER_TASK (5), SRUN_ARGS, GPUS_PER_NODE=0 (processes without GPUs; then TASKS_PER_NODE, 1).
# REQUEUE=1, inside of a batch job with --requeue and --signal=USR1@120: goes on with what WORK_DIR holds (--resume), and
# puts the job back into the queue when its time is over. See docs/distributed.md.
set -euo pipefail
if [ $# -lt 4 ]; then sed -n 2,6p "$0"; exit 2; fi
PARTITION=$1; JOB_NAME=$2; CONFIG=$3; WORK_DIR=$4; shift 4
GPUS=${GPUS:-8}; GPUS_PER_NODE=${GPUS_PER_NODE:-8}; CPUS_PER_TASK=${CPUS_PER_TASK:-5}
[ "$GPUS_PER_NODE" -le "$GPUS" ] || GPUS_PER_NODE=$GPUS
if [ "$GPUS_PER_NODE" = 0 ]; then
  PLACES=(--ntasks-per-node="${TASKS_PER_NODE:-1}")
else
  PLACES=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")
fi
# shellcheck disable=SC2206
STEP=(srun -p "$PARTITION" --job-name="$JOB_NAME" "${PLACES[@]}" --ntasks="$GPUS" --cpus-per-task="$CPUS_PER_TASK"
  --kill-on-bad-exit=1 ${SRUN_ARGS:-}
  "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm "$@")
if [ "${REQUEUE:-0}" != 1 ]; then exec "${STEP[@]}"; fi

: "${SLURM_JOB_ID:?REQUEUE=1 works inside of a batch job only: sbatch --requeue --signal=USR1@120 ... --wrap \"REQUEUE=1 bash $0 ...\"}"
ASKED=0; CHILD=
# With --signal=B:USR1@120 Slurm asks this shell alone. It listens before there is anyone to tell, or the signal would end it.
trap 'ASKED=1; [ -z "$CHILD" ] || kill -USR1 "$CHILD" 2>/dev/null || true' USR1
"${STEP[@]}" --resume & CHILD=$!
CODE=0
while :; do
  wait "$CHILD" && CODE=0 || CODE=$?
  kill -0 "$CHILD" 2>/dev/null || break  # else it was the signal that ended the wait
done
# 138: all processes saved and ended because of SIGUSR1. Slurm may report those that it ended by itself instead.
if [ "$CODE" = 138 ] || { [ "$ASKED" = 1 ] && [ "$CODE" != 0 ]; }; then
  echo "time is over: job $SLURM_JOB_ID goes back into the queue"
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$CODE"
