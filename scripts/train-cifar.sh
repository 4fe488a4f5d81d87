#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Trains the CIFAR-10 table (examples/cifar10) for at most MINUTES; calling it again goes on.
#   CIFAR10_TRAIN=FOLDER CIFAR10_TEST=FOLDER scripts/train-cifar.sh BUILD [MINUTES] [CONFIG...]
# FOLDERs are data sets as `bitbranch eval` reads them. THREADS (all processors) must stay the same
# from call to call. Results: build/train/NAME/results.json.
set -eu
cd "$(dirname "$0")/.."
build=${1:?usage: train-cifar.sh BUILD [MINUTES] [CONFIG...]}
minutes=${2:-100000}
shift; [ $# = 0 ] || shift
[ $# -gt 0 ] || set -- examples/cifar10/resnet20.json examples/cifar10/vgg-small.json
: "${CIFAR10_TRAIN:?the folder of the training images}" "${CIFAR10_TEST:?the folder of the test images}"
export CIFAR10_TRAIN CIFAR10_TEST OMP_WAIT_POLICY=passive
threads=${THREADS:-$(nproc)}
end=$(($(date +%s) + 60 * minutes))

for config in "$@"; do
    left=$(((end - $(date +%s)) / 60))
    [ "$left" -ge 1 ] || { echo "$config: no time left"; exit 1; }
    nice -n 19 "$build/tools/bitbranch" train "$config" --threads "$threads" --max-minutes "$left"
done
