# SPDX-License-Identifier: Apache-2.0
"""compare_float.py FLOAT_DUMP MODELS [DATASETS]

Runs every .onnx and .onnx.gz file below MODELS through bitbranch (FLOAT_DUMP) and through ONNX
Runtime on the same input, and compares all outputs: the largest difference must stay below 1e-3 of
the output's range. A NAME_qonnx file, which ONNX Runtime cannot run, is compared with NAME.
The input is a photograph from DATASETS, normalised as NAME.json says, else seeded noise.

Where a network rounds its activations, sums of two float implementations that differ in the last
bit may round apart and then differ for good. Such a network is cut at its first rounding if it
differs as a whole: up to there, and from there on with the same rounded values, it must agree.
"""

import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from PIL import Image

TOLERANCE = 1e-3
# Sigmoid outputs of detectors may all be tiny; ONNX Runtime's own error there is about 1e-7.
SMALLEST_RANGE = 1e-3


def model_bytes(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def is_qonnx(model):
    return any(node.op_type in ("Quant", "BipolarQuant", "Trunc", "MultiThreshold")
               for node in model.graph.node)


def peer_of(path):
    """The plain ONNX file with the same function as a QONNX one, or None."""
    stem = path.name.split(".onnx")[0]
    for end in (".onnx", ".onnx.gz"):
        peer = path.parent / (stem.removesuffix("_qonnx") + end)
        if peer != path and peer.exists():
            return peer
    return None


def photograph(datasets):
    for pattern in ("coco2017_mini/**/*.jpg", "VOCdevkit/**/*.jpg", "**/*.jpg"):
        found = sorted(datasets.glob(pattern)) if datasets else []
        if found:
            return found[len(found) // 2]
    return None


def image_input(path, photo, dims):
    """The photograph at the network's size, normalised by the config beside the model."""
    config = path.with_name(path.name.split(".onnx")[0] + ".json")
    settings = json.loads(config.read_text())["input"] if config.exists() else {}
    grey = dims[1] == 1
    image = Image.open(photo).convert("L" if grey else "RGB").resize((dims[3], dims[2]))
    pixels = np.asarray(image, np.float32).reshape(dims[2], dims[3], dims[1])
    if settings.get("channels") == "bgr":
        pixels = pixels[:, :, ::-1]
    mean = np.array(settings.get("mean", [0.0]), np.float32)
    std = np.array(settings.get("std", [1.0]), np.float32)
    value = (pixels * np.float32(settings.get("scale", 1.0)) - mean) / std
    levels = settings.get("round_levels")
    if levels:
        scale = np.float32(levels["scale"])
        value = np.clip(np.round(value * scale), levels["min"], levels["max"]) / scale
    return np.ascontiguousarray(value.transpose(2, 0, 1)[None]).astype(np.float32)


def make_input(path, photo, dims):
    if photo and len(dims) == 4 and dims[1] in (1, 3) and "cnv" not in path.name:
        return image_input(path, photo, dims)
    noise = np.random.default_rng(7).uniform(-1.0, 1.0, dims).astype(np.float32)
    # the low-bit networks expect multiples of 1/128
    return np.clip(np.round(noise * 128), -128, 127).astype(np.float32) / 128


def run_ours(tool, path, tensor):
    dims = list(tensor.shape) + [0] * (4 - tensor.ndim)
    with tempfile.TemporaryDirectory() as folder:
        tensor.tofile(folder + "/in.f32")
        run = subprocess.run([tool, path, folder + "/in.f32", folder, ",".join(map(str, dims))],
                             capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise RuntimeError(run.stderr.strip())
        outputs = []
        for line in run.stdout.splitlines():
            index, _, *shape = line.rsplit(" ")
            data = np.fromfile(f"{folder}/{index}.f32", np.float32)
            outputs.append(data.reshape([int(d) for d in shape]))
        return outputs


def run_peer(data, tensor):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tensor})


def worst_difference(ours, theirs):
    if len(ours) != len(theirs):
        raise RuntimeError(f"{len(ours)} outputs instead of {len(theirs)}")
    worst = 0.0
    for a, b in zip(ours, theirs):
        b = np.asarray(b, np.float32)
        if a.shape != b.shape:
            raise RuntimeError(f"an output is {a.shape} instead of {b.shape}")
        if a.size:
            spread = max(float(b.max() - b.min()), SMALLEST_RANGE)
            worst = max(worst, float(np.abs(a - b).max()) / spread)
    return worst


def first_rounding(model):
    """Input and output name of the first node that rounds a computed value."""
    computed = {value.name for value in model.graph.input}
    computed -= {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if any(name in computed for name in node.input):
            computed.update(node.output)
            if node.op_type in ("Round", "Quant"):
                return node.input[0], node.output[0]
    return None


def part(model, start, end, shape):
    """The part of a model from the tensor `start` to the tensors `end`, `start` being an input."""
    needed, nodes = set(end), []
    for node in reversed(model.graph.node):
        if needed & set(node.output) and start not in node.output:
            nodes.insert(0, node)
            needed.update(node.input)
    float_type = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "part", [onnx.helper.make_tensor_value_info(start, float_type, shape)],
        [onnx.helper.make_tensor_value_info(name, float_type, None) for name in end],
        [t for t in model.graph.initializer if t.name in needed])
    return onnx.helper.make_model(graph, opset_imports=model.opset_import,
                                  ir_version=model.ir_version)


def compare_parts(tool, model, twin, tensor):
    """model is run by bitbranch, twin, the same network, by ONNX Runtime."""
    outputs = [value.name for value in model.graph.output]
    twin_outputs = [value.name for value in twin.graph.output]
    name, twin_name = model_inputs(model)[0].name, model_inputs(twin)[0].name
    before, after = first_rounding(model)
    _, twin_after = first_rounding(twin)
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        worst = 0.0
        if model is twin:  # Quant clips as well, so what lies before it differs from its twin
            onnx.save(part(model, name, [before], tensor.shape), file.name)
            head = run_peer(part(twin, name, [before], tensor.shape).SerializeToString(), tensor)
            worst = worst_difference(run_ours(tool, file.name, tensor), head)
        rounded = run_peer(part(twin, twin_name, [twin_after], tensor.shape).SerializeToString(),
                           tensor)[0]
        onnx.save(part(model, after, outputs, rounded.shape), file.name)
        tail = run_peer(part(twin, twin_after, twin_outputs, rounded.shape).SerializeToString(),
                        rounded)
        return max(worst, worst_difference(run_ours(tool, file.name, rounded), tail))


def model_inputs(model):
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def compare(tool, path, photo):
    data = model_bytes(path)
    model = twin = onnx.load_model_from_string(data)
    if is_qonnx(model):
        peer = peer_of(path)
        if not peer:
            return None
        data = model_bytes(peer)
        twin = onnx.load_model_from_string(data)
    value = model_inputs(model)[0]
    dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    tensor = make_input(path, photo, dims)
    worst = worst_difference(run_ours(tool, path, tensor), run_peer(data, tensor))
    if worst > TOLERANCE and first_rounding(model):
        worst = compare_parts(tool, model, twin, tensor)
    return worst


def main():
    tool, models = sys.argv[1], pathlib.Path(sys.argv[2])
    photo = photograph(pathlib.Path(sys.argv[3])) if len(sys.argv) > 3 else None
    paths = [p for p in sorted(models.rglob("*")) if p.name.endswith((".onnx", ".onnx.gz"))]
    failed = skipped = 0
    for path in paths:
        try:
            worst = compare(tool, path, photo)
        except Exception as error:  # pylint: disable=broad-except
            failed += 1
            print(f"FAIL {path.name}: {error}")
            continue
        if worst is None:
            skipped += 1
            print(f"skip {path.name}: QONNX without a plain twin")
        elif worst <= TOLERANCE:
            print(f"ok   {path.name}: {worst:.1e} of the range")
        else:
            failed += 1
            print(f"FAIL {path.name}: differs by {worst:.1e} of the range")
    print(f"{len(paths) - failed - skipped} networks equal ONNX Runtime, {skipped} skipped, "
          f"{failed} failed")
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
