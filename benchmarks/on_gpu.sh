#!/usr/bin/env bash
# Runs what only a GPU can show, part by part: tests, compute-sanitizer, and figures for benchmarks/results/.
#
#   bash benchmarks/on_gpu.sh [--tiny] DIR [PART...]
#
# Parts, with their limits in seconds:
#
#   tests 210         the ops, the optimizers and stacked convolutions on the GPU
#   sanitizer 120     tests at small sizes under compute-sanitizer
#   calibration 40    the few ops that bring benchmarks/model.py nearer to this device
#   shapes 90         block shapes of streaming kernels, and those that a table chooses
#   stacking 220      stacked gradients against one model on the concatenated batch
#   training 270      a run with ResNet-20 as `fastsaddle train` makes it, CUDA graphs on and off
#   launches 60       kernels and waits of the host in a step
#   ops 220           percent of copy bandwidth, 1 to 4,096 agents, buffers of 1 MB to 8 GB
#   steps 100         whole optimizer steps against eager PyTorch, torch._foreach and torch.compile
#   compression 50    compressors against eager PyTorch
#   collect 20        gradients of ResNet-20 into the flat buffer, with their norms
#   gather 30         batches gathered from images, against copies of their bytes
#   memory 100        4,096 agents with ResNet-20: memory and time of a step against plain PyTorch
#
# Without names all run in this order, in 26 minutes at most. Where a machine is lent for ten, three calls with the
# same DIR do: "tests sanitizer calibration shapes launches", "stacking training" and the rest. Each part writes
# DIR/PART.json and DIR/PART.log, also where its time runs out or the script is ended. A file that cannot be read is
# put aside as DIR/PART.broken. After each part what was measured so far is merged into DIR/gpu.json, ready to be
# committed as benchmarks/results/gpu_<device>.json, and DIR/page.md says which of the figures to reach are met,
# missed or not measured; it is printed at the end. DIR/calibration.json is for `python benchmarks/model.py
# --calibration`, DIR/chosen.json the table of block shapes with the fastest of them, to be committed as
# kernels/_shared/shapes/chosen.json. Files of several folders are merged by:
# python -m benchmarks.reporting keep A/gpu.json B/gpu.json --as RESULT
#
# Works from a bare checkout, without network: on Python 3.10 or later with torch, Triton, NumPy, networkx and pytest,
# and pytest-benchmark for figures; a part that lacks a package says so and is left out. Exits non-zero where there is no
# GPU or a part fails.
# --tiny runs the smallest sizes on a CPU: it shows that the parts run, and measures nothing.
set -uo pipefail

parts=(tests sanitizer calibration shapes stacking training launches ops steps compression collect gather memory)
scale=()
device=cuda
if [ "${1:-}" = --tiny ]; then
    scale=(--tiny --threads 1)
    device=cpu
    # kernels run in Triton's interpreter
    export TRITON_INTERPRET=1
    shift
fi
if [ $# -lt 1 ]; then
    echo "usage: bash benchmarks/on_gpu.sh [--tiny] DIR [PART...], parts: ${parts[*]}" >&2
    exit 2
fi
folder=$1
shift
chosen=("$@")
[ $# -gt 0 ] || chosen=("${parts[@]}")
for name in "${chosen[@]}"; do
    if [[ " ${parts[*]} " != *" $name "* ]]; then
        echo "a part must be one of ${parts[*]}, got $name" >&2
        exit 2
    fi
done
mkdir -p "$folder" || exit 2
out=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-$(command -v python3 || command -v python)}

if [ "$device" = cuda ] && ! "$python" - <<'PY'
import sys

import torch

if not torch.cuda.is_available():
    sys.exit(f"no GPU: torch {torch.__version__} sees no CUDA or ROCm device; nothing was measured")
import triton

print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}")
PY
then
    exit 1
fi

if [ "$device" = cpu ] && ! "$python" - <<'PY'
import sys

from tests.kernels.test_interpreter import reason_to_skip

sys.exit(reason_to_skip())
PY
then
    echo "--tiny runs kernels in Triton's interpreter, which this Python cannot; nothing was tried" >&2
    exit 1
fi

failed=0
child=
# whoever ends the script ends its part, which writes what it has; so does the page
stopped() {
    trap '' TERM INT HUP
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null
        wait "$child"
    fi
    echo "== ended by a signal"
    finish
    exit 143
}
trap stopped TERM INT HUP

