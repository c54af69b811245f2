#!/usr/bin/env bash
# All checks that need a GPU, in one call: what docs/lab/gpu-checks.md lists as pending.
#
#   OUT=results benchmarks/gpu.sh [MINUTES]
#
# Trains the bundled base for MINUTES a network (5 by default), measures it, times every method's step, teaches it ten
# concepts in sequence, and leaves in $OUT the weights
# (weights.tar in pieces of 15 MB: join them with cat), the training logs, the table and the sample grids.
# A second call in the same place goes on where the first one stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-5}
out=${OUT:-gpu-results}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,memory.total --format=csv
python3 -m conceptctl.pocket.train --stage all --minutes "$minutes" --target gpu-weights
python3 benchmarks/pocket_quality.py --weights gpu-weights --json "$out/quality.json" --grids gpu-grids | tee "$out/quality.md"
python3 benchmarks/methods.py --device cuda --weights gpu-weights | tee "$out/methods.md"
python3 benchmarks/sequence.py --device cuda --weights gpu-weights --workspace gpu-sequence | tee "$out/sequence.md"
cp gpu-sequence/figures.json "$out/sequence.json"
tail -qn 1 pocket-training/*.jsonl > "$out/training.jsonl"
tar -cf - gpu-weights gpu-grids | split -b 15m -d - "$out/weights.tar."
