#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of one build folder and ends with one line that counts them.
#   scripts/check.sh BUILD [meson test arguments]
set -u
build=$1
shift
meson test -C "$build" --print-errorlogs "$@"
code=$?
python3 - "$build/meson-logs/testlog.json" <<'P'
import collections, json, re, sys
counts = collections.Counter()
skipped, single = [], []
for line in open(sys.argv[1]):
    test = json.loads(line)
    counts[test["result"]] += 1
    if test["result"] == "SKIP":
        skipped.append(test["name"])
    # Single tests of a program that passes (cmocka).
    parts = re.findall(r"^\[  SKIPPED \] (\w+)$", test.get("stdout", "") + test.get("stderr", ""), re.M)
    single += [f"{test['name']}: {part}" for part in dict.fromkeys(parts)]
for name in skipped + single:
    print("skipped:", name)
good = counts["OK"] + counts["EXPECTEDFAIL"]
bad = sum(counts.values()) - good - counts["SKIP"]
within = f", and {len(single)} single cases of those that passed" if single else ""
print(f"{good} passed, {bad} failed, {len(skipped)} skipped{within}")
P
exit $code
