#!/usr/bin/env bash
# dist_train.sh CONFIG PROCESSES [arguments of train.py]
set -e
CONFIG=$1; PROCESSES=$2; shift 2
"${PYTHON:-python}" -m torch.distributed.run --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" --nproc-per-node="$PROCESSES" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
