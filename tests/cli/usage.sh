# SPDX-License-Identifier: Apache-2.0
# Help, version and wrong usage of every verb.
bitbranch --version
bitbranch --help | sed -n '1p'
status 2 bitbranch 2>/dev/null
refuses 2 "unknown verb 'fly'" bitbranch fly
bitbranch help bench | sed -n '1p'
refuses 2 "unknown verb 'fly'" bitbranch help fly
for verb in info quantize run eval bench train truncate verify explain export; do
    bitbranch $verb --help | sed -n '1p'
    refuses 2 "unknown option '--no-such'" bitbranch $verb --no-such
done
refuses 2 "missing argument" bitbranch info
refuses 2 "unexpected argument" bitbranch truncate a b c -w 1
refuses 2 "from 1 to 8, not '9'" bitbranch info x.bbm -w 9
refuses 2 "from 1 to 8, not 'two'" bitbranch info x.bbm -w two
refuses 2 "needs a value" bitbranch info x.bbm -w
refuses 2 "is one of table, json" bitbranch info x.bbm -o xml
refuses 2 "for .bbm models, not 'x.onnx'" bitbranch info x.onnx -w 4
refuses 2 "for .bbm models, not 'x.onnx'" bitbranch bench x.onnx --layers
refuses 2 "of the form w4a4" bitbranch quantize x.onnx y.bbm --profiles w9a1
refuses 2 "takes LAYER=wKaM" bitbranch quantize x.onnx y.bbm --bits conv1
refuses 2 "not there yet" bitbranch quantize x.onnx y.bbm --budget size=1000
refuses 2 "which profile" bitbranch truncate a.bbm b.bbm
refuses 2 "OUT.bbm is a model file, not 'copy.onnx'" bitbranch quantize x.onnx copy.onnx --calib data
