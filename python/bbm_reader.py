#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads .bbm files, by docs/format.md alone and with the standard library alone.

    bbm_reader.py FILE             summary
    bbm_reader.py --dump FILE      everything in the file as text, weights as levels
"""

import json
import struct
import sys
import zlib

MAGIC = b"\x89BBM\r\n\x1a\n"
KINDS = {1: "CONV", 2: "ADD", 3: "MUL", 4: "REQUANT", 5: "CONCAT", 6: "MAX_POOL",
         7: "AVERAGE_POOL", 8: "GATHER_CHANNELS", 9: "RESHAPE", 10: "RESIZE_NEAREST",
         11: "QUANTIZE", 12: "FLOAT"}
NONE, LINEAR, THRESHOLDS, INDEXED, FLOAT = range(5)


class BadFile(Exception):
    pass


def need(condition, what):
    if not condition:
        raise BadFile(what)


class Payload:
    """A cursor over the contents of one chunk."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        need(self.at + n <= len(self.data), "a chunk ends too early")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def u8(self):
        return self.number("B")

    def u16(self):
        return self.number("H")

    def u32(self):
        return self.number("I")

    def text(self):
        data = self.take(self.u16())
        need(len(data) <= 1023 and b"\0" not in data, "a text is too long or holds a NUL")
        return data.decode("utf-8")

    def ints(self, n, low, high):
        width = self.u8()
        need(width <= 8, "integers of more than 8 bytes")
        data = self.take(n * width)
        values = [int.from_bytes(data[i * width:(i + 1) * width], "little", signed=True)
                  if width else 0 for i in range(n)]
        need(all(low <= v <= high for v in values), "an integer out of range")
        return values

    def i32s(self, n):
        return self.ints(n, -2**31, 2**31 - 1)

    def i64s(self, n):
        return self.ints(n, -2**63, 2**63 - 1)

    def floats(self, n):
        return list(struct.unpack("<%df" % n, self.take(4 * n)))

    def window(self):
        v = [self.u16() for _ in range(10)]
        flags = self.u8()
        need(flags & ~3 == 0, "a window has unknown flags")
        return {"kernel": v[0:2], "stride": v[2:4], "dilation": v[4:6], "before": v[6:8],
                "after": v[8:10], "ceil": flags & 1, "count_padding": flags >> 1}

    def end(self):
        need(self.at == len(self.data), "a chunk is longer than its contents")


def read_chunks(data):
    """Section 1: the header and the chain of chunks."""
    need(data[:8] == MAGIC, "not a .bbm file")
    need(len(data) >= 64 and zlib.crc32(data[:60]) == struct.unpack_from("<I", data, 60)[0],
         "corrupt header")
    version, count, size = struct.unpack_from("<IIQ", data, 8)
    need(version == 1, "format version %d" % version)
    need(size == len(data), "the file is %d bytes, not %d" % (len(data), size))
    chunks, at = [], 64
    for _ in range(count):
        need(at + 64 <= len(data), "the file ends in a chunk header")
        name, version, flags, crc, size = struct.unpack_from("<4sIIIQ", data, at)
        need(size <= len(data) - at - 64, "a chunk is longer than the file")
        payload = data[at + 64:at + 64 + size]
        head = data[at:at + 12] + bytes(4) + data[at + 16:at + 64]
        need(zlib.crc32(payload, zlib.crc32(head)) == crc, "chunk %r is corrupt" % name)
        need(flags & ~1 == 0, "chunk %r has unknown flags" % name)
        chunks.append((name.decode("latin-1"), version, flags & 1, payload))
        at = (at + 64 + size + 63) // 64 * 64
    need(at == len(data), "bytes after the last chunk")
    return chunks


def read_conv(p, node, tensors):
    node["window"] = p.window()
    node["groups"], node["rows"], node["depth"] = p.u32(), p.u32(), p.u32()
    n = p.u8()
    need(1 <= n <= 8, "a convolution without planes")
    node["plane_weights"] = [p.u16() for _ in range(n)]
    node["packing"] = p.u8()
    node["taps"] = node["window"]["kernel"][0] * node["window"]["kernel"][1]
    need(node["packing"] <= 1, "an unknown packing")
    need(node["groups"] * node["depth"] == tensors[node["in"][0]]["dims"][-1] and
         node["rows"] == tensors[node["out"][0]]["dims"][-1], "weights do not fit their tensors")


