#!/usr/bin/env bash
# Runs what only a GPU can show, and leaves JSON and logs in a folder: tests, compute-sanitizer, benchmarks.
#
#   bash benchmarks/on_gpu.sh DIR
#
# Works from a bare checkout, without network, in under 9 minutes. Exits non-zero where there is no GPU or a part fails.
set -uo pipefail

if [ $# -ne 1 ]; then
    echo "usage: bash benchmarks/on_gpu.sh DIR" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=$(command -v python3 || command -v python)

if ! "$python" - <<'PY'
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
"$python" -c 'import torch, triton, platform; p = torch.cuda.get_device_properties(0); print(
    f"device {p.name}\nmemory {p.total_memory}\nmultiprocessors {p.multi_processor_count}\n"
    f"torch {torch.__version__}\ntriton {triton.__version__}\npython {platform.python_version()}\n"
    f"cuda {torch.version.cuda}\nhip {torch.version.hip}")' >"$out/machine.txt"

failed=0
part() { # name, limit in seconds, command...
    local name=$1 limit=$2 status=0
    shift 2
    echo "== $name"
    timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    tail -n 3 "$out/$name.log"
    if [ "$status" -ne 0 ]; then
        echo "== $name failed with status $status: see $out/$name.log"
        failed=1
    fi
}

# the limits below sum to under 9 minutes
part tests 120 "$python" -m pytest -q -p no:cacheprovider \
    tests/test_rooms.py tests/test_gpu.py -k "triton or gpu"

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
said=
if [ -n "$sanitizer" ]; then
    said=$(timeout -k 5 40 "$sanitizer" "$python" -c 'import torch; torch.zeros(1, device="cuda")' 2>&1 || true)
fi
if [ -z "$sanitizer" ]; then
    echo "== sanitizer: compute-sanitizer is not installed, left out" | tee "$out/sanitizer.log"
elif [[ $said == *"not supported"* ]]; then
    echo "== sanitizer: compute-sanitizer refuses this device, left out" | tee "$out/sanitizer.log"
else
    # without the caching allocator each tensor is its own allocation, so that an overrun is seen
    part sanitizer 80 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool memcheck --error-exitcode 9 \
        "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py -k small
fi

if "$python" -c 'import pytest_benchmark' 2>/dev/null; then
    # a file each: what was measured is kept when a later one runs out of time
    for suite in rooms:130 optimizer_step:80 compression:40 stacking_tax:40; do
        name=${suite%:*}
        part "benchmark_$name" "${suite#*:}" "$python" -m pytest "benchmarks/test_$name.py" --benchmark-only -q \
            -p no:cacheprovider --device cuda --benchmark-json="$out/$name.json"
    done
    part table 20 "$python" benchmarks/report.py "$out/rooms.json" "$out/optimizer_step.json" \
        "$out/compression.json" "$out/stacking_tax.json"
else
    echo "== benchmarks: pytest-benchmark is not installed, left out" | tee "$out/benchmarks.log"
    failed=1
fi
exit "$failed"
