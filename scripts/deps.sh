#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that building and testing need and that are missing here.
set -eu
packages="meson ninja-build pkg-config gcc libc6-dev libdnnl-dev libopenblas-openmp-dev
liblapacke-dev libprotobuf-c-dev protobuf-c-compiler libonnx-dev libonnx-testdata libjansson-dev
libjpeg62-turbo-dev libpng-dev zlib1g-dev libcmocka-dev clang-format dataset-fashion-mnist python3"
missing=
for p in $packages; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
line="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo=sudo
else
    echo "bitbranch needs these Debian packages; as root, run:" >&2
    echo "  $line" >&2
    exit 1
fi
echo "Installing missing packages: $sudo $line"
if ! { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo $line >/dev/null; }; then
    echo "Installing failed; as root, run:" >&2
    echo "  apt-get update && $line" >&2
    exit 1
fi
