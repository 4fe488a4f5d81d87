#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compares the float run of ONNX networks with ONNX Runtime: check-peers.sh BUILD [DATA].
# Needs PyPI the first time.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:?usage: check-peers.sh BUILD [DATA]}
build=$(cd "$build" && pwd)
data=${2:-${BITBRANCH_DATA:-$root/../shared/data}}

peers() {
    "$root/scripts/with-peers.sh" "$build" "$@"
}

peers -c 'import PIL' 2>/dev/null || "$build/peers-venv/bin/pip" install -q pillow
ninja -C "$build" tests/peers/float_dump tests/peers/lowbit_dump tests/peers/rewrite
dump=$build/tests/peers/float_dump

if [ -f "$root/tests/peers/make_fixtures.py" ]; then
    fixtures=$build/peers-fixtures
    mkdir -p "$fixtures"
    peers "$root/tests/peers/make_fixtures.py" "$fixtures"
    peers "$root/tests/peers/compare_float.py" "$dump" "$fixtures"
    peers "$root/tests/peers/compare_rewrite.py" "$build/tests/peers/rewrite" "$fixtures"
fi
peers "$root/tests/peers/compare_lowbit.py" "$build/tests/peers/lowbit_dump"
if [ -d "$data/models" ]; then
    peers "$root/tests/peers/compare_float.py" "$dump" "$data/models" "$data/datasets"
    peers "$root/tests/peers/compare_rewrite.py" "$build/tests/peers/rewrite" "$data/models"
else
    echo "no models in $data: only the fixtures were compared"
fi
