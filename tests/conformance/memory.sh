#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# memory.sh BITBRANCH BENCH_ENGINE DATA: engine and context of ResNet-18 at w2a2 take less than 12
# MiB besides the file, on every instruction set: of a network of that shape with random weights,
# and of the trained one where the data are present.
set -eu
bitbranch=$1 bench=$2 data=${BITBRANCH_DATA:-$3}
limit=$((12 * 1024 * 1024))
failed=0
check() { # NAME BYTES
    if [ "$2" -gt 1000000 ] && [ "$2" -lt $limit ]; then
        echo "ok   $1: $2 bytes"
    else
        echo "FAIL $1: $2 bytes, the limit is $limit"
        failed=1
    fi
}

model=${TMPDIR:-/tmp}/bitbranch-memory-$$.bbm
trap 'rm -f "$model"' EXIT
onnx=$data/models/resnet18_imagenet/resnet18_pqf.onnx
images=$data/datasets/imagenet_train1000/train.txt
if [ -e "$onnx" ] && [ -e "$images" ]; then
    # Codes do not change sizes: two images are enough for the scales.
    "$bitbranch" quantize "$onnx" "$model" -c "$images" -n 2 -e fast -w 2 -a 2 >/dev/null 2>&1
else
    echo "no ResNet-18 in $data: only the network with random weights"
fi
for cpu in all avx512vbmi avx512vnni avx512 avxvnni avx2 ssse3; do
    for threads in 1 2; do
        mask=$cpu
        [ "$cpu" != all ] || mask=
        bytes=$(BITBRANCH_CPU=$mask "$bench" -w 2 -a 2 -n 1 -t $threads |
            sed 's/.*engine \([0-9.]*\) MiB, context \([0-9.]*\) MiB/\1 \2/' |
            awk '{ printf "%d", ($1 + $2) * 1048576 }')
        check "random weights, $cpu, $threads threads" "${bytes:-0}"
        [ -e "$model" ] || continue
        bytes=$(BITBRANCH_CPU=$mask "$bitbranch" info "$model" -t $threads -o json |
            awk -F'[:,]' '/"engine_bytes"|"context_bytes"/ { n += $2 } END { printf "%d", n }')
        check "trained, $cpu, $threads threads" "${bytes:-0}"
    done
done
exit $failed
