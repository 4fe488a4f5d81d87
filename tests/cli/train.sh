# SPDX-License-Identifier: Apache-2.0
# Training from the command line: stopped by a signal, killed, gone on, with the same bytes as
# without interruption; wrong configs. Skipped without the Debian package dataset-fashion-mnist.
data=/usr/share/datasets/fashion-mnist
[ -e $data ] || { echo "no $data (Debian package dataset-fashion-mnist)" >&2; exit 77; }
number() { sed -n "s/^ *\"$1\": *\([0-9.eE+-]*\),*$/\1/p" | head -n 1; }
above() { awk -v x="$1" -v min="$2" 'BEGIN { exit !(x > min) }' || { echo "$1 is not above $2" >&2; exit 1; }; }

cat >small.json <<CONFIG
{"version": 1, "out": "out", "batch": 50, "checkpoint_minutes": 0.005,
 "task": "$ROOT/examples/fashion-mnist/fashion.json",
 "data": {"train": "\${DATA}", "test": "\${DATA}", "train_limit": 1500, "test_limit": 500},
 "augment": {"crop_padding": 1, "flip": true},
 "network": {"kind": "fashion-small", "widths": [8, 16]},
 "defaults": {"epochs": 3, "rate": 0.05},
 "stages": [{"name": "float", "warmup_epochs": 1},
            {"name": "low", "bits": "w4a4", "epochs": 1, "rate": 0.01, "teacher": "float"}]}
CONFIG
train() { bitbranch train small.json --set DATA=$data "$@"; }

train --quiet >table.txt
sed 's/[0-9.]* %/N %/g' table.txt
above "$(number model_top1 <out/results.json)" 60
head -n 1 out/log.csv
train --quiet # nothing left to do

# A signal: exit code 1, a message, a checkpoint.
bitbranch train small.json --set DATA=$data --quiet --out stopped 2>stopped.txt & child=$!
while [ ! -e stopped/checkpoint.bin ]; do kill -0 $child; sleep 0.05; done
kill -TERM $child
status 1 wait $child
cat stopped.txt
train --quiet --out stopped >/dev/null

bitbranch train small.json --set DATA=$data --quiet --out killed >/dev/null 2>&1 & child=$!
while [ ! -e killed/checkpoint.bin ]; do kill -0 $child; sleep 0.05; done
kill -KILL $child
status 137 wait $child 2>/dev/null
train --quiet --out killed >/dev/null
for file in float.onnx low.onnx low.bbm; do
    cmp out/$file stopped/$file
    cmp out/$file killed/$file
done
echo "same bytes after a stop and after a kill"

# From a stage on again: the stages before it stay, those behind it end with the same bytes.
touch -d @1 stopped/float.onnx stopped/low.bbm
train --quiet --out stopped --restart-at low >/dev/null
[ "$(stat -c %Y stopped/float.onnx)" = 1 ]
[ "$(stat -c %Y stopped/low.bbm)" != 1 ]
cmp out/low.bbm stopped/low.bbm
[ "$(cut -d, -f1-8 out/log.csv)" = "$(cut -d, -f1-8 stopped/log.csv)" ]
echo "same bytes after a stage that was trained again"
refuses 1 "no stage is named 'lower'" bitbranch train small.json --set DATA=$data --out stopped --restart-at lower
refuses 1 "still to be trained" bitbranch train small.json --set DATA=$data --out none --restart-at low

# A stage with other settings: the one before stays, if it is the same in both configs.
sed 's/"rate": 0.01/"rate": 0.02/; s/"out": "out"/"out": "changed"/' small.json >changed.json
bitbranch train changed.json --set DATA=$data --quiet >/dev/null
refuses 1 "another config" bitbranch train changed.json --set DATA=$data --out stopped
bitbranch train changed.json --set DATA=$data --quiet --out stopped --restart-at low >/dev/null
[ "$(stat -c %Y stopped/float.onnx)" = 1 ]
cmp changed/low.bbm stopped/low.bbm
! cmp -s out/low.bbm stopped/low.bbm
echo "same bytes after a stage that was changed"
sed 's/"warmup_epochs": 1/"warmup_epochs": 2/' changed.json >changed-before.json
refuses 1 "stage 'float' or what it depends on has changed" \
    bitbranch train changed-before.json --set DATA=$data --out stopped --restart-at low

refuses 1 "written with 1 threads" bitbranch train small.json --set DATA=$data --threads 2
refuses 1 "DATA} is not set" bitbranch train small.json
sed 's/"batch": 50/"bach": 50/' small.json >wrong.json
refuses 1 "unknown key 'bach'" bitbranch train wrong.json --set DATA=$data
sed 's/"test": "${DATA}"/"test": "${DATA}", "test_split": "train"/' small.json >leak.json
refuses 1 "the same ones" bitbranch train leak.json --set DATA=$data --out leak
refuses 2 "takes NAME=VALUE" bitbranch train small.json --set DATA

# bf16: refused with the reason where the processor has none, else as good as f32.
refuses 2 "[-]-precision is one of" bitbranch train small.json --set DATA=$data --precision f16
refuses 1 "AVX512-BF16" env DNNL_MAX_CPU_ISA=AVX2 bitbranch train small.json --set DATA=$data --precision bf16
if grep -q avx512_bf16 /proc/cpuinfo; then
    train --quiet --out bf16 --precision bf16 >/dev/null
    above "$(number model_top1 <bf16/results.json)" 60
    [ "$(grep -c '"precision": "bf16"' bf16/results.json)" = 2 ]
fi
