#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# float_scores.sh BITBRANCH DATA: float networks must score exactly what ONNX Runtime (or, for
# QONNX files, an interpreter of their own) scores on the same images: counts of right answers.
set -eu
bitbranch=$1
data=${BITBRANCH_DATA:-$2}
if [ ! -d "$data/models" ] || [ ! -d "$data/datasets" ]; then
    echo "no models and datasets in $data: skipped"
    exit 77
fi
failed=0
check() { # MODEL DATASET RIGHT IMAGES
    percent=$("$bitbranch" eval "$data/models/$1" "$data/datasets/$2" -o json 2>/dev/null |
        sed -n 's/.*"top1": *\([0-9.]*\).*/\1/p')
    want=$(awk "BEGIN { printf \"%.3f\", 100 * $3 / $4 }")
    got=$(awk "BEGIN { printf \"%.3f\", ${percent:-0} }")
    if [ "$got" = "$want" ]; then
        echo "ok   $1 on $2: $3 of $4"
    else
        echo "FAIL $1 on $2: $got % instead of $want %"
        failed=1
    fi
}
check resnet20_cifar10/resnet20_cifar10.onnx cifar10_exact 515 564
check resnet8_cifar10/resnet8_cifar10.onnx cifar10_exact 496 564
check cnv_lowbit_cifar10/cnv_w1a1.onnx cifar10_exact 454 564
check cnv_lowbit_cifar10/cnv_w1a2.onnx cifar10_exact 482 564
check cnv_lowbit_cifar10/cnv_w2a2_qonnx.onnx.gz cifar10_exact 482 564
check qonnx_small/TFC_1W1A.onnx mnist 6192 6667
check qonnx_small/TFC_1W2A.onnx mnist 6313 6667
check qonnx_small/TFC_2W2A.onnx mnist 6446 6667
check mobilenetv1_025_128_imagenet/mobilenetv1_025_128.onnx ilsvrc2012_val1300 464 867
exit $failed
