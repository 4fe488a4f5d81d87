#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs .bbm files, by section 7 of docs/format.md alone and with the standard library alone.

    bbm_interpreter.py FILE     prints every tensor of every profile for a fixed input

Slow on purpose: plain loops over exact integers, so that nothing but the text decides a result.
The input is byte i = (7*i*i + 13*i + 5) mod 256 of the memory of each model input; for float inputs
that byte / 64 - 2, for fewer than 8 bits its lowest bits. Dimensions left open are 1.
"""

import struct
import sys

import bbm_reader
from bbm_reader import FLOAT, INDEXED, KINDS, THRESHOLDS


def f32(x):
    """Rounds a double to float32; exact sums and products of two float32 round only once."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")


def clamp(x, low, high):
    return low if x < low else high if x > high else x


def exp(x):
    """E(x) of section 7."""
    if x != x:
        return x
    x = clamp(x, -745.0, 709.0)
    scaled = x * 1.4426950408889634
    n = int(scaled - 0.5 if scaled < 0 else scaled + 0.5)
    r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10
    total, factorials = 0.0, [1]
    for k in range(1, 14):
        factorials.append(factorials[-1] * k)
    for k in range(13, -1, -1):
        total = total * r + 1.0 / factorials[k]
    half = int(n / 2)
    return total * 2.0**half * 2.0**(n - half)


class Image:
    """Values of one tensor: N,H,W,C in memory order."""

    def __init__(self, shape, values=None):
        self.shape = tuple(shape)
        n, h, w, c = self.shape
        self.values = values if values is not None else [0] * (n * h * w * c)

    def at(self, n, y, x, c):
        _, h, w, channels = self.shape
        return self.values[((n * h + y) * w + x) * channels + c]

    def fill(self, function):
        n, h, w, c = self.shape
        self.values = [function(i, y, x, k) for i in range(n) for y in range(h) for x in range(w)
                       for k in range(c)]
        return self


