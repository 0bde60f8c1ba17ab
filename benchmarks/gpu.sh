#!/usr/bin/env bash
# On a machine with a GPU, without a network: install this checkout beside the torch and Triton that are there, test
# the kernels on the GPU, and measure them.
#
#     benchmarks/gpu.sh [FOLDER] [STEP...]    default: $OUT or benchmarks/results, and all steps
#     DEVICE=cpu benchmarks/gpu.sh FOLDER     a rehearsal: tests in Triton's interpreter, benchmarks not timed
#
# Steps: tests, graphs, dct_linear, adaln_mlp, cmlpe, cmlpe_generate. Each has a time limit of its own, LIMIT seconds
# (540), and none stops the next one: a benchmark compares every provider with the reference before it times it. FOLDER
# gets a log a step and, of each benchmark, <device>-<step>.json, .md and .png (see report.py); the tables are printed
# last. The exit code is 1 if a step failed. PYTHON names the interpreter, which needs torch, triton, numpy, pytest,
# pytest-benchmark, and matplotlib for the pictures; COMMIT the commit, where the checkout has no .git.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-${OUT:-benchmarks/results}}
shift || true
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(tests graphs dct_linear adaln_mlp cmlpe cmlpe_generate)
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
limit=${LIMIT:-540}
export HANDCRAFT_COMMIT=${COMMIT:-$(git rev-parse HEAD 2> /dev/null || echo unknown)}
mkdir -p "$folder"

name=$("$python" - "$device" << 'CODE'
import re, sys, torch
name = torch.cuda.get_device_name() if sys.argv[1] == "cuda" else "cpu"
print(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))
CODE
) || exit 1
timeout 300 "$python" -m pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check -e . \
    > "$folder/install.log" 2>&1 || { tail -n 20 "$folder/install.log"; exit 1; }

kernel_tests=(-m pytest tests/ops --device "$device" -q -p no:cacheprovider --tb=short)
timed=(--full)
interpret=
if [ "$device" = cpu ]; then
    interpret=1
    timed=(--benchmark-disable)
fi
failed=()
tables=()
for step in "${steps[@]}"; do
    echo "== $step on $name"
    log=$folder/$step.log
    variables=()
    case $step in
        tests | graphs) variables=(TRITON_INTERPRET=$interpret) ;;
    esac
    case $step in
        tests) command=("${kernel_tests[@]}" -m triton) ;;
        graphs) command=("${kernel_tests[@]}" -k cuda_graph) ;;
        *)
            command=(-m pytest "benchmarks/bench_$step.py" --device "$device" "${timed[@]}" -q -p no:cacheprovider)
            command+=("--benchmark-json=$folder/$name-$step.json")
            ;;
    esac
    env ${variables[@]+"${variables[@]}"} timeout "$limit" "$python" "${command[@]}" > "$log" 2>&1 || failed+=("$step")
    tail -n 3 "$log"
    [ -s "$folder/$name-$step.json" ] && tables+=("$folder/$name-$step.json")
done
for table in ${tables[@]+"${tables[@]}"}; do "$python" benchmarks/report.py "$table" || failed+=("$table"); done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
