# SPDX-License-Identifier: Apache-2.0
# Output that cannot be written, messages that must name the file, many arguments, odd configs.
# Skipped without the Debian package dataset-fashion-mnist.
data=/usr/share/datasets/fashion-mnist
[ -e $data ] || { echo "no $data (Debian package dataset-fashion-mnist)" >&2; exit 77; }
net=$ROOT/examples/fashion-mnist/fashion.onnx
bitbranch quantize "$net" net.bbm --calib $data --calib-count 8 --effort fast >table.txt 2>log.txt

# A full disk is no success, whatever the verb.
fills() {
    got=0; "$@" >/dev/full 2>stderr.txt || got=$?
    [ "$got" = 1 ] || { echo "exit $got, not 1: $*" >&2; exit 1; }
    grep -q 'cannot write the output: No space left' stderr.txt
}
fills bitbranch --help
fills bitbranch info net.bbm
fills bitbranch info net.bbm -o json
fills bitbranch eval net.bbm $data --limit 2 -o json
fills bitbranch explain -w 1 -a 1
status 1 bitbranch eval net.bbm $data --limit 50 --predictions /dev/full >/dev/null 2>stderr.txt
grep -q '/dev/full: cannot write' stderr.txt

# Where the result cannot go is said before the work, not after it.
refuses 1 "nowhere/x.bbm: cannot create" bitbranch quantize "$net" nowhere/x.bbm --calib $data
mkdir folder
refuses 1 "folder: not a regular file" bitbranch quantize "$net" folder --calib $data
refuses 1 "/dev/null: not a regular file" bitbranch truncate net.bbm /dev/null -w 8
ls folder

# Messages name the file.
refuses 1 "net.bbm: the model has no profile" bitbranch info net.bbm -w 3
refuses 1 "net.bbm: the model has no profile" bitbranch truncate net.bbm out.bbm -w 3
refuses 1 "net.bbm: the model has no profile" bitbranch export qonnx net.bbm out -a 3
refuses 1 "kernel 'nothing'" bitbranch bench net.bbm --kernel nothing
refuses 1 "known are ref" bitbranch bench net.bbm --cpu nothing
refuses 1 "fashion.onnx runs in float" bitbranch bench "$net" --kernel conv_ref

# Names that are not ASCII, more arguments than any fixed table, as a shell's *.pgm gives them.
mkdir 'Bilder für Ünïcode'
cp net.bbm 'Bilder für Ünïcode/ネット.bbm'
i=0
while [ $i -lt 300 ]; do
    { printf 'P5\n28 28\n255\n'; head -c 784 /dev/zero; } >"Bilder für Ünïcode/$i.pgm"
    i=$((i + 1))
done
bitbranch run 'Bilder für Ünïcode/ネット.bbm' 'Bilder für Ünïcode'/*.pgm -k 1 | grep -c '\.pgm$'
# An image that does not fit is named, and a model that does not fit its config.
sed 's/28/64/; s/"none"/"stretch"/' "${net%.onnx}.json" >large.json
cp "$ROOT/examples/fashion-mnist/labels.txt" .
refuses 1 "net.bbm: input 'image': height is fixed to 28, not 64" \
    bitbranch bench net.bbm --config large.json
mkdir large
{ printf 'P5\n30 30\n255\n'; head -c 900 /dev/zero; } >large/b.pgm
refuses 1 "b.pgm: image is 30x30, the network takes 28x28" bitbranch run net.bbm large/b.pgm
status 1 bitbranch quantize "$net" x.bbm --calib large >/dev/null 2>stderr.txt
grep -q "b.pgm: image is 30x30" stderr.txt

# A config that leaves no class.
sed 's/"argmax"/"argmax", "drop_first": 10/' "${net%.onnx}.json" >drop.json
refuses 1 "drop_first of the config leaves no class" bitbranch run net.bbm 'Bilder für Ünïcode/0.pgm' \
    --config drop.json

# Text from files cannot send commands to the terminal; CSV keeps its columns; tables line up.
cp "$net" esc.onnx
sed 's/labels.txt/esc.txt/' "${net%.onnx}.json" >esc.json
i=0
while [ $i -lt 10 ]; do printf '\033[2Jcläss %d\n' $i; i=$((i + 1)); done >esc.txt
cp 'Bilder für Ünïcode/0.pgm' 'a,b.pgm'
bitbranch run esc.onnx 'a,b.pgm' | sed 's/ *[0-9.]*$//; s/[0-9]//'
bitbranch eval net.bbm 'a,b.pgm' --predictions out.csv >/dev/null 2>&1
sed 's/[0-9]*$//' out.csv
cp large/b.pgm "$(printf '\033[2J\302\233.pgm')"
refuses 1 '?\[2J??.pgm: image is 30x30' bitbranch run net.bbm ./*2J*.pgm
refuses 1 "a,b.pgm: images without classes" bitbranch eval net.bbm 'a,b.pgm'
