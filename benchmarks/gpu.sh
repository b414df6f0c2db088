#!/usr/bin/env bash
# Everything about a GPU: checks the kernels, then measures. Each of these calls ends within ten minutes:
#
#     bash benchmarks/gpu.sh --quick                # checks, and short tables: five minutes at the most
#     bash benchmarks/gpu.sh                        # checks, and all that is measured on made data
#     bash benchmarks/gpu.sh --data DIR             # tables on DIR/ml-1m/ml-1m.inter and the same of amazon-beauty
#     bash benchmarks/gpu.sh --build-mamba-ssm SOURCE OUT   # builds mamba-ssm, and SOURCE-causal-conv1d if it is there
#     bash benchmarks/gpu.sh --mamba-ssm OUT        # with what was built; goes with each of the first three
#
# Results are in benchmarks/results/, or in $RESULTS, and are written as they come: what is cut off keeps what it has.
# The parts come in the order of their worth, each with a most of its own; what no time is left for is named at the end.
# What the tests of the kernels say is there too; of the rest keep the output (`2>&1 | tee gpu.log`).
# Installs nothing and needs no network: PyTorch with CUDA, Triton, pytest and RecBole with what it imports (colorlog,
# texttable and others; not Ray) are there, or in wheels that are unpacked on PYTHONPATH. Ends with an error if a check
# fails.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=${RESULTS:-benchmarks/results}
limit=${SECONDS_LEFT:-570} # ten minutes, less those that a part takes to end
data="" mamba="" built="" source="" quick=""
folder() { [ -n "$1" ] && (cd "$1" 2>/dev/null && pwd) || { echo "$2 $1: no such folder" >&2; exit 2; }; }
while [ $# -gt 0 ]; do
    case "$1" in
        --quick) quick=1 limit=${SECONDS_LEFT:-290} && shift ;;
        --data) data=$(folder "${2-}" "$1") || exit; shift 2 ;;
        --mamba-ssm) mamba=$(folder "${2-}" "$1") || exit; shift 2 ;;
        --build-mamba-ssm)
            source=$(folder "${2-}" "$1") || exit
            built=${3:?--build-mamba-ssm takes the source and the folder to build into}
            mkdir -p "$built" && built=$(folder "$built" "$1") || exit
            shift 3 ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
