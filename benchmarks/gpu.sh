#!/usr/bin/env bash
# All checks that need a GPU, in one call of less than nine minutes: what docs/lab/gpu-checks.md lists as pending.
#
#   OUT=results benchmarks/gpu.sh [MINUTES]
#
# Needs no network: weights are random or the bundled base's. Every part has a limit of time of its own and leaves its
# output in $OUT; one that fails or is stopped does not keep the others from running, and summary.txt says so. A step's
# time and memory at the sizes of Stable Diffusion come first.
# With MINUTES the bundled base is trained for as long a network, measured and taught two concepts, which takes longer:
# the weights come as weights.tar in pieces of 15 MB (join them with cat).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu.sh: there is no GPU here that torch can use (python: $python); nothing was run" >&2
    exit 1
}
out=$(realpath -m "${OUT:-gpu-results}")
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHON="$python"
failed=0

part() { # NAME SECONDS COMMAND...: run one part within its time, and keep what it prints
    local name=$1 limit=$2 begun=$SECONDS status=0
    shift 2
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.md" 2> "$out/$name.log" || status=$?
    echo "$name: status $status after $((SECONDS - begun)) s (limit $limit)" | tee -a "$out/summary.txt"
    [ "$status" = 0 ] || { failed=1; tail -n 5 "$out/$name.log"; }
}

: > "$out/summary.txt"
nvidia-smi --query-gpu=name,memory.total,compute_cap --format=csv | tee -a "$out/summary.txt"
part step-sd1-512 130 "$python" benchmarks/sd_scale.py --device cuda --side 512 --batch 1 4 --steps 10 --rounds 2 \
    --only "peft LoRA" TI++ "STAMINA, collapsed mask"
part step-sdxl-1024 140 "$python" benchmarks/sd_scale.py --size sdxl --device cuda --side 1024 --steps 5 --rounds 1 \
    --only "peft LoRA" TI++ "STAMINA, low-rank mask"
part methods 110 "$python" benchmarks/methods.py --device cuda --rounds 2
export CONCEPTCTL_STORE="$out/store" CONCEPTS="$out/concepts"
rm -rf "$CONCEPTCTL_STORE" "$CONCEPTS"
part learn 130 bash -euxc '
    conceptctl() { "$PYTHON" -m conceptctl "$@"; }
    conceptctl bench data "$CONCEPTS" --concepts 2
    conceptctl init
    conceptctl learn "$CONCEPTS/person-000/train" --token alice --class person --steps 60 --device cuda
    conceptctl learn "$CONCEPTS/waterfall-000/train" --token falls --class waterfall --steps 60 --device cuda \
        --mixed-precision no
    conceptctl forget alice --dry-run
    conceptctl eval --device cuda'
if [ -n "${1:-}" ]; then
    part train 100000 "$python" -m conceptctl.pocket.train --stage all --minutes "$1" --target gpu-weights
    part quality 3600 "$python" benchmarks/pocket_quality.py --weights gpu-weights --json "$out/quality.json" \
        --grids gpu-grids
    part sequence 100000 "$python" benchmarks/sequence.py --device cuda --weights gpu-weights --workspace gpu-sequence
    cp gpu-sequence/figures.json "$out/sequence.json"
    tail -qn 1 pocket-training/*.jsonl > "$out/training.jsonl"
    tar -cf - gpu-weights gpu-grids | split -b 15m -d - "$out/weights.tar."
fi
exit "$failed"
