#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Kernel and conformance tests of the NEON kernels under qemu-user, with and without sdot.
# Needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user. Exit 77 where one is missing.
#   scripts/check-arm.sh [SHAPES]
set -eu
cd "$(dirname "$0")/.."
shapes=${1:-20}
cc=aarch64-linux-gnu-gcc
root=/usr/aarch64-linux-gnu
for need in $cc qemu-aarch64; do
    command -v "$need" >/dev/null || { echo "check-arm: $need is missing"; exit 77; }
done
[ -e $root/include/stdio.h ] || { echo "check-arm: libc6-dev-arm64-cross is missing"; exit 77; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
core="src/base/status.c src/base/memory.c src/base/rng.c $(echo src/cpu/*.c) src/kernels/table.c
    src/kernels/walk.c src/kernels/selfcheck.c src/kernels/ref/conv_ref.c
    $(echo src/kernels/arm/conv_*.c) tests/kernel/cases.c"
flags="-O2 -std=c11 -D_POSIX_C_SOURCE=200809L -Iinclude -Isrc -Itests/kernel"
# shellcheck disable=SC2086 # lists of files and flags
$cc $flags $core tests/kernel/kcheck.c tests/kernel/bench.c -lm -o "$out/kcheck"
# shellcheck disable=SC2086
$cc $flags $core tests/conformance/conformance.c -lm -o "$out/conformance"
qemu-aarch64 -L $root "$out/kcheck" --shapes "$shapes"
BITBRANCH_CPU=neon qemu-aarch64 -L $root "$out/kcheck" --shapes "$shapes"
qemu-aarch64 -L $root "$out/conformance" --shapes "$shapes"
