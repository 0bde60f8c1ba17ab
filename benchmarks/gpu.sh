#!/usr/bin/env bash
# On a machine with a GPU, without a network: install this checkout beside the torch and Triton that are there, test
# the kernels on the GPU, and measure them only if they are right.
#
#     benchmarks/gpu.sh [FOLDER] [BENCHMARK...]    default: benchmarks/results, and every op with a Triton kernel
#
# FOLDER gets tests.log, benchmarks.log and <device>.json, .md and .png (see report.py), whose table is printed last. PYTHON names the
# interpreter. Needs of that Python: torch, triton, pytest, pytest-benchmark, numpy, scipy, matplotlib.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-benchmarks/results}
shift || true
benches=("$@")
[ ${#benches[@]} -gt 0 ] || benches=(dct_linear adaln_mlp cmlpe)
python=${PYTHON:-python3}
mkdir -p "$folder"

device=$("$python" - <<'CODE'
import re, torch
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
CODE
)
"$python" -m pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check -e .

echo "== tests on $device"
"$python" -m pytest tests/ops -m triton --device cuda -q -p no:cacheprovider 2>&1 | tee "$folder/tests.log" | tail -n 15

echo "== benchmarks"
files=()
for name in "${benches[@]}"; do files+=("benchmarks/bench_$name.py"); done
"$python" -m pytest "${files[@]}" --device cuda --full --benchmark-only -q -p no:cacheprovider \
    --benchmark-json="$folder/$device.json" > "$folder/benchmarks.log" 2>&1 || { tail -n 40 "$folder/benchmarks.log"; exit 1; }
"$python" benchmarks/report.py "$folder/$device.json"
