# SPDX-License-Identifier: Apache-2.0
# The main job end to end on the example network: quantize with two profiles, inspect, evaluate,
# verify, truncate, run. Skipped without the Debian package dataset-fashion-mnist.
data=/usr/share/datasets/fashion-mnist
[ -e $data ] || { echo "no $data (Debian package dataset-fashion-mnist)" >&2; exit 77; }
net=$ROOT/examples/fashion-mnist/fashion.onnx
number() { sed -n "s/^ *\"$1\": *\([0-9.eE+-]*\),*$/\1/p" | head -n 1; }
above() { awk -v x="$1" -v min="$2" 'BEGIN { exit !(x > min) }' || { echo "$1 is not above $2" >&2; exit 1; }; }

bitbranch quantize "$net" dry.bbm --dry-run -w 2 -a 2 >dry.txt
grep -q 'w2a2' dry.txt
grep -q 'w8a8' dry.txt
[ ! -e dry.bbm ]

bitbranch quantize "$net" a.bbm --calib $data --calib-count 64 --profiles w4a4,w2a4 --seed 7 \
    >table.txt 2>log.txt
bitbranch quantize "$net" b.bbm --calib $data --calib-count 64 --profiles w4a4,w2a4 --seed 7 \
    --threads 2 >table2.txt 2>log.txt
cmp a.bbm b.bbm
echo "same bytes with one and two threads"

bitbranch info a.bbm | grep profiles
above "$(bitbranch eval a.bbm $data --limit 1000 -o json 2>/dev/null | number top1)" 87
above "$(bitbranch eval a.bbm $data --limit 1000 -w 2 -a 4 -o json 2>/dev/null | number top1)" 70
above "$(bitbranch eval "$net" $data --limit 1000 -o json 2>/dev/null | number top1)" 90
refuses 1 "profile.*w4a4.*w2a4" bitbranch eval a.bbm $data --limit 10 -w 3 -a 3
refuses 1 "split 'test'" bitbranch quantize "$net" c.bbm --calib $data --calib-split test
[ ! -e c.bbm ]

bitbranch verify a.bbm "$net" --data $data --limit 3 >verify.txt 2>/dev/null
tail -n 1 verify.txt | sed 's/(.*threads)/(...)/'
above "$(awk '/^scores/ { print $4; exit }' verify.txt)" 5

bitbranch truncate a.bbm small.bbm -w 2 -a 4
[ "$(stat -c %s small.bbm)" -lt "$(stat -c %s a.bbm)" ]
bitbranch eval a.bbm $data --limit 200 -w 2 -a 4 --predictions full.csv >/dev/null 2>&1
bitbranch eval small.bbm $data --limit 200 --predictions small.csv >/dev/null 2>&1
cmp full.csv small.csv
echo "truncated file gives the same classes"

bitbranch run small.bbm $data --limit 3 --out pictures >run.txt
tail -n 1 run.txt
head -c 8 pictures/classes.png | od -An -c | head -n 1
status 0 bitbranch bench a.bbm --reps 3 --layers -o md >/dev/null
# On a machine with vector instructions it is a defect if nobody asked for the reference kernel.
if ! bitbranch info a.bbm | grep -q 'processor *ref'; then
    status 1 env BITBRANCH_KERNEL=conv_ref bitbranch bench a.bbm --reps 1 >/dev/null 2>stderr.txt
    grep -q "ran on the reference kernel conv_ref" stderr.txt
    status 0 bitbranch bench a.bbm --reps 1 --kernel conv_ref >/dev/null
fi
bitbranch bench a.bbm --reps 1 --layers -o csv >layers.csv
[ "$(awk -F, 'NF != 6' layers.csv | wc -l)" = 0 ]
[ "$(wc -l <layers.csv)" -gt 5 ]
bitbranch bench a.bbm --reps 2 --pause 1 --layers --tune -t 2 -o json >tuned.json
grep -q '"measured_ms"' tuned.json
bitbranch bench a.bbm --reps 2 --layers --tune | grep -q 'measured'
bitbranch eval a.bbm $data --limit 50 --tune --predictions tuned.csv >/dev/null 2>&1
for cpu in ref ssse3 avx2; do
    bitbranch eval a.bbm $data --limit 50 --cpu $cpu --predictions $cpu.csv >/dev/null 2>&1
    cmp ref.csv $cpu.csv
done
cmp ref.csv tuned.csv

bitbranch quantize "$net" cut.bbm --calib $data --calib-count 4 --effort fast --outputs conv2.act \
    >/dev/null 2>&1
bitbranch info cut.bbm --layers | grep -q 'conv2'
if bitbranch info cut.bbm --layers | grep -q 'conv3'; then exit 1; fi
echo "cut behind the second convolution"
refuses 1 "no tensor 'nowhere'" bitbranch quantize "$net" no.bbm --calib $data --outputs nowhere
