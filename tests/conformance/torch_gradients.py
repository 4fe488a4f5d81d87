#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares gradient_dump's outputs and gradients with PyTorch's, node kind by node kind.

    torch_gradients.py gradient_dump      exit 77: PyTorch (python3-torch) is not installed
"""
import json
import os
import subprocess
import sys

try:
    import torch
    from torch.nn import functional as F
except ImportError:
    # Debian's packages belong to Debian's interpreter, which may not be the first one found.
    if sys.executable != "/usr/bin/python3" and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3"] + sys.argv)
    print("torch_gradients: skipped, python3-torch is not installed")
    sys.exit(77)

TOLERANCE = 2e-5  # of the largest element


def attributes(text):
    """'pads=1,1;alpha=0.5' -> {'pads': [1, 1], 'alpha': 0.5}."""
    found = {}
    for part in filter(None, text.split(";")):
        name, value = part.split("=")
        if value[0].isalpha():
            found[name] = value
        elif "." in value:
            found[name] = float(value)
        else:
            numbers = [int(v) for v in value.split(",")]
            found[name] = numbers if len(numbers) > 1 else numbers[0]
    return found


class LearnedStep(torch.autograd.Function):
    """Quantizers with a step: levels, what passes, and what the step's gradient sees."""

    @staticmethod
    def forward(ctx, x, step, kind, bits, zero):
        top = 2**bits - 1
        per_channel = step.numel() > 1
        s = step.reshape([-1] + [1] * (x.dim() - 1)) if per_channel else step
        v = x / s
        if kind.startswith("odd"):
            q = torch.clamp(2 * torch.floor(v / 2) + 1, -top, top)
            inside = v.abs() <= top + 1
            if bits == 1 and kind == "odd":
                inside = torch.ones_like(inside)
        else:
            q = torch.clamp(torch.floor(v + 0.5) + zero, 0, top) - zero
            inside = (v >= -zero) & (v <= top - zero)
        slope = q if kind.startswith("odd") and bits == 1 else torch.where(inside, q - v, q)
        shared = x[0].numel()
        ctx.save_for_backward(inside, slope)
        ctx.factor, ctx.per_channel, ctx.shape = (shared * top) ** -0.5, per_channel, step.shape
        return s * q

    @staticmethod
    def backward(ctx, g):
        inside, slope = ctx.saved_tensors
        step = g * slope
        step = step.flatten(1).sum(1) if ctx.per_channel else step.sum()
        return g * inside, (step * ctx.factor).reshape(ctx.shape), None, None, None


class Hard(torch.autograd.Function):
    """The paper's quantizers on clipped inputs."""

    @staticmethod
    def forward(ctx, x, kind, bits):
        top, low = 2**bits - 1, -1.0 if kind == "hard_tanh" else 0.0
        ctx.save_for_backward((x >= low) & (x <= 1))
        c = torch.clamp(x, low, 1.0)
        if kind == "hard_relu_affine":
            return torch.floor(top * c + 0.5) / top
        return (2 * torch.floor(top * (c + 1) / 2 + 0.5) - top) / top

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None, None


def quantize(a, x, step=None, zero=None):
    if step is None:
        return Hard.apply(x, a["quantizer"], a["bits"])
    return LearnedStep.apply(x, step, a["quantizer"], a["bits"], 0.0 if zero is None else zero)


def padded(x, pads, value=0.0):
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value)


def conv(a, x, w, b=None):
    x = padded(x, a.get("pads", [0] * 4))
    return F.conv2d(x, w, b, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1))


def conv_transpose(a, x, w, b=None):
    return F.conv_transpose2d(x, w, b, a["strides"], a["pads"][0])


def gemm(a, x, w, b):
    return a["alpha"] * (x @ w.t()) + a["beta"] * b


def max_pool(a, x):
    return F.max_pool2d(padded(x, a["pads"], float("-inf")), a["kernel_shape"], a["strides"])


def average_pool(a, x):
    return F.avg_pool2d(x, a["kernel_shape"], a["strides"], a["pads"][:2],
                        count_include_pad=bool(a.get("count_include_pad", 0)))


def resize(a, x, _roi, _scales, sizes):
    if a["mode"] == "nearest":
        return F.interpolate(x, sizes[2:], mode="nearest")
    align = a["coordinate_transformation_mode"] == "align_corners"
    return F.interpolate(x, sizes[2:], mode="bilinear", align_corners=align)


def lrn(a, x):
    return F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a["bias"])


def pad(_a, x, pads):
    half = len(pads) // 2
    order = [v for d in reversed(range(half)) for v in (pads[d], pads[half + d])]
    return F.pad(x, order)


