# SPDX-License-Identifier: Apache-2.0
# Files that are missing, empty, truncated or not what they say: exit 1, one line, no output left.
refuses 1 "missing.bbm" bitbranch info missing.bbm
refuses 1 "missing.onnx" bitbranch info missing.onnx
: >empty.bbm
: >empty.onnx
echo "this is not a model" >text.bbm
echo "this is not a model" >text.onnx
for f in empty text; do
    refuses 1 "$f.bbm" bitbranch info $f.bbm
    refuses 1 "$f.onnx" bitbranch info $f.onnx
    refuses 1 "$f.bbm" bitbranch bench $f.bbm
    refuses 1 "$f.bbm" bitbranch truncate $f.bbm out.bbm -w 1
done
refuses 1 "directory\|regular file" bitbranch info .
cp "$ROOT/examples/fashion-mnist/fashion.onnx" net.onnx
refuses 1 "net.json" bitbranch eval net.onnx nowhere
echo '{"version": 1, "task": "classify", "no_such_key": 1}' >net.json
refuses 1 "no_such_key" bitbranch eval net.onnx nowhere
echo '{"version": 1, ' >net.json
refuses 1 "net.json" bitbranch eval net.onnx nowhere
cp "$ROOT/examples/fashion-mnist/fashion.json" net.json
cp "$ROOT/examples/fashion-mnist/labels.txt" . 2>/dev/null || true
refuses 1 "nowhere" bitbranch eval net.onnx nowhere
refuses 1 "nowhere" bitbranch quantize net.onnx out.bbm --calib nowhere
sed 's/28/64/; s/"none"/"stretch"/' net.json >large.json
refuses 1 "1x28x28.*1x64x64" bitbranch quantize net.onnx out.bbm --calib nowhere --config large.json
rm large.json
head -c 1000 net.onnx >short.onnx
cp net.json short.json
refuses 1 "short.onnx" bitbranch quantize short.onnx out.bbm --calib nowhere
ls
