#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs one command-line test: run.sh BITBRANCH CASE.sh
# The case runs in an empty folder with `bitbranch` on its PATH and $ROOT the source tree. What it
# prints on stdout must equal CASE.out exactly; it fails by exiting non-zero. 77 = skipped.
set -u
bitbranch=$(realpath "$1")
case=$(realpath "$2")
ROOT=$(realpath "$(dirname "$0")/../..")
export ROOT
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/cwd"
ln -s "$bitbranch" "$work/bin/bitbranch"
PATH=$work/bin:$PATH
export PATH
cd "$work/cwd" || exit 1
# `status CODE COMMAND...`: the command must exit with CODE; `refuses CODE PATTERN COMMAND...` also
# wants one line on stderr that matches.
cat >"$work/lib.sh" <<'L'
set -eu
status() {
    want=$1; shift
    got=0; "$@" || got=$?
    [ "$got" = "$want" ] || { echo "exit $got, not $want: $*" >&2; exit 1; }
}
refuses() {
    want=$1 pattern=$2; shift 2
    got=0; "$@" >/dev/null 2>stderr.txt || got=$?
    [ "$got" = "$want" ] || { echo "exit $got, not $want: $*" >&2; cat stderr.txt >&2; exit 1; }
    grep -q "$pattern" stderr.txt || { echo "no '$pattern' from: $*" >&2; cat stderr.txt >&2; exit 1; }
    [ "$want" != 1 ] || [ "$(grep -c '' stderr.txt)" = 1 ] || {
        echo "more than one line from: $*" >&2; cat stderr.txt >&2; exit 1; }
}
L
sh -c '. "$0"; . "$1"' "$work/lib.sh" "$case" >"$work/stdout" 2>"$work/stderr"
code=$?
cat "$work/stderr" >&2
# A command may have failed without a word: what was printed before shows where.
[ $code = 0 ] || { echo "exit $code after printing:" >&2; tail -n 5 "$work/stdout" >&2; exit $code; }
diff -u "${case%.sh}.out" "$work/stdout"
