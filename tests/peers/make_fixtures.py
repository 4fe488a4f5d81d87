# SPDX-License-Identifier: Apache-2.0
"""make_fixtures.py FOLDER

Writes small ONNX files that use what Debian's operator tests (opset 17 and below) do not have: forms of
opset 18 to 21, INT4 and UINT4, blocked scales, symbolic shapes as exporters compute them. Each has
one float input and float outputs, so that compare_float.py can run them.
"""

import pathlib
import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper, shape_inference

RNG = np.random.default_rng(11)
FLOAT = TensorProto.FLOAT


def const(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def random(name, *dims, low=-1.0, high=1.0):
    return const(name, RNG.uniform(low, high, dims).astype(np.float32))


def packed(name, data_type, values):
    """An INT4 or UINT4 tensor."""
    values = np.asarray(values)
    return helper.make_tensor(name, data_type, values.shape, values.flatten().tolist())


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def model(opset, dims, nodes, constants, outputs=("y",)):
    for n in nodes:
        for i, name in enumerate(n.input):
            if name == "-":
                n.input[i] = ""
    graph = helper.make_graph(
        nodes, "fixture", [helper.make_tensor_value_info("x", FLOAT, dims)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 10
    return shape_inference.infer_shapes(made, check_type=True, strict_mode=True)


def reductions(opset):
    names = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSum",
             "ReduceSumSquare", "ReduceLogSumExp"]
    nodes = [node(op, "x axes", f"y{i}", keepdims=i % 2) for i, op in enumerate(names)]
    nodes.append(node("ReduceMean", "x", "y8", noop_with_empty_axes=1))
    return model(opset, [2, 3, 4, 5], nodes, [const("axes", np.array([-1, 1], np.int64))],
                 [f"y{i}" for i in range(9)])


def split_uneven(opset):
    return model(opset, [1, 7, 3], [node("Split", "x", "y0 y1 y2", axis=1, num_outputs=3)], [],
                 ("y0", "y1", "y2"))


def pad_axes(opset):
    constants = [const("pads", np.array([1, 2, 0, 3], np.int64)),
                 const("axes", np.array([-1, 1], np.int64)), const("v", np.float32(0.5))]
    nodes = [node("Pad", "x pads v axes", "y0"),
             node("Pad", "x pads - axes", "y1", mode="edge"),
             node("Pad", "x pads - axes", "y2", mode="reflect")]
    return model(opset, [2, 4, 5, 6], nodes, constants, ("y0", "y1", "y2"))


def pad_wrap(opset):
    return model(opset, [2, 3, 4], [node("Pad", "x pads", "y", mode="wrap")],
                 [const("pads", np.array([0, 1, 2, 0, 2, 5], np.int64))])


def resize_axes(opset):
    constants = [const("scales", np.array([1.5, 2.25], np.float32)),
                 const("sizes", np.array([9, 13], np.int64))]
    nodes = [node("Resize", "x - scales", "y0", axes=[2, 3], mode="linear"),
             node("Resize", "x - - sizes", "y1", axes=[3, 2], mode="nearest"),
             node("Resize", "x - - sizes", "y2", axes=[2, 3], mode="linear",
                  keep_aspect_ratio_policy="not_larger"),
             node("Resize", "x - - sizes", "y3", axes=[2, 3], mode="cubic",
                  keep_aspect_ratio_policy="not_smaller",
                  coordinate_transformation_mode="half_pixel_symmetric")]
    return model(opset, [1, 3, 6, 7], nodes, constants, ("y0", "y1", "y2", "y3"))


def activations(opset):
    nodes = [node("HardSwish", "x", "y0"), node("Mish", "x", "y1"), node("Softplus", "x", "y2")]
    if opset >= 20:
        nodes += [node("Gelu", "x", "y3"), node("Gelu", "x", "y4", approximate="tanh")]
    return model(opset, [4, 33], nodes, [], [f"y{i}" for i in range(len(nodes))])


def pool_ceil(opset):
    """Opset 19: average pools with dilations and ceil_mode."""
    nodes = [node("AveragePool", "x", "y0", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1,
                  pads=[1, 0, 1, 1], count_include_pad=1),
             node("AveragePool", "x", "y1", kernel_shape=[2, 2], dilations=[2, 3]),
             node("MaxPool", "x", "y2", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)]
    return model(opset, [1, 3, 8, 9], nodes, [], ("y0", "y1", "y2"))


def equal_where(opset):
    constants = [const("zero", np.float32(0)), const("one", np.float32(1))]
    nodes = [node("GreaterOrEqual", "x zero", "c"), node("Where", "c x one", "y0"),
             node("Cast", "c", "y1", to=FLOAT)]
    return model(opset, [3, 5], nodes, constants, ("y0", "y1"))


def export_shapes(opset):
    """View and interpolate with a symbolic batch, as exporters write them."""
    constants = [random("w", 6, 3, 3, 3), const("i0", np.int64(0)), const("a0", np.array([0])),
                 const("minus", np.array([-1])), const("hw", np.array([10, 12])),
                 const("s", np.array([0])), const("e", np.array([2]))]
    nodes = [node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
             node("Shape", "c", "shape"), node("Gather", "shape i0", "n", axis=0),
             node("Unsqueeze", "n a0", "n1"), node("Concat", "n1 minus", "flat", axis=0),
             node("Reshape", "c flat", "y0"),
             node("Slice", "shape s e a0", "nc"), node("Concat", "nc hw", "sizes", axis=0),
             node("Resize", "c - - sizes", "y1", mode="nearest",
                  coordinate_transformation_mode="asymmetric", nearest_mode="floor")]
    return model(opset, ["N", 3, 5, 6], nodes, constants, ("y0", "y1"))


def qdq(opset, activation, weight, axis):
    """QuantizeLinear-DequantizeLinear around a Conv; weights of `weight` per output channel."""
    low, high = {TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15), TensorProto.INT8: (-127, 127),
                 TensorProto.UINT8: (0, 255)}[weight]
    codes = RNG.integers(low, high + 1, (5, 3, 3, 3))
    zeros = RNG.integers(low, high + 1, 5) if low == 0 else np.zeros(5, np.int64)
    four = weight in (TensorProto.INT4, TensorProto.UINT4)
    make = packed if four else (lambda name, kind, v: helper.make_tensor(name, kind, v.shape, v.flatten()))
    zero = {TensorProto.UINT8: 128, TensorProto.INT8: -3, TensorProto.UINT4: 7,
            TensorProto.INT4: -1, TensorProto.UINT16: 32768, TensorProto.INT16: 5}[activation]
    step = 2.0 / (15 if activation in (TensorProto.INT4, TensorProto.UINT4) else 255)
    constants = [const("xs", np.float32(step)), make_scalar("xz", activation, zero),
                 make("wq", weight, codes), random("ws", 5, low=0.01, high=0.05),
                 make("wz", weight, zeros), random("b", 5)]
    nodes = [node("QuantizeLinear", "x xs xz", "xq"), node("DequantizeLinear", "xq xs xz", "xd"),
             node("DequantizeLinear", "wq ws wz", "w", axis=axis),
             node("Conv", "xd w b", "y", pads=[1, 1, 1, 1])]
    return model(opset, [1, 3, 6, 5], nodes, constants)


def make_scalar(name, kind, value):
    return helper.make_tensor(name, kind, [], [value])


def blocked(opset, kind):
    """Opset 21: one scale per block of 4 rows of a matrix."""
    low, high = (-8, 8) if kind == TensorProto.INT4 else (0, 16)
    constants = [packed("wq", kind, RNG.integers(low, high, (12, 7))),
                 random("ws", 3, 7, low=0.01, high=0.2),
                 packed("wz", kind, RNG.integers(low, high, (3, 7)))]
    nodes = [node("DequantizeLinear", "wq ws wz", "w", axis=0, block_size=4),
             node("MatMul", "x w", "y")]
    return model(opset, [2, 12], nodes, constants)


def output_dtype(opset):
    constants = [const("s", np.float32(0.1))]
    nodes = [node("QuantizeLinear", "x s", "q", output_dtype=TensorProto.INT8),
             node("DequantizeLinear", "q s", "y")]
    return model(opset, [3, 4], nodes, constants)


def reshape_allowzero(opset):
    constants = [const("shape", np.array([0, -1], np.int64))]
    return model(opset, [4, 2, 3], [node("Reshape", "x shape", "y", allowzero=0)], constants)


def layer_norm(opset):
    constants = [random("scale", 6), random("bias", 6)]
    return model(opset, [2, 5, 6], [node("LayerNormalization", "x scale bias", "y", axis=-1)],
                 constants)


def fixtures():
    for opset in (18, 19, 20, 21):
        for make in (reductions, split_uneven, pad_axes, resize_axes, activations, equal_where,
                     export_shapes, reshape_allowzero, layer_norm):
            yield f"{make.__name__}_{opset}", make(opset)
    for opset in (19, 20, 21):
        yield f"pad_wrap_{opset}", pad_wrap(opset)
        yield f"pool_ceil_{opset}", pool_ceil(opset)
    eight = {"u8": TensorProto.UINT8, "i8": TensorProto.INT8}
    for opset in (13, 18, 21):
        for a, activation in eight.items():
            for w, weight in eight.items():
                yield f"qdq_{a}_{w}_{opset}", qdq(opset, activation, weight, 0)
    wide = {"u8": TensorProto.UINT8, "i8": TensorProto.INT8, "u16": TensorProto.UINT16,
            "i16": TensorProto.INT16, "u4": TensorProto.UINT4, "i4": TensorProto.INT4}
    for a, activation in wide.items():
        for w, weight in {"u4": TensorProto.UINT4, "i4": TensorProto.INT4}.items():
            yield f"qdq_{a}_{w}_21", qdq(21, activation, weight, -4)
    yield "blocked_i4_21", blocked(21, TensorProto.INT4)
    yield "blocked_u4_21", blocked(21, TensorProto.UINT4)
    yield "output_dtype_21", output_dtype(21)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, made in fixtures():
        (folder / f"{name}.onnx").write_bytes(made.SerializeToString())
        count += 1
    print(f"{count} fixtures")


if __name__ == "__main__":
    main()