def read_float(p, node):
    node["op"], node["alpha"], node["beta"] = p.u8(), p.number("f"), p.number("f")
    node["reason"] = p.text()
    if node["op"] in (1, 12, 13):
        node["window"] = p.window()
    node["groups"] = p.u32() if node["op"] == 1 else 1
    node["table_size"], node["bias_size"] = p.u32(), p.u32()


def read_node(p, tensors):
    node = {"name": p.text(), "kind": p.u8()}
    n_in, n_out = p.u8(), p.u8()
    need(node["kind"] in KINDS and n_in <= 16 and 1 <= n_out <= 4, "an impossible node")
    node["in"] = [p.u16() for _ in range(n_in)]
    node["out"] = [p.u16() for _ in range(n_out)]
    need(max(node["in"] + node["out"]) < len(tensors), "a node's tensor does not exist")
    kind = KINDS[node["kind"]]
    if kind == "CONV":
        read_conv(p, node, tensors)
    elif kind in ("MAX_POOL", "AVERAGE_POOL"):
        node["window"] = p.window()
    elif kind == "GATHER_CHANNELS":
        node["index"] = p.i32s(tensors[node["out"][0]]["dims"][-1])
    elif kind == "RESIZE_NEAREST":
        node["factor"] = [p.u16(), p.u16()]
    elif kind == "FLOAT":
        read_float(p, node)
    return node


def read_structure(payload):
    """Section 3."""
    p = Payload(payload)
    model = {"name": p.text(), "float32_bytes": p.number("Q")}
    n_tensors, n_nodes = p.u16(), p.u16()
    model["tensors"] = []
    for _ in range(n_tensors):
        tensor = {"name": p.text(), "kind": p.u8()}
        tensor["dims"] = [p.number("i") for _ in range(p.u8())]
        need(tensor["kind"] <= 1 and len(tensor["dims"]) in (2, 4), "an impossible tensor")
        model["tensors"].append(tensor)
    model["inputs"] = [p.u16() for _ in range(p.u16())]
    model["outputs"] = [p.u16() for _ in range(p.u16())]
    model["nodes"] = [read_node(p, model["tensors"]) for _ in range(n_nodes)]
    p.end()
    made = set(model["inputs"])
    for node in model["nodes"]:
        need(made.issuperset(node["in"]) and made.isdisjoint(node["out"]), "nodes out of order")
        made.update(node["out"])
    need(made == set(range(n_tensors)), "a tensor that nothing makes")
    return model


def read_planes(payload, model):
    """Section 4: node["bits"][plane][row] is an integer whose bit j is position j."""
    p = Payload(payload)
    for node in model["nodes"]:
        if KINDS[node["kind"]] != "CONV":
            continue
        p.take(-p.at % 64)
        row = node["taps"] * node["depth"]
        mask = (1 << row) - 1
        planes = []
        for _ in node["plane_weights"]:
            if node["packing"] == 0:
                size = (row + 63) // 64 * 8
                rows = [int.from_bytes(p.take(size), "little") for _ in range(node["rows"])]
                need(all(r <= mask for r in rows), "unused bits are set")
            else:
                size = (node["rows"] * row + 63) // 64 * 8
                plane = int.from_bytes(p.take(size), "little")
                rows = [plane >> (r * row) & mask for r in range(node["rows"])]
            planes.append(rows)
        node["bits"] = planes
    p.end()


def read_float_tables(payload, model):
    """Section 5."""
    p = Payload(payload)
    for node in model["nodes"]:
        if KINDS[node["kind"]] == "FLOAT":
            node["table"] = p.floats(node["table_size"])
            node["bias"] = p.floats(node["bias_size"])
    p.end()


def read_linear(p, r, n, second, slope):
    r["mult"] = p.i32s(n)
    r["mult2"] = p.i32s(n) if second else []
    r["add"] = p.i64s(n)
    r["shift"] = p.ints(n, 0, 255)
    if slope:
        r["neg_mult"] = p.i32s(n)
        r["neg_mult2"] = p.i32s(n) if second else []
        r["neg_add"] = p.i64s(n)
        r["off"] = p.i64s(n)


