# SPDX-License-Identifier: Apache-2.0
# quantize --effort best: better than the default on images not calibrated with, and the same bytes
# again. Skipped without the Debian package dataset-fashion-mnist.
data=/usr/share/datasets/fashion-mnist
[ -e $data ] || { echo "no $data (Debian package dataset-fashion-mnist)" >&2; exit 77; }
net=$ROOT/examples/fashion-mnist/fashion.onnx
number() { sed -n "s/^ *\"$1\": *\([0-9.eE+-]*\),*$/\1/p" | head -n 1; }
top1() { bitbranch eval "$1" $data -o json 2>/dev/null | number top1; }
above() { awk -v x="$1" -v min="$2" 'BEGIN { exit !(x > min) }' || { echo "$1 is not above $2" >&2; exit 1; }; }

bitbranch quantize "$net" default.bbm --calib $data --calib-count 128 -w 1 -a 2 >table.txt 2>log.txt
for i in 1 2; do
    bitbranch quantize "$net" best$i.bbm --calib $data --calib-count 128 -w 1 -a 2 --effort best \
        >table.txt 2>log.txt
done
cmp best1.bbm best2.bbm
echo "the same bytes again"
above "$(top1 best1.bbm)" "$(awk -v x="$(top1 default.bbm)" 'BEGIN { print x + 0.3 }')"
echo "best effort is better"
