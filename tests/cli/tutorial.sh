# SPDX-License-Identifier: Apache-2.0
# The commands of docs/tutorial.md as they stand there, but for those that build, install or train.
# Skipped without the Debian package dataset-fashion-mnist.
data=/usr/share/datasets/fashion-mnist
[ -e $data ] || { echo "no $data (Debian package dataset-fashion-mnist)" >&2; exit 77; }
ln -s "$ROOT/examples" examples
awk '/^```sh/ { on = 1; next } /^```/ { on = 0 } on' "$ROOT/docs/tutorial.md" >commands.txt
grep -v '^make \|^library=\|^LD_LIBRARY_PATH=\|^bitbranch train' commands.txt >commands.sh
grep -c '^bitbranch' commands.sh
. ./commands.sh >printed.txt 2>log.txt
ls ./*.bbm
grep -c 'bit for bit' printed.txt
