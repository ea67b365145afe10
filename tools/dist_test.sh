#!/usr/bin/env bash
# dist_test.sh CONFIG CHECKPOINT PROCESSES [arguments of test.py]
set -e
CONFIG=$1; CHECKPOINT=$2; PROCESSES=$3; shift 3
"${PYTHON:-python}" -m torch.distributed.run --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" --nproc-per-node="$PROCESSES" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