def read_requant(p, channels, bits):
    r = {"kind": p.u8()}
    if r["kind"] == NONE:
        return r
    flags = p.u8()
    need(flags & ~7 == 0, "a requantizer has unknown flags")
    n = channels if flags & 1 else 1
    second, slope = flags & 2, flags & 4
    if r["kind"] == LINEAR:
        read_linear(p, r, n, second, slope)
    elif r["kind"] == THRESHOLDS:
        r["rising"] = p.ints(n, 0, 1)
        r["t"] = p.i32s(n * (2**bits - 1))
    elif r["kind"] == INDEXED:
        r["index_bits"] = p.u8()
        need(1 <= r["index_bits"] <= 12, "a table of a wrong size")
        r["table"] = p.ints(2**r["index_bits"], 0, 65535)
        read_linear(p, r, n, second, slope)
    elif r["kind"] == FLOAT:
        r["scale"] = p.floats(n)
        r["scale2"] = p.floats(n) if second else []
        r["bias"] = p.floats(n)
    else:
        raise BadFile("an unknown requantizer")
    return r


def read_profile(payload, model):
    """Section 6."""
    p = Payload(payload)
    k, m = p.u8(), p.u8()
    profile = {"name": "w%da%d" % (k, m), "tensors": [], "convs": {}}
    for tensor in model["tensors"]:
        grid = {"bits": 0, "step": 0.0, "a0": 0}
        if tensor["kind"] == 0:
            grid = {"bits": p.u8(), "step": p.number("f"), "a0": p.number("i")}
            need(1 <= grid["bits"] <= 16, "codes of more than 16 bits")
        grid["requant"] = read_requant(p, tensor["dims"][-1], grid["bits"])
        profile["tensors"].append(grid)
    for i, node in enumerate(model["nodes"]):
        if KINDS[node["kind"]] != "CONV":
            continue
        conv = {"planes": p.u8()}
        flags = p.u8()
        need(1 <= conv["planes"] <= len(node["plane_weights"]) and flags & ~7 == 0,
             "an impossible convolution")
        conv["offset"] = p.i32s(node["rows"]) if flags & 1 else []
        conv["tap_add"] = p.i32s(node["taps"] * node["rows"]) if flags & 2 else []
        conv["scale"] = p.floats(node["rows"]) if flags & 4 else []
        profile["convs"][i] = conv
    p.end()
    return profile


def read(data):
    """The whole file as dictionaries and lists."""
    model, extra = None, []
    for name, version, required, payload in read_chunks(data):
        known = version == 1
        if known and name == "MODL":
            model = read_structure(payload)
            model.update(profiles=[], task=None, labels=None, extra=extra)
            continue
        need(model is not None, "chunk %s comes before MODL" % name)
        if known and name == "PLAN":
            read_planes(payload, model)
        elif known and name == "FLTB":
            read_float_tables(payload, model)
        elif known and name == "PROF":
            model["profiles"].append(read_profile(payload, model))
        elif known and name == "TASK":
            model["task"] = payload.decode("utf-8")
        elif known and name == "LABL":
            model["labels"] = payload.decode("utf-8")
        else:
            need(not required, "unknown required chunk %s" % name)
            extra.append((name, version, payload))
    need(model is not None and model["profiles"], "no model or no profile")
    return model


def levels(node, used):
    """b of every row with the first `used` planes: [rows][taps*depth]."""
    n = len(node["plane_weights"])
    weights = [w >> (n - used) for w in node["plane_weights"][:used]]
    row = node["taps"] * node["depth"]
    return [[sum(w if node["bits"][p][r] >> j & 1 else -w for p, w in enumerate(weights))
             for j in range(row)] for r in range(node["rows"])]


# ---- reports --------------------------------------------------------------------------------------


def float_bits(values):
    return " ".join("%08x" % struct.unpack("<I", struct.pack("<f", v))[0] for v in values)


def join(values):
    return " ".join(str(v) for v in values)


def window_text(w):
    return join(w["kernel"] + w["stride"] + w["dilation"] + w["before"] + w["after"] +
                [w["ceil"], w["count_padding"]])


