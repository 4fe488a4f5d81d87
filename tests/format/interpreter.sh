#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The interpreter written from docs/format.md alone computes the same bits as the engine.
# usage: interpreter.sh DUMP RUN PYTHON INTERPRETER
set -eu
dump=$1 run=$2 python=$3 interpreter=$4
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$dump" --sample "$dir/sample.bbm"
"$run" "$dir/sample.bbm" >"$dir/c.txt"
"$python" -B "$interpreter" "$dir/sample.bbm" >"$dir/python.txt"
cmp "$dir/c.txt" "$dir/python.txt"
test "$(grep -c ': ' "$dir/c.txt")" -ge 36
# What is no model is refused in one line.
if "$python" -B "$interpreter" "$dir/c.txt" 2>"$dir/refused.txt"; then exit 1; fi
test "$(cat "$dir/refused.txt")" = "$dir/c.txt: not a .bbm file"
# A truncated file computes what the whole one computes at that profile.
"$dump" --truncated "$dir/small.bbm"
"$run" "$dir/small.bbm" >"$dir/small.txt"
sed -n '/^profile w2a2$/,$p' "$dir/c.txt" | cmp - "$dir/small.txt"
test "$(wc -c <"$dir/small.bbm")" -lt "$(wc -c <"$dir/sample.bbm")"