done
export python PYTHONUNBUFFERED=1 PYTHONPATH="${mamba:+$mamba:}$PWD${PYTHONPATH:+:$PYTHONPATH}"
work=$(mktemp -d) && export work
trap 'rm -rf "$work"' EXIT
failed=()
left() { echo $((limit - SECONDS)); }
part() { # part <name> <most seconds> <command ...>: at most that long, and never beyond the limit
    local name=$1 most=$2 begin=$SECONDS status
    shift 2
    [ "$(left)" -lt "$most" ] && most=$(left)
    if [ "$most" -lt 10 ]; then
        echo "== $name: no time left" && failed+=("$name (no time)") && return 1
    fi
    echo "== $name"
    timeout --signal="${signal:-INT}" --kill-after=8 "$most" "$@"
    status=$?
    echo "== $name: $((SECONDS - begin)) s"
    [ $status -eq 0 ] || failed+=("$name (status $status)")
    return $status
}
finish() {
    echo "== $SECONDS s in all; results in $results"
    [ ${#failed[@]} -eq 0 ] || { printf 'failed or cut off: %s\n' "${failed[@]}" >&2; exit 1; }
    exit 0
}

if [ -n "$source" ]; then
    # pip builds without isolation and without an index: nvcc and PyTorch are the machine's.
    export MAX_JOBS=${MAX_JOBS:-$(nproc)} MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE results=$built
    for each in "$source-causal-conv1d" "$source"; do
        [ -d "$each" ] || continue
        part "build of $(basename "$each")" 420 "$python" -m pip install --no-index --no-deps --no-build-isolation \
            --no-warn-conflicts --upgrade --target "$built" "$each"
    done
    finish
fi

part "what is there" 60 "$python" - <<'CHECK' || exit 1
import sys
import torch

if not torch.cuda.is_available():
    sys.exit("no CUDA device: this script measures one; the kernels' tests run without, see test_triton_*.py in tests/ops")
import numpy
import recbole.quick_start
import triton

import recbole_glintru

print(f"{torch.cuda.get_device_name()}; Python {sys.version.split()[0]}, PyTorch {torch.__version__}, "
      f"Triton {triton.__version__}, NumPy {numpy.__version__}, RecBole {recbole.__version__}")
CHECK

check_kernels() { # in as many processes as there are cores, for most of the time is compilation
    local flags=(-p no:cacheprovider -p recbole_glintru) shards i pids=() status=0
    "$python" -m pytest -q "${flags[@]}" --collect-only tests/ops/gru/test_triton_gru.py \
        tests/ops/convolution/test_triton_convolution.py tests/ops/scan/test_triton_scan.py \
        tests/ops/test_triton_training.py tests/ops/test_cross_entropy.py tests/ops/test_embedding_gradients.py \
        tests/ops/histories/test_host_lengths.py tests/test_device_data.py >"$work/collected" 2>&1 ||
        { tail -n 30 "$work/collected"; return 1; }
    grep '::' "$work/collected" >"$work/tests"
    for file in triton_gru triton_convolution triton_scan; do
        grep -q "test_$file" "$work/tests" || { echo "no tests in test_$file.py: Triton is not usable" && return 1; }
    done
    shards=$(nproc)
    [ "$shards" -gt 12 ] && shards=12
    for ((i = 0; i < shards; i++)); do
        awk -v n="$shards" -v i="$i" 'NR % n == i' "$work/tests" >"$work/shard$i"
        [ -s "$work/shard$i" ] || continue
        xargs -d '\n' -a "$work/shard$i" "$python" -m pytest -v --tb=short "${flags[@]}" >"$work/log$i" 2>&1 &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || status=1; done
    return $status
}
export -f check_kernels

# Kernels are compiled in all processes at once, before anything is timed.
part "compiling" 75 "$python" benchmarks/fill_cache.py
if [ -z "$data" ]; then
    # TERM: what is started with & ignores INT, and would go on beside the measurements.
    signal=TERM part "tests of the kernels" 100 bash -c check_kernels ||
        grep -hE '^(E  |FAILED|ERROR)|::.* (FAILED|ERROR)' "$work"/log* | head -n 60
    mkdir -p "$results" && cat "$work"/log* >"$results/gpu-tests.log" 2>/dev/null
    grep -hE '(passed|failed|skipped).* in ' "$results/gpu-tests.log" # of each process
fi
efficiency=("$python" benchmarks/efficiency.py --device cuda --output "$results")
kernels=("$python" benchmarks/kernels.py --output "$results")
if [ -n "$data" ]; then
    part "table, ml-1m" 240 "${efficiency[@]}" --dataset ml-1m --data_path "$data" --budget 190
    part "table, amazon-beauty" 220 "${efficiency[@]}" --dataset amazon-beauty --data_path "$data" --budget 150
elif [ -n "$quick" ]; then
    part "kernels" 70 "${kernels[@]}" --parts agreement ceilings gru convolution
    part "table, beauty" 45 "${efficiency[@]}" --shape beauty --models GLINTRU GLINTRU-plain Mamba4Rec SASRec \
        --turns 3 --budget 20 --evaluation_seconds 1
else
    part "kernels" 120 "${kernels[@]}" --parts agreement ceilings gru convolution epoch step scan projection
    short=(--evaluation_seconds 2 --epoch_seconds 3)
    part "table, ml-1m" 78 "${efficiency[@]}" --shape ml-1m --budget 52 "${short[@]}"
    part "table, beauty" 68 "${efficiency[@]}" --shape beauty --budget 44 "${short[@]}"
    part "growth with the layers, the paper's Table 7" 38 "${efficiency[@]}" --shape beauty --growth layers --budget 18
    part "growth with the length" 42 "${efficiency[@]}" --shape ml-1m --growth length --budget 22
    for shape in ml-1m beauty; do
        part "table, $shape, bfloat16" 32 "${efficiency[@]}" --shape "$shape" --bfloat16 --budget 14 --turns 4 \
            --models GLINTRU GLINTRU-plain Mamba4Rec LinRec GRU4Rec SASRec
    done
    part "tail and compiled steps" 70 "${kernels[@]}" --parts tail compiled
    part "what the kernels take" 60 "$python" benchmarks/compile_kernels.py --device-capability --only =128
fi
finish
