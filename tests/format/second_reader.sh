#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The reader written from docs/format.md alone sees the same model as the C reader.
# usage: second_reader.sh DUMP PYTHON READER
set -eu
dump=$1 python=$2 reader=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$dump" --sample "$dir/sample.bbm"
"$dump" "$dir/sample.bbm" >"$dir/c.txt"
"$python" -B "$reader" --dump "$dir/sample.bbm" >"$dir/python.txt"
cmp "$dir/c.txt" "$dir/python.txt"
test "$(wc -l <"$dir/c.txt")" -gt 200
"$python" -B "$reader" "$dir/sample.bbm" >"$dir/summary.txt"
grep -q '^profiles: w4a4, w2a2$' "$dir/summary.txt"
# One flipped bit is noticed by both.
"$python" - "$dir/sample.bbm" <<'EOF'
import sys
data = bytearray(open(sys.argv[1], "rb").read())
data[len(data) // 2] ^= 4
open(sys.argv[1], "wb").write(data)
EOF
if "$python" -B "$reader" "$dir/sample.bbm" 2>/dev/null || "$dump" "$dir/sample.bbm" 2>/dev/null; then
    echo "a corrupt file was read" >&2
    exit 1
fi
