#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Trains the CIFAR-10 table (examples/cifar10) for at most MINUTES; calling it again goes on.
#   CIFAR10_TRAIN=FOLDER CIFAR10_TEST=FOLDER scripts/train-cifar.sh BUILD [MINUTES] [CONFIG...]
# FOLDERs are data sets as `bitbranch eval` reads them. The configs are trained side by side, each
# with THREADS (1) threads: small networks gain little from more. THREADS must stay the same from
# call to call. PRECISION (f32) is bf16 or f32, see docs/training.md. Results: build/train/NAME/results.json.
set -eu
cd "$(dirname "$0")/.."
build=${1:?usage: train-cifar.sh BUILD [MINUTES] [CONFIG...]}
minutes=${2:-100000}
shift; [ $# = 0 ] || shift
[ $# -gt 0 ] || set -- examples/cifar10/resnet20.json examples/cifar10/vgg-small.json
: "${CIFAR10_TRAIN:?the folder of the training images}" "${CIFAR10_TEST:?the folder of the test images}"
export CIFAR10_TRAIN CIFAR10_TEST OMP_WAIT_POLICY=passive

jobs=
for config in "$@"; do
    nice -n 19 "$build/tools/bitbranch" train "$config" --threads "${THREADS:-1}" --precision "${PRECISION:-f32}" --max-minutes "$minutes" &
    jobs="$jobs $!"
done
# An interruption is for all of them: each writes its checkpoint.
trap 'kill $jobs 2>/dev/null || true' INT TERM
code=0
for job in $jobs; do
    wait "$job" || code=1
done
exit $code