NODES = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": lambda a, x, y: x @ y,
    "InstanceNormalization": lambda a, x, w, b: F.instance_norm(x, weight=w, bias=b,
                                                                eps=a["epsilon"]),
    "LayerNormalization": lambda a, x, w, b: F.layer_norm(x, w.shape, w, b, a["epsilon"]),
    "LRN": lrn,
    "Relu": lambda a, x: F.relu(x),
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a["alpha"]),
    "PRelu": lambda a, x, w: F.prelu(x, w.flatten()),
    "Clip": lambda a, x, low, high: torch.clamp(x, float(low), float(high)),
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Tanh": lambda a, x: torch.tanh(x),
    "Elu": lambda a, x: F.elu(x, a["alpha"]),
    "Selu": lambda a, x: F.selu(x),
    "Celu": lambda a, x: F.celu(x, a["alpha"]),
    "Softplus": lambda a, x: F.softplus(x),
    "Softsign": lambda a, x: F.softsign(x),
    "HardSigmoid": lambda a, x: F.hardsigmoid(x),
    "HardSwish": lambda a, x: F.hardswish(x),
    "Mish": lambda a, x: F.mish(x),
    "Gelu": lambda a, x: F.gelu(x),
    "Exp": lambda a, x: torch.exp(x),
    "Log": lambda a, x: torch.log(x),
    "Sqrt": lambda a, x: torch.sqrt(x),
    "Abs": lambda a, x: torch.abs(x),
    "Erf": lambda a, x: torch.erf(x),
    "Pow": lambda a, x, p: torch.pow(x, float(p)),
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y,
    "Max": lambda a, x, y: torch.maximum(x, y),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Slice": lambda a, x, start, end, axis: x.narrow(axis[0], start[0], end[0] - start[0]),
    "Gather": lambda a, x, at: x.index_select(a["axis"], torch.tensor(at)),
    "Pad": pad,
    "ReduceMean": lambda a, x, axes: x.mean(axes, keepdim=bool(a["keepdims"])),
    "ReduceSum": lambda a, x, axes: x.sum(axes, keepdim=bool(a["keepdims"])),
    "Softmax": lambda a, x: F.softmax(x, a["axis"]),
    "LogSoftmax": lambda a, x: F.log_softmax(x, a["axis"]),
    "Resize": resize,
    "FakeQuantize": quantize,
}


def batch_norm(case, a, x, scale, shift, mean, variance):
    """PyTorch's running variance is the unbiased one, ONNX's is not: compared by hand."""
    if case["training"]:
        axes, keep = (0, 2, 3), 0.9
        for name, old, new in (("running_mean", mean, x.mean(axes)),
                               ("running_variance", variance, x.var(axes, unbiased=False))):
            compare(f"{case['op']} {name}", torch.tensor(case[name]), keep * old + (1 - keep) * new)
    return F.batch_norm(x, None if case["training"] else mean,
                        None if case["training"] else variance, scale, shift, case["training"],
                        eps=a["epsilon"])


def compare(what, got, want):
    got, want = got.detach().double(), want.detach().double()
    if got.shape != want.shape:
        sys.exit(f"torch_gradients: {what}: shape {list(got.shape)}, not {list(want.shape)}")
    worst = (got - want).abs().max() / (1.0 + want.abs().max())
    if not worst <= TOLERANCE:
        sys.exit(f"torch_gradients: {what}: differs by {worst:.2e}")


def argument(entry):
    if entry["kind"] == "none":
        return None
    if entry["kind"] == "ints":
        return entry["data"]
    tensor = torch.tensor(entry["data"]).reshape(entry["dims"])
    return tensor.requires_grad_("gradient" in entry)


def check(case):
    a, inputs = attributes(case["attributes"]), [argument(e) for e in case["inputs"]]
    what = f"{case['op']} ({case['attributes']})"
    if case["op"] == "BatchNormalization":
        output = batch_norm(case, a, *inputs)
    else:
        output = NODES[case["op"]](a, *inputs)
    compare(f"{what}: output", torch.tensor(case["output"]).reshape(case["dims"]), output)
    output.backward(torch.tensor(case["seed"]).reshape(case["dims"]))
    for i, (entry, tensor) in enumerate(zip(case["inputs"], inputs)):
        if "gradient" in entry:
            compare(f"{what}: gradient of input {i}",
                    torch.tensor(entry["gradient"]).reshape(entry["dims"]), tensor.grad)


def main():
    dump = subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout
    cases = [json.loads(line) for line in dump.splitlines()]
    for case in cases:
        check(case)
    print(f"torch_gradients: {len(cases)} cases agree with PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
