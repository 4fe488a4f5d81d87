#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The installed command starts; examples/c builds against the installed library through pkg-config
# and names a picture's class.
#   consumer.sh SOURCE BUILD BITBRANCH
set -eu
root=$1 build=$2 bitbranch=$3
data=/usr/share/datasets/fashion-mnist
[ -d "$data" ] || { echo "skipped: no $data (Debian package dataset-fashion-mnist)"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
DESTDIR=$work/root meson install -C "$build" --no-rebuild >"$work/install.txt"
"$(find "$work/root" -name bitbranch -type f)" --version # finds its library where it lies
PKG_CONFIG_PATH=$(dirname "$(find "$work/root" -name bitbranch.pc)")
library=$(dirname "$(find "$work/root" -name libbitbranch.so)")
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR="$work/root"
cp -r "$root/examples/c" "$work/example"
flags='-std=c99 -Wall -Werror'
if nm -D "$library/libbitbranch.so" | grep -q __asan_; then # a sanitized library needs its runtime
    flags="$flags -fsanitize=address,undefined"
fi
make -C "$work/example" CFLAGS="$flags"

"$bitbranch" quantize "$root/examples/fashion-mnist/fashion.onnx" "$work/fashion.bbm" \
    --calib "$data" --calib-count 64 -w 4 -a 4 --effort fast >/dev/null
# The first test image, an ankle boot; 16 bytes of header go before it.
{
    printf 'P5\n28 28\n255\n'
    zcat "$data/t10k-images-idx3-ubyte.gz" | tail -c +17 | head -c 784
} >"$work/boot.pgm"
LD_LIBRARY_PATH=$library "$work/example/classify" "$work/fashion.bbm" "$work/boot.pgm" |
    tee "$work/answer.txt"
grep -q '^class 9, score .*: Ankle boot$' "$work/answer.txt"
for wrong in "$work/boot.pgm $work/boot.pgm" "$work/fashion.bbm $work/fashion.bbm"; do
    # shellcheck disable=SC2086
    if LD_LIBRARY_PATH=$library "$work/example/classify" $wrong; then
        echo "no error from: classify $wrong" >&2
        exit 1
    fi
done
