#!/usr/bin/env bash
# Everything about a GPU in one command, in under ten minutes: builds and checks the kernels, then measures.
#
#     bash benchmarks/gpu.sh                     # results in benchmarks/results/
#     bash benchmarks/gpu.sh --data DIR          # also on DIR/ml-1m/ml-1m.inter and DIR/amazon-beauty/amazon-beauty.inter
#     bash benchmarks/gpu.sh --mamba-ssm DIR     # first builds the mamba-ssm whose source is DIR, and DIR-causal-conv1d
#     bash benchmarks/gpu.sh --quick             # checks, and one short table
#
# Installs nothing and needs no network: PyTorch with CUDA, Triton and RecBole (its dependencies may be missing, Ray
# among them) are there, or in wheels that are unpacked on PYTHONPATH. Ends with an error if a check fails; what could
# be measured is written all the same.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
results=${RESULTS:-benchmarks/results}
limit=${SECONDS_LEFT:-585}
data="" mamba="" quick=""
while [ $# -gt 0 ]; do
    case "$1" in
        --data) data=$(cd "$2" && pwd) && shift 2 || { echo "--data ${2-}: no such folder" >&2; exit 2; } ;;
        --mamba-ssm) mamba=$(cd "$2" && pwd) && shift 2 || { echo "--mamba-ssm ${2-}: no such folder" >&2; exit 2; } ;;
        --quick) quick=1 && shift ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
done
failed=()
left() { echo $((limit - SECONDS)); }
part() {  # part <name> <most seconds> <command ...>: at most that long, and never beyond the limit
    local name=$1 most=$2
    shift 2
    [ "$(left)" -lt "$most" ] && most=$(left)
    if [ "$most" -lt 10 ]; then
        echo "== $name: no time left" && failed+=("$name (no time)") && return
    fi
    echo "== $name"
    local begin=$SECONDS
    timeout --signal=INT --kill-after=10 "$most" "$@" || failed+=("$name")
    echo "== $name: $((SECONDS - begin)) s"
}

"$python" - <<'CHECK' || exit 1
import sys
import torch

if not torch.cuda.is_available():
    sys.exit("no CUDA device: this script measures one; the kernels' tests run without, see tests/ops/test_triton_*.py")
import numpy
import recbole
import triton

print(f"{torch.cuda.get_device_name()}; Python {sys.version.split()[0]}, PyTorch {torch.__version__}, "
      f"Triton {triton.__version__}, NumPy {numpy.__version__}, RecBole {recbole.__version__}")
CHECK

if [ -n "$mamba" ]; then
    # pip builds without isolation and without an index: nvcc and PyTorch are the machine's.
    site=$(mktemp -d)
    for source in "$mamba-causal-conv1d" "$mamba"; do
        [ -d "$source" ] || continue
        part "build of $(basename "$source")" 420 env MAX_JOBS=16 MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE \
            "$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$site" "$source"
    done
    export PYTHONPATH="$site:$PYTHONPATH"
fi

part "compiling" 60 "$python" benchmarks/compile_kernels.py --device-capability --only =128
workers=$("$python" -c "import xdist" 2>/dev/null && echo "-n 8")  # most of the time is compilation
part "tests of the kernels" 110 "$python" -m pytest -q -p no:cacheprovider -p recbole_glintru $workers \
    tests/ops/test_triton_gru.py tests/ops/test_triton_conv.py tests/ops/test_triton_scan.py \
    tests/ops/test_host_lengths.py tests/test_device_data.py
if [ -n "$quick" ]; then
    part "kernels" 120 "$python" benchmarks/kernels.py --parts ceilings gru convolution --output "$results"
else
    part "kernels" 150 "$python" benchmarks/kernels.py --output "$results"
    for shape in ml-1m beauty; do
        part "table, $shape" 85 "$python" benchmarks/efficiency.py --device cuda --shape "$shape" --budget 60 \
            --evaluation_seconds 2 --epoch_seconds 3 --output "$results"
    done
    part "growth with the layers, the paper's Table 7" 45 "$python" benchmarks/efficiency.py --device cuda \
        --shape beauty --growth layers --budget 35 --output "$results"
    part "growth with the length" 50 "$python" benchmarks/efficiency.py --device cuda --shape ml-1m --growth length \
        --budget 38 --output "$results"
    for name in ${data:+ml-1m amazon-beauty}; do
        part "table, $name" 120 "$python" benchmarks/efficiency.py --device cuda --dataset "$name" --data_path "$data" \
            --budget 80 --output "$results"
    done
fi
echo "== $SECONDS s in all; results in $results"
[ ${#failed[@]} -eq 0 ] || { printf 'failed or cut off: %s\n' "${failed[@]}" >&2; exit 1; }
