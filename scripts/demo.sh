#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The demo: a small Fashion-MNIST network at five bit widths, beside its float original.
#   scripts/demo.sh [BUILD]     results go to BUILD/demo
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
network=examples/fashion-mnist/fashion.onnx
data=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
out=$build/demo
settings="w8a8 w4a4 w2a2 w1a2 w1a1"

[ -e "$data/t10k-images-idx3-ubyte.gz" ] || [ -e "$data/t10k-images-idx3-ubyte" ] || {
    echo "demo: no Fashion-MNIST in $data; install the Debian package dataset-fashion-mnist" >&2
    exit 1
}
mkdir -p "$out"

# Runs the command; progress goes to a log, which is shown on failure.
bitbranch() {
    "$build/tools/bitbranch" "$@" 2>"$out/log.txt" || {
        cat "$out/log.txt" >&2
        exit 1
    }
}

# The number of key $1 in the JSON file $2.
number() {
    sed -n "s/^ *\"$1\": *\([0-9.eE+-]*\),*$/\1/p" "$2" | head -n 1
}

# Accuracy, median time and bytes of a model: sets top, ms, bytes.
measure() { # model key-of-bytes
    bitbranch eval "$1" "$data" --split test -o json >"$out/eval.json"
    bitbranch bench "$1" --reps 300 -o json >"$out/bench.json"
    bitbranch info "$1" -o json >"$out/info.json"
    top=$(number top1 "$out/eval.json")
    ms=$(number median_ms "$out/bench.json")
    bytes=$(number "$2" "$out/info.json")
}

row() {
    awk -v bits="$1" -v top="$top" -v ref="$float_top" -v bytes="$bytes" -v all="$float_bytes" \
        -v ms="$ms" -v slow="$float_ms" 'BEGIN {
        printf "%-8s %8.2f %% %8s %9d %8.1f %9.4f %8.1f\n", bits, top,
               bits == "float32" ? "" : sprintf("%+.2f", top - ref), bytes, all / bytes, ms,
               slow / ms
    }'
}

echo "$network: 1000 training images to calibrate, 10000 test images; one thread."
echo
printf '%-8s %10s %8s %9s %8s %9s %8s\n' bits accuracy change bytes smaller ms/image faster
measure "$network" float32_bytes
float_top=$top float_bytes=$bytes float_ms=$ms
row float32
for bits in $settings; do
    k=${bits#w} k=${k%a*} m=${bits#*a}
    model=$out/fashion-$bits.bbm
    bitbranch quantize "$network" "$model" --calib "$data" --calib-count 1000 -w "$k" -a "$m" \
        >"$out/quantize-$bits.txt"
    measure "$model" file_bytes
    row "$bits"
done
echo
echo "wKaM: K weight bits, M activation bits; first and last layer w8a8. change: points against"
echo "float32. bytes: the whole file. smaller, faster: times, against float32 (oneDNN)."

bitbranch run "$out/fashion-w2a2.bbm" "$data" --split test --limit 24 --out "$out" \
    >"$out/classes.txt"
echo "Test images as the w2a2 network sees them: $out/classes.png"
