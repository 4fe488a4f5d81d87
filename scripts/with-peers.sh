#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs a Python script with the packages that only comparisons need, from a folder of their own:
#   scripts/with-peers.sh BUILD SCRIPT [ARGUMENTS]
set -eu
venv=$1/peers-venv
shift
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv" || { echo "needs the Debian package python3-venv" >&2; exit 1; }
    # Half an environment would be taken for a whole one the next time.
    "$venv/bin/pip" install -q onnx onnxruntime numpy || { rm -rf "$venv"; exit 1; }
fi
exec "$venv/bin/python" "$@"
