#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The shared libraries export names that begin with bb_ and nothing else.
set -eu
for library in "$@"; do
    stray=$(nm -D --defined-only "$library" | awk '{print $3}' | grep -v '^bb_' || true)
    if [ -n "$stray" ]; then
        echo "$library exports:" $stray
        exit 1
    fi
    nm -D --defined-only "$library" | grep -q ' bb_model_load$' || {
        echo "$library does not export bb_model_load"
        exit 1
    }
done
