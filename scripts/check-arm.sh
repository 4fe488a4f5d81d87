#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The NEON kernels under qemu-user, exact against the reference and the conformance tests: 64-bit Arm
# with and without sdot, 32-bit Arm with NEON (armv7). Needs qemu-user and the cross compilers
# gcc-aarch64-linux-gnu, gcc-arm-linux-gnueabihf with libc6-dev-{arm64,armhf}-cross. Exit 77 where one
# is missing.
#   scripts/check-arm.sh [SHAPES]
set -eu
cd "$(dirname "$0")/.."
shapes=${1:-20}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
core="src/base/status.c src/base/utf8.c src/base/memory.c src/base/rng.c $(echo src/cpu/*.c) $(echo src/kernels/*.c)
    $(echo src/kernels/ref/*.c) $(echo src/kernels/arm/*.c) tests/kernel/cases.c"
flags="-O2 -std=c11 -ffp-contract=off -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wno-unused-parameter
    -Werror -Iinclude -Isrc -Itests/kernel"

# NAME TRIPLET QEMU [FLAG...]: builds and runs everything for one architecture.
check() {
    name=$1 triplet=$2 qemu="$3 -L /usr/$2"
    shift 3
    for need in "$triplet-gcc" "${qemu%% *}"; do
        command -v "$need" >/dev/null || { echo "check-arm: $need is missing"; exit 77; }
    done
    [ -e "/usr/$triplet/include/stdio.h" ] || { echo "check-arm: no C library for $name"; exit 77; }
    echo "== $name"
    # shellcheck disable=SC2086 # lists of files and flags
    {
        $triplet-gcc $flags "$@" $core tests/kernel/kcheck.c tests/kernel/bench.c -lm -o "$out/kcheck"
        $triplet-gcc $flags "$@" $core tests/kernel/code_check.c tests/kernel/code_bench.c \
            tests/kernel/bench.c -lm -o "$out/code_check"
        $triplet-gcc $flags "$@" $core tests/conformance/conformance.c -lm -o "$out/conformance"
        $qemu "$out/kcheck" --shapes "$shapes"
        BITBRANCH_CPU=neon $qemu "$out/kcheck" --shapes "$shapes"
        $qemu "$out/code_check"
        $qemu "$out/conformance" --shapes "$shapes"
    }
}
check "64-bit Arm" aarch64-linux-gnu qemu-aarch64
check "32-bit Arm" arm-linux-gnueabihf qemu-arm -march=armv7-a -mfpu=neon
