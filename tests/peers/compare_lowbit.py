# SPDX-License-Identifier: Apache-2.0
"""compare_lowbit.py LOWBIT_DUMP

Builds small quantized networks (QDQ with int8, uint8, int4 and uint4; QLinear and Integer
operators; residual sums; averages), runs them through ONNX Runtime without graph optimisation and
through the imported model, and demands equal outputs. All scales are powers of two, so that every
number is exact in float32. Each model is exported as QONNX, checked by onnx.checker, and run by
ONNX's reference evaluator: equal again.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

LEVELS = (16, -128, 127)
SHAPE = (1, 4, 8, 8)


# ---- QONNX operators for the reference evaluator ------------------------------------------------

class Quant(OpRun):
    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero, bits, signed=1, narrow=0, rounding_mode="ROUND"):
        n = 2.0 ** bits
        low, high = (-n / 2 + narrow, n / 2 - 1) if signed else (0, n - 1 - narrow)
        return (((np.clip(np.round(x / scale + zero), low, high) - zero) * scale)
                .astype(np.float32),)


class BipolarQuant(OpRun):
    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale):
        return (np.where(x >= 0, scale, -scale).astype(np.float32),)


class MultiThreshold(OpRun):
    op_domain = "qonnx.custom_op.general"

    def _run(self, x, thresholds, out_dtype="", out_scale=1.0, out_bias=0.0):
        t = thresholds.T.reshape((thresholds.shape[1], 1, -1) + (1,) * (x.ndim - 2))
        return (((x[None] >= t).sum(axis=0) * out_scale + out_bias).astype(np.float32),)


# ---- networks -----------------------------------------------------------------------------------

class Builder:
    def __init__(self, seed):
        self.nodes, self.constants, self.n = [], [], 0
        self.rng = np.random.default_rng(seed)

    def name(self):
        self.n += 1
        return f"v{self.n}"

    def constant(self, value, kind):
        value = np.asarray(value)
        name = self.name()
        if kind in (T.INT4, T.UINT4):
            tensor = helper.make_tensor(name, kind, value.shape, value.flatten().tolist())
        else:
            tensor = numpy_helper.from_array(
                value.astype(helper.tensor_dtype_to_np_dtype(kind)), name)
        self.constants.append(tensor)
        return name

    def node(self, op, inputs, **attributes):
        out = self.name()
        self.nodes.append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out

    def pair(self, x, scale, kind, zero=0):
        s, z = self.constant(scale, T.FLOAT), self.constant(zero, kind)
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, s, z]), s, z])

    def integers(self, shape, kind):
        low, high = {T.INT8: (-128, 127), T.UINT8: (0, 255),
                     T.INT4: (-8, 7), T.UINT4: (0, 15)}[kind]
        return self.rng.integers(low, high + 1, shape)

    def weights(self, shape, kind, zero=0, per_row=True):
        rows = shape[0] if per_row else 1
        scale = 2.0 ** self.rng.integers(-6, 0, rows)
        zeros = np.full(rows, zero)
        if not per_row:
            scale, zeros = scale[0], zeros[0]
        inputs = [self.constant(self.integers(shape, kind), kind), self.constant(scale, T.FLOAT),
                  self.constant(zeros, kind)]
        return self.node("DequantizeLinear", inputs, axis=0)

    def conv(self, x, w, pad=1, stride=1, group=1):
        return self.node("Conv", [x, w], pads=[pad] * 4, strides=[stride] * 2, group=group)

    def model(self, output, rank=4):
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", T.FLOAT, SHAPE)],
            [helper.make_tensor_value_info(output, T.FLOAT, [None] * rank)], self.constants)
        return helper.make_model(graph, ir_version=10,
                                 opset_imports=[helper.make_opsetid("", 21)])


def qdq(kind, zero, gain):
    """Convolutions (plain, strided, depthwise) of one weight type, activations of 8 and 4 bits."""
    b = Builder(kind)
    x = b.pair("x", 1 / 16, T.INT8, 5)
    y = b.node("Relu", [b.conv(x, b.weights((8, 4, 3, 3), kind, zero))])
    y = b.pair(y, 4.0 * gain, T.UINT8)
    y = b.node("MaxPool", [y], kernel_shape=[2, 2], strides=[2, 2])
    y = b.pair(b.conv(y, b.weights((8, 1, 3, 3), kind, zero), group=8), 64.0 * gain, T.INT8, -7)
    y = b.pair(b.conv(y, b.weights((6, 8, 3, 3), kind, zero, False), 0, 1), 1024.0 * gain, T.UINT4, 8)
    return b.model(b.conv(y, b.weights((5, 6, 1, 1), kind, zero), 0))


def residual():
    b = Builder(77)
    x = b.pair("x", 1 / 16, T.INT8)
    y = b.pair(b.conv(x, b.weights((4, 4, 3, 3), T.INT4)), 1.0, T.INT8, 3)
    total = b.pair(b.node("Relu", [b.node("Add", [x, y])]), 2.0, T.UINT8, 0)
    mean = b.pair(b.node("GlobalAveragePool", [total]), 0.5, T.UINT8, 9)
    flat = b.node("Flatten", [mean])
    w = b.weights((10, 4), T.INT8, 0, False)
    return b.model(b.node("Gemm", [flat, w], transB=1), 2)


def integer_operators():
    b = Builder(5)
    f = lambda v: b.constant(v, T.FLOAT)
    u = lambda v: b.constant(v, T.UINT8)
    q = b.node("QuantizeLinear", ["x", f(1 / 16), u(120)])
    w = b.constant(b.integers((6, 4, 3, 3), T.INT8), T.INT8)
    bias = b.constant(b.rng.integers(-999, 999, 6), T.INT32)
    y = b.node("QLinearConv", [q, f(1 / 16), u(120), w, f(1 / 32), b.constant(0, T.INT8), f(4.0),
                               u(100), bias], pads=[1, 0, 1, 0])
    w = b.constant(b.integers((3, 6, 2, 2), T.UINT8), T.UINT8)
    y = b.node("Cast", [b.node("ConvInteger", [y, w, u(100), u(30)])], to=T.FLOAT)
    return b.model(b.node("Mul", [y, f(1 / 128)]))


# ---- comparison ---------------------------------------------------------------------------------

def engine(dump, model, x, folder):
    paths = [str(folder / n) for n in ("m.onnx", "x.f32", "y.f32", "exported.onnx")]
    onnx.save(model, paths[0])
    x.tofile(paths[1])
    levels = ",".join(str(v) for v in LEVELS)
    subprocess.run([dump, paths[0], levels, *paths[1:]], check=True)
    return np.fromfile(paths[2], np.float32), onnx.load(paths[3])


def compare(dump, name, model, folder):
    onnx.checker.check_model(model)
    rng = np.random.default_rng(1)
    x = (rng.integers(LEVELS[1], LEVELS[2] + 1, SHAPE) / LEVELS[0]).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    wanted = session.run(None, {"x": x})[0].flatten()
    got, exported = engine(dump, model, x, folder)
    onnx.checker.check_model(exported)
    run = ReferenceEvaluator(exported, new_ops=[Quant, BipolarQuant, MultiThreshold])
    again = run.run(None, {exported.graph.input[0].name: x})[0].flatten()
    good = np.array_equal(got, wanted) and np.array_equal(again, wanted) and np.ptp(wanted) > 0
    print("ok  " if good else "FAIL", name, f"{len(wanted)} outputs,",
          f"{np.count_nonzero(got != wanted)} of the engine differ,",
          f"{np.count_nonzero(again != wanted)} of the export")
    return good


def main():
    dump = sys.argv[1]
    models = {"qdq int8": qdq(T.INT8, 0, 1), "qdq uint8": qdq(T.UINT8, 128, 1),
              "qdq int4": qdq(T.INT4, 0, 1 / 16), "qdq uint4": qdq(T.UINT4, 8, 1 / 16),
              "residual": residual(), "integer operators": integer_operators()}
    with tempfile.TemporaryDirectory() as folder:
        results = [compare(dump, name, model, pathlib.Path(folder))
                   for name, model in models.items()]
    sys.exit(0 if all(results) else 1)


main()
