#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# libbitbranch builds without a build system: one cc line, no flags for instruction sets.
set -eu
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
files=$(find src/base src/cpu src/encode src/model src/format src/kernels src/engine -name '*.c' \
    ! -name file_gz.c)
cat >"$work/main.c" <<'C'
#include "bitbranch/bitbranch.h"
#include <string.h>
int main(void) {
    bb_model *model = NULL;
    bb_error err;
    return bb_model_load("/nonexistent.bbm", &model, &err) == BB_STATUS_IO ? strlen(err.message) == 0 : 1;
}
C
# shellcheck disable=SC2086
${CC:-cc} -O2 -D_POSIX_C_SOURCE=200809L -ffp-contract=off -Iinclude -Isrc $files "$work/main.c" \
    -o "$work/main" -lm -lpthread
"$work/main"