part() { # name, limit in seconds, command...
    local name=$1 limit=$2 status=0
    shift 2
    # an interpreter may take its time
    [ "$device" = cuda ] || limit=$((5 * limit))
    echo "$name did not end" >"$out/$name.status"
    echo "== $name"
    # pytest writes what it has when it is asked to end; in the background, so that a signal is heard at once
    timeout -k 20 "$limit" "$@" >"$out/$name.log" 2>&1 &
    child=$!
    wait "$child" || status=$?
    child=
    tail -n 3 "$out/$name.log"
    case $status in
    0) echo "$name passed" >"$out/$name.status" ;;
    124 | 137) echo "$name ran out of its $limit s" >"$out/$name.status" ;;
    *) echo "$name failed with status $status" >"$out/$name.status" ;;
    esac
    if [ "$status" -ne 0 ]; then
        echo "== $(cat "$out/$name.status"): see $out/$name.log"
        failed=1
    fi
}

left_out() { # name, reason
    echo "== $1: $2, left out" | tee "$out/$1.log"
    echo "$1 was left out: $2" >"$out/$1.status"
}

figures() { # part, limit in seconds, file
    if ! "$python" -c 'import pytest_benchmark' 2>/dev/null; then
        left_out "$1" "pytest-benchmark is not installed"
        failed=1
        return
    fi
    part "$1" "$2" "$python" -m pytest "benchmarks/$3" --benchmark-only -q -p no:cacheprovider \
        --device "$device" "${scale[@]}" --benchmark-json="$out/$1.json"
    [ -s "$out/$1.json" ] || echo "$(cat "$out/$1.status"), no figures" >"$out/$1.status"
}

# merges what was measured, and writes the page
finish() {
    local files=() name
    for name in "${parts[@]}"; do
        [ -s "$out/$name.json" ] || continue
        if "$python" -m json.tool "$out/$name.json" >/dev/null 2>&1; then
            files+=("$out/$name.json")
        else
            # cut off while it was written: the others' figures stay
            mv "$out/$name.json" "$out/$name.broken"
            echo "$(cat "$out/$name.status" 2>/dev/null || echo "$name"), figures cannot be read" |
                tee "$out/$name.status.new"
            mv "$out/$name.status.new" "$out/$name.status"
            failed=1
        fi
    done
    if [ ${#files[@]} -gt 0 ]; then
        "$python" -m benchmarks.reporting keep "${files[@]}" --as "$out/gpu.json" || failed=1
    fi
    if [ -s "$out/shapes.json" ]; then
        "$python" -m benchmarks.reporting shapes "$out/shapes.json" --as "$out/chosen.json" || failed=1
    fi
    "$python" -m benchmarks.reporting gpu "$out" >"$out/page.new" && mv "$out/page.new" "$out/page.md" || failed=1
}

sanitizer() {
    local found said=
    found=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ -n "$found" ]; then
        said=$(timeout -k 5 40 "$found" "$python" -c 'import torch; torch.zeros(1, device="cuda")' 2>&1 || true)
    fi
    if [ -z "$found" ]; then
        left_out sanitizer "compute-sanitizer is not installed"
    elif [[ $said == *"not supported"* ]]; then
        left_out sanitizer "compute-sanitizer refuses this device"
    else
        # without the caching allocator each tensor is its own allocation, so that an overrun is seen
        part sanitizer 80 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$found" --tool memcheck --error-exitcode 9 \
            --report-api-errors no \
            "$python" -m pytest -q -p no:cacheprovider tests/kernels/test_gpu.py -k small
    fi
}

for name in "${chosen[@]}"; do
    case $name in
    tests)
        # 450 kernels are compiled, 0.2 s each: by several processes where pytest-xdist is installed
        workers=()
        if "$python" -c 'import xdist' 2>/dev/null; then
            workers=(-n 8)
        fi
        part tests 210 env OMP_NUM_THREADS=2 "$python" -m pytest -q -p no:cacheprovider "${workers[@]}" \
            tests/kernels/test_gpu.py tests/kernels/test_ops.py tests/kernels/test_stacked_convolution.py -k "triton or gpu"
        ;;
    calibration) figures calibration 40 kernels/test_calibration.py ;;
    shapes) figures shapes 90 kernels/test_shapes.py ;;
    stacking) figures stacking 220 steps/test_stacking_tax.py ;;
    training) figures training 270 steps/test_training.py ;;
    launches) figures launches 60 kernels/test_launches.py ;;
    ops) figures ops 220 kernels/test_ops.py ;;
    steps) figures steps 100 steps/test_optimizer_step.py ;;
    compression) figures compression 50 kernels/test_compression.py ;;
    collect) figures collect 20 kernels/test_collect.py ;;
    gather) figures gather 30 kernels/test_gather.py ;;
    memory) figures memory 100 steps/test_step_memory.py ;;
    sanitizer) sanitizer ;;
    esac
    finish
done
cat "$out/page.md"
exit "$failed"
