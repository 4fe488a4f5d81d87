#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The demo: a small Fashion-MNIST network at five bit widths, beside its float original.
#   scripts/demo.sh [BUILD]     results go to BUILD/demo
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
bitbranch=$build/tools/bitbranch
network=examples/fashion-mnist/fashion.onnx
data=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
out=$build/demo
settings="w8a8 w4a4 w2a2 w1a2 w1a1"

[ -e "$data/t10k-images-idx3-ubyte.gz" ] || [ -e "$data/t10k-images-idx3-ubyte" ] || {
    echo "demo: no Fashion-MNIST in $data; install the Debian package dataset-fashion-mnist" >&2
    exit 1
}
mkdir -p "$out"

# The number of key $1 in the JSON on stdin.
number() {
    sed -n "s/^ *\"$1\": *\([0-9.eE+-]*\),*$/\1/p" | head -n 1
}

row() { # bits accuracy float-accuracy bytes float-bytes ms float-ms
    awk -v bits="$1" -v top="$2" -v ref="$3" -v bytes="$4" -v all="$5" -v ms="$6" -v slow="$7" '
    BEGIN {
        printf "%-8s %9.2f %% %8.2f %10d %8.1f %10.4f %8.1f\n", bits, top, top - ref, bytes,
               all / bytes, ms, slow / ms
    }'
}

echo "Network: $network; 1000 training images to calibrate, 10000 test images; one thread."
float=$("$bitbranch" eval "$network" "$data" --split test -o json)
float_top=$(echo "$float" | number top1)
float_ms=$(echo "$float" | number ms_per_image)
float_bytes=$("$bitbranch" info "$network" -o json | number float32_bytes)

printf '%-8s %11s %8s %10s %8s %10s %8s\n' bits accuracy change bytes smaller ms/image faster
row float32 "$float_top" "$float_top" "$float_bytes" "$float_bytes" "$float_ms" "$float_ms"
for bits in $settings; do
    k=${bits#w} k=${k%a*} m=${bits#*a}
    model=$out/fashion-$bits.bbm
    "$bitbranch" quantize "$network" "$model" --calib "$data" --calib-count 1000 \
        -w "$k" -a "$m" >"$out/quantize-$bits.txt" 2>"$out/log.txt" || { cat "$out/log.txt" >&2; exit 1; }
    result=$("$bitbranch" eval "$model" "$data" --split test -o json)
    bytes=$("$bitbranch" info "$model" -o json | number file_bytes)
    row "$bits" "$(echo "$result" | number top1)" "$float_top" "$bytes" "$float_bytes" \
        "$(echo "$result" | number ms_per_image)" "$float_ms"
done
echo "wKaM: K weight bits, M activation bits (first and last layer w8a8). change: points against"
echo "float32. bytes: the whole file. smaller, faster: times, against float32 (oneDNN)."

"$bitbranch" run "$out/fashion-w2a2.bbm" "$data" --split test --limit 24 --out "$out" \
    >"$out/classes.txt"
echo "Test images as the w2a2 network sees them: $out/classes.png"