def out_size(w, axis, size):
    if w["kernel"][axis] == 0:
        return 1
    reach = (w["kernel"][axis] - 1) * w["dilation"][axis] + 1
    free = size + w["before"][axis] + w["after"][axis] - reach
    stride = w["stride"][axis]
    if not w["ceil"]:
        return free // stride + 1
    out = -(-free // stride) + 1
    return out - 1 if (out - 1) * stride >= size + w["before"][axis] else out


def taps(w, axis, out, size, low=0, high=None):
    """(k, position) of the taps of output `out` inside low..high-1; the image if not said."""
    high = size if high is None else high
    if w["kernel"][axis] == 0:
        return [(k, k) for k in range(size)]
    start = out * w["stride"][axis] - w["before"][axis]
    positions = [(k, start + k * w["dilation"][axis]) for k in range(w["kernel"][axis])]
    return [(k, p) for k, p in positions if low <= p < high]


def counted(w, axis, out, size):
    """Positions that count in an average."""
    if w["count_padding"] and w["kernel"][axis]:
        return len(taps(w, axis, out, size, -w["before"][axis], size + w["after"][axis]))
    return len(taps(w, axis, out, size))


class Run:
    def __init__(self, model, profile):
        self.model, self.profile = model, profile
        self.images = {}

    def grid(self, tensor):
        return self.profile["tensors"][tensor]

    def zero(self, tensor):
        """L + a0, so that a - a0 = 2u - zero."""
        grid = self.grid(tensor)
        return 2**grid["bits"] - 1 + grid["a0"]

    def levels(self, tensor):
        zero = self.zero(tensor)
        image = self.images[tensor]
        return Image(image.shape, [2 * u - zero for u in image.values])

    # ---- requantizers

    def linear(self, r, c, z1, z2, n, last):
        i = c if len(r["mult"]) > 1 else 0
        t = z1 * r["mult"][i] + n * r["add"][i]
        if r["mult2"]:
            t += z2 * r["mult2"][i]
        if "neg_mult" in r:
            if t < 0:
                t = z1 * r["neg_mult"][i] + n * r["neg_add"][i]
                if r["neg_mult2"]:
                    t += z2 * r["neg_mult2"][i]
            t += n * r["off"][i]
        return clamp(t // (n << r["shift"][i]), 0, last)

    def requantize(self, tensor, c, z1, z2, n, average):
        r, bits = self.grid(tensor)["requant"], self.grid(tensor)["bits"]
        if r["kind"] == THRESHOLDS:
            steps = 2**bits - 1
            first = c if len(r["rising"]) > 1 else 0
            t = r["t"][first * steps:(first + 1) * steps]
            return sum(z1 >= x for x in t) if r["rising"][first] else sum(z1 <= x for x in t)
        if r["kind"] == INDEXED:
            return r["table"][self.linear(r, c, z1, z2, n, 2**r["index_bits"] - 1)]
        if r["kind"] == FLOAT:
            i = c if len(r["scale"]) > 1 else 0
            y = (float(z1) / n if average else float(z1)) * r["scale"][i]
            if r["scale2"]:
                y = y + float(z2) * r["scale2"][i]
            return f32(y + r["bias"][i])
        return self.linear(r, c, z1, z2, n, 2**bits - 1)

    def finish(self, node, shape, operands, average=False):
        """operands(n, y, x, c) = (Z1, Z2, n), for every output of the node."""
        image = Image(shape).fill(operands)
        channels = shape[3]
        for tensor in node["out"]:
            self.images[tensor] = Image(shape, [
                self.requantize(tensor, i % channels, *v, average)
                for i, v in enumerate(image.values)])

    # ---- nodes on codes

    def conv(self, index, node):
        levels, w = self.levels(node["in"][0]), node["window"]
        second = self.levels(node["in"][1]) if len(node["in"]) > 1 else None
        params = self.profile["convs"][index]
        weights = bbm_reader.levels(node, params["planes"])
        if params["offset"]:
            weights = [[b + o for b in row] for row, o in zip(weights, params["offset"])]
        n, h, width, _ = levels.shape
        rows, depth, per_group = node["rows"], node["depth"], node["rows"] // node["groups"]

        def operands(i, y, x, c):
            total, first = 0, c // per_group * depth
            for ky, py in taps(w, 0, y, h):
                for kx, px in taps(w, 1, x, width):
                    t = ky * w["kernel"][1] + kx
                    total += sum(levels.at(i, py, px, first + k) * weights[c][t * depth + k]
                                 for k in range(depth))
                    if params["tap_add"]:
                        total += params["tap_add"][t * rows + c]
            return total, second.at(i, y, x, c) if second else 0, 1

        self.finish(node, (n, out_size(w, 0, h), out_size(w, 1, width), rows), operands)

    def elementwise(self, node):
        a = self.levels(node["in"][0])
        b = self.levels(node["in"][1]) if len(node["in"]) > 1 else None
        one_pixel = b is not None and b.shape[1:3] == (1, 1)

        def operands(i, y, x, c):
            z1, z2 = a.at(i, y, x, c), 0
            if b is not None:
                z2 = b.at(i, 0, 0, c) if one_pixel else b.at(i, y, x, c)
            return (z1 * z2, 0, 1) if KINDS[node["kind"]] == "MUL" else (z1, z2, 1)

        self.finish(node, a.shape, operands)

    def average(self, node):
        a, w = self.levels(node["in"][0]), node["window"]
        n, h, width, channels = a.shape

        def operands(i, y, x, c):
            total = sum(a.at(i, py, px, c) for _, py in taps(w, 0, y, h)
                        for _, px in taps(w, 1, x, width))
            return total, 0, counted(w, 0, y, h) * counted(w, 1, x, width)

        self.finish(node, (n, out_size(w, 0, h), out_size(w, 1, width), channels), operands, True)

    def max_pool(self, node):
        a, w = self.images[node["in"][0]], node["window"]
        n, h, width, channels = a.shape
        shape = (n, out_size(w, 0, h), out_size(w, 1, width), channels)
        return Image(shape).fill(lambda i, y, x, c: max(
            a.at(i, py, px, c) for _, py in taps(w, 0, y, h) for _, px in taps(w, 1, x, width)))

    def concat(self, node):
        parts = [self.images[t] for t in node["in"]]
        source = [(p, c) for p in parts for c in range(p.shape[3])]
        shape = parts[0].shape[:3] + (len(source),)
        return Image(shape).fill(lambda i, y, x, c: source[c][0].at(i, y, x, source[c][1]))

    def gather(self, node):
        a = self.images[node["in"][0]]
        return Image(a.shape[:3] + (len(node["index"]),)).fill(
            lambda i, y, x, c: a.at(i, y, x, node["index"][c]))

    def resize(self, node):
        a, (fy, fx) = self.images[node["in"][0]], node["factor"]
        n, h, w, c = a.shape
        return Image((n, h * fy, w * fx, c)).fill(lambda i, y, x, k: a.at(i, y // fy, x // fx, k))

    def reshape(self, node):
        a = self.images[node["in"][0]]
        n, h, w, c = a.shape
        return Image((n, 1, 1, h * w * c), a.values)

    def quantize(self, node):
        a = self.images[node["in"][0]]
        for tensor in node["out"]:
            grid = self.grid(tensor)
            inverse, zero, last = 1 / (2 * grid["step"]), self.zero(tensor) / 2, 2**grid["bits"] - 1
            codes = []
            for x in a.values:
                v = x * inverse + zero + 0.5
                codes.append(0 if not v >= 0 else last if v >= last else int(v))
            self.images[tensor] = Image(a.shape, codes)

    # ---- float nodes

    def float_conv(self, node):
        a, w, table, bias = self.images[node["in"][0]], node["window"], node["table"], node["bias"]
        n, h, width, channels = a.shape
        rows = self.model["tensors"][node["out"][0]]["dims"][-1]
        depth, per_group = channels // node["groups"], rows // node["groups"]
        size = w["kernel"][0] * w["kernel"][1] * depth

        def value(i, y, x, c):
            total, first = bias[c] if bias else 0.0, c // per_group * depth
            for ky, py in taps(w, 0, y, h):
                for kx, px in taps(w, 1, x, width):
                    at = c * size + (ky * w["kernel"][1] + kx) * depth
                    for k in range(depth):
                        product = f32(a.at(i, py, px, first + k) * table[at + k])
                        total = f32(total + product)
            return total

        return Image((n, out_size(w, 0, h), out_size(w, 1, width), rows)).fill(value)

    def float_average(self, node):
        a, w = self.images[node["in"][0]], node["window"]
        n, h, width, channels = a.shape

        def value(i, y, x, c):
            total = 0.0
            for _, py in taps(w, 0, y, h):
                for _, px in taps(w, 1, x, width):
                    total += a.at(i, py, px, c)
            return f32(total / (float(counted(w, 0, y, h)) * float(counted(w, 1, x, width))))

        return Image((n, out_size(w, 0, h), out_size(w, 1, width), channels)).fill(value)

    def softmax(self, node):
        a = self.images[node["in"][0]]
        channels, values = a.shape[3], []
        for first in range(0, len(a.values), channels):
            x = a.values[first:first + channels]
            largest, total = max(x), 0.0
            for v in x:
                total += exp(v - largest)
            values += [f32(exp(v - largest) / total) for v in x]
        return Image(a.shape, values)

    def unary(self, node, x, c):
        op, alpha, beta = node["op"], node["alpha"], node["beta"]
        if op == 4:
            return clamp(x, alpha, beta)
        if op == 5:
            return f32(x * (node["table"][c] if node["table"] else alpha)) if x < 0 else x
        if op == 6:
            return f32(1.0 / (1.0 + exp(-x)))
        if op == 7:
            return clamp(f32(f32(alpha * x) + beta), 0.0, 1.0)
        if op == 8:
            return f32(x * clamp(f32(f32(x * f32(1 / 6)) + 0.5), 0.0, 1.0))
        if op == 9:
            return -0.0 if x < -1000 else f32(x / (1.0 + exp(-x)))
        if op == 10:
            d = abs(x)
            e = exp(min(2 * d, 60.0))
            y = d - d * d * d / 3 if d < 1e-3 else (e - 1) / (e + 1)
            return f32(-y if x < 0 else y)
        return f32(f32(x * node["table"][c]) + (node["bias"][c] if node["bias"] else 0.0))

    def float_node(self, node):
        op, a = node["op"], self.images[node["in"][0]]
        if op == 1:
            return self.float_conv(node)
        if op in (2, 3):
            b = self.images[node["in"][1]]
            one = b.shape[1:3] == (1, 1)
            return Image(a.shape).fill(lambda i, y, x, c: f32(
                a.at(i, y, x, c) + b.at(i, y * (not one), x * (not one), c) if op == 2 else
                a.at(i, y, x, c) * b.at(i, y * (not one), x * (not one), c)))
        special = {11: self.softmax, 12: self.max_pool, 13: self.float_average, 14: self.concat,
                   15: self.reshape}
        if op in special:
            return special[op](node)
        return Image(a.shape).fill(lambda i, y, x, c: self.unary(node, a.at(i, y, x, c), c))

    # ---- the whole network

    def node(self, index, node):
        kind = KINDS[node["kind"]]
        several = {"CONV": lambda n: self.conv(index, n), "ADD": self.elementwise,
                   "MUL": self.elementwise, "REQUANT": self.elementwise,
                   "AVERAGE_POOL": self.average, "QUANTIZE": self.quantize}
        one = {"CONCAT": self.concat, "MAX_POOL": self.max_pool, "GATHER_CHANNELS": self.gather,
               "RESHAPE": self.reshape, "RESIZE_NEAREST": self.resize, "FLOAT": self.float_node}
        if kind in several:
            several[kind](node)
        else:
            self.images[node["out"][0]] = one[kind](node)

    def input(self, tensor):
        info, bits = self.model["tensors"][tensor], self.grid(tensor)["bits"]
        dims = [d if d > 0 else 1 for d in info["dims"]]
        shape = dims if len(dims) == 4 else [dims[0], 1, 1, dims[1]]
        n = shape[0] * shape[1] * shape[2] * shape[3]
        data = [(7 * i * i + 13 * i + 5) % 256 for i in range(n)]
        if info["kind"] == 1:
            return Image(shape, [v / 64 - 2 for v in data])
        return Image(shape, [v & (2**bits - 1) for v in data])

    def run(self):
        for tensor in self.model["inputs"]:
            self.images[tensor] = self.input(tensor)
        for index, node in enumerate(self.model["nodes"]):
            self.node(index, node)


def print_tensor(model, run, tensor):
    image, info = run.images[tensor], model["tensors"][tensor]
    values = image.values
    text = bbm_reader.float_bits(values) if info["kind"] == 1 else bbm_reader.join(values)
    print("%s %s: %s" % (info["name"], bbm_reader.join(image.shape), text))


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(__doc__)
        return 2
    sys.stdout.reconfigure(encoding="utf-8")
    model = bbm_reader.open_model(arguments[0])[0]
    if not model:
        return 1
    for profile in model["profiles"]:
        run = Run(model, profile)
        run.run()
        print("profile " + profile["name"])
        for node in model["nodes"]:
            for tensor in node["out"]:
                print_tensor(model, run, tensor)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