def dump_requant(out, r):
    out("  requant %d" % r["kind"])
    for key in ("mult", "mult2", "add", "shift", "neg_mult", "neg_mult2", "neg_add", "off", "rising",
                "t", "table"):
        if r.get(key):
            out("  %s %s" % (key, join(r[key])))
    for key in ("scale", "scale2", "bias"):
        if r.get(key):
            out("  %s %s" % (key, float_bits(r[key])))


def dump_node(out, node):
    out("node %s kind %d in %s out %s" % (node["name"], node["kind"], join(node["in"]),
                                          join(node["out"])))
    if "window" in node:
        out("  window " + window_text(node["window"]))
    if "plane_weights" in node:
        out("  weights %d %d %d groups %d planes %s" % (node["rows"], node["taps"], node["depth"],
                                                        node["groups"],
                                                        join(node["plane_weights"])))
    if "index" in node:
        out("  index " + join(node["index"]))
    if "factor" in node:
        out("  factor " + join(node["factor"]))
    if "op" in node:
        out("  op %d %s groups %d reason %s" % (node["op"],
                                                float_bits([node["alpha"], node["beta"]]),
                                                node["groups"], node["reason"]))
        out("  table " + float_bits(node["table"]))
        out("  bias " + float_bits(node["bias"]))


def dump_profile(out, model, profile):
    out("profile " + profile["name"])
    for tensor, grid in zip(model["tensors"], profile["tensors"]):
        out(" %s %d %s %d" % (tensor["name"], grid["bits"], float_bits([grid["step"]]), grid["a0"]))
        dump_requant(out, grid["requant"])
    for i, conv in sorted(profile["convs"].items()):
        out(" conv %s planes %d" % (model["nodes"][i]["name"], conv["planes"]))
        out("  offset " + join(conv["offset"]))
        out("  tap_add " + join(conv["tap_add"]))
        out("  scale " + float_bits(conv["scale"]))
        for row in levels(model["nodes"][i], conv["planes"]):
            out("  b " + join(row))


def dump(model, out):
    out("model %s float32 %d" % (model["name"], model["float32_bytes"]))
    for t in model["tensors"]:
        out("tensor %s kind %d dims %s" % (t["name"], t["kind"], join(t["dims"])))
    out("inputs %s outputs %s" % (join(model["inputs"]), join(model["outputs"])))
    for node in model["nodes"]:
        dump_node(out, node)
    for profile in model["profiles"]:
        dump_profile(out, model, profile)
    out("task %s" % model["task"])
    out("labels %s" % (model["labels"] or "").replace("\n", "|"))


def summary(model, size, out):
    weights = sum(n["rows"] * n["taps"] * n["depth"] for n in model["nodes"] if "bits" in n)
    bits = sum(n["rows"] * n["taps"] * n["depth"] * len(n["bits"]) for n in model["nodes"]
               if "bits" in n)
    out("%s: %d bytes, %d nodes, %d tensors" % (model["name"], size, len(model["nodes"]),
                                                len(model["tensors"])))
    out("%d integer weights in %d bytes of planes" % (weights, bits // 8))
    out("profiles: " + ", ".join(p["name"] for p in model["profiles"]))
    if model["task"]:
        out("task: %s" % json.loads(model["task"]).get("task"))
    for node in model["nodes"]:
        shape = " %dx%dx%d, %d planes" % (node["rows"], node["taps"], node["depth"],
                                          len(node["bits"])) if "bits" in node else ""
        out("  %-16s %s%s" % (KINDS[node["kind"]], node["name"], shape))


def open_model(path):
    """The model in a file and the file's size; (None, 0) after a message where there is none."""
    try:
        with open(path, "rb") as f:
            data = f.read()
        return read(data), len(data)
    except (BadFile, OSError, UnicodeDecodeError) as e:
        sys.stderr.write("%s: %s\n" % (path, getattr(e, "strerror", None) or e))
        return None, 0


def main(arguments):
    if not arguments or arguments[:-1] not in ([], ["--dump"]) or arguments[-1].startswith("-"):
        sys.stderr.write(__doc__)
        return 2
    sys.stdout.reconfigure(encoding="utf-8")
    model, size = open_model(arguments[-1])
    if not model:
        return 1
    if len(arguments) == 2:
        dump(model, print)
    else:
        summary(model, size, print)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
