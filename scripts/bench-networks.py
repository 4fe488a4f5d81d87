#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole networks beside ONNX Runtime: float32 and int8 (the fastest of U8S8, U8S8 with reduced
range and U8U8 static quantization), at 1 and 2 threads.

    scripts/bench-networks.py --data FOLDER [--isa avx2] [--rounds 30] [--only resnet18]

Every contender is a process of its own that waits for its turn. A turn is a block of runs in a
loop, about 25 ms long, after an untimed quarter of one that wakes its threads; a round is one turn each, so
that noise on the machine hits all alike. Both engines spin or wait as they do by default, but a
process is stopped until its turn: ONNX Runtime's threads spin on for tens of milliseconds, which
would take a processor away from whoever comes next.
--isa avx2 limits both sides to AVX2 (ONNX Runtime: see limit_cpuid.py). Writes
BUILD/bench-networks[-avx2].json and prints a table. Needs the packages onnx and onnxruntime;
`make bench-networks` runs it in a folder of its own.
"""
import argparse
import gzip
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import limit_cpuid

NETWORKS = {
    "resnet18": ("resnet18_imagenet/resnet18_pqf", "imagenet_train1000/train.txt"),
    "mobilenetv2": ("mobilenetv2_imagenet/mobilenetv2", "imagenet_train1000/train.txt"),
    "squeezenet": ("squeezenet_imagenet/squeezenet1.0_dc", "imagenet_train1000/train.txt"),
    "fashion": (None, "/usr/share/datasets/fashion-mnist"),
}
INT8_KINDS = {"U8S8": "QInt8", "U8S8 reduced": "QInt8", "U8U8": "QUInt8"}
BITS = ["w8a8", "w4a4", "w2a2", "w1a2", "w1a1"]


BLOCK_SECONDS = 0.025


def session_of(path, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def random_feed(session):
    import numpy as np

    first = session.get_inputs()[0]
    shape = [d if isinstance(d, int) else 1 for d in first.shape]
    return {first.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def worker(path, threads):
    """Runs in its own process: for each number on standard input, the mean seconds of that many
    runs."""
    session = session_of(path, threads)
    feed = random_feed(session)
    print("ready", flush=True)
    for line in sys.stdin:
        runs = int(line)
        start = time.perf_counter()
        for _ in range(runs):
            session.run(None, feed)
        print(f"{(time.perf_counter() - start) / runs:.9f}", flush=True)


def results(path):
    """Runs in its own process: the first output."""
    session = session_of(path, 1)
    print(json.dumps(session.run(None, random_feed(session))[0].ravel().tolist()))


def int8_variants(onnx_path, out):
    """The three static quantizations; ranges come from random images, which is enough for timing."""
    import numpy as np
    from onnxruntime.quantization import (CalibrationDataReader, QuantFormat, QuantType,
                                          quantize_static)
    from onnxruntime.quantization.shape_inference import quant_pre_process
    import onnx
    import onnx.version_converter

    class Random(CalibrationDataReader):
        def __init__(self, model):
            value = onnx.load(model).graph.input[0]
            shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            rng = np.random.default_rng(2)
            self.feeds = iter([{value.name: rng.standard_normal(shape).astype(np.float32)}
                               for _ in range(4)])

        def get_next(self):
            return next(self.feeds, None)

    paths = {kind: out / f"{onnx_path.stem}-{kind.replace(' ', '-')}.onnx" for kind in INT8_KINDS}
    if all(path.exists() for path in paths.values()):
        return paths
    # Per-channel QDQ exists from opset 13 on.
    model = onnx.load(str(onnx_path))
    if model.opset_import[0].version < 13:
        model = onnx.version_converter.convert_version(model, 13)
    raised = out / (onnx_path.stem + "-13.onnx")
    onnx.save(model, str(raised))
    prepared = out / (onnx_path.stem + "-prepared.onnx")
    quant_pre_process(str(raised), str(prepared), skip_symbolic_shape=True)
    for kind, path in paths.items():
        quantize_static(str(prepared), str(path), Random(str(prepared)),
                        quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
                        weight_type=getattr(QuantType, INT8_KINDS[kind]),
                        reduce_range="reduced" in kind, per_channel=True)
    return paths


class Contender:
    def __init__(self, name, command, env):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=dict(os.environ, **env))
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{name} did not start: {command}")
        self.seconds = []
        self.runs = max(2, round(BLOCK_SECONDS / min(self.block(2) for _ in range(2))))
        self.process.send_signal(signal.SIGSTOP)

    def block(self, runs):
        self.process.stdin.write(f"{runs}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def turn(self):
        self.process.send_signal(signal.SIGCONT)
        self.block(max(1, self.runs // 4))
        self.seconds.append(self.block(self.runs))
        self.process.send_signal(signal.SIGSTOP)

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def quantized_model(args, onnx, calib, bits, out):
    path = out / f"{onnx.name.split('.')[0]}-{bits}.bbm"
    if not path.exists():
        # The codes do not change the time: scales alone are enough here.
        subprocess.run([args.build / "tools/bitbranch", "quantize", onnx, path, "--calib", calib,
                        "--calib-count", "64", "--effort", "fast", "-w", bits[1], "-a", bits[3],
                        "-o", "json"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path


def source(args, root, name):
    stem, calib = NETWORKS[name]
    if stem is None:
        return root / "examples/fashion-mnist/fashion.onnx", calib
    path = args.data / "models" / (stem + ".onnx")
    if not path.exists():
        path = args.data / "models" / (stem + ".onnx.gz")
    return path, args.data / "datasets" / calib


def contenders_of(args, root, name, threads, out, rival_env):
    onnx, calib = source(args, root, name)
    plain = onnx
    if onnx.suffix == ".gz":
        plain = out / onnx.stem
        plain.write_bytes(gzip.decompress(onnx.read_bytes()))
    rivals = {"ORT float32": plain}
    rivals.update(("ORT " + kind, path) for kind, path in int8_variants(plain, out).items())
    for who, path in rivals.items():
        if threads == 1 and rival_env:
            same_results(who, path, rival_env)
        yield Contender(who, [sys.executable, __file__, "--worker", str(path), str(threads)],
                        rival_env)
    own_env = {"BITBRANCH_CPU": args.isa} if args.isa else {}
    for bits in BITS:
        model = quantized_model(args, onnx, calib, bits, out)
        yield Contender(bits, [args.build / "bench/bench_network_worker", model, str(threads)],
                        own_env)


def same_results(who, path, env):
    """The limited rival still computes the same network: prints how far its scores are off."""
    command = [sys.executable, __file__, "--results", str(path)]
    plain, limited = (json.loads(subprocess.run(command, check=True, capture_output=True, text=True,
                                                env=dict(os.environ, **e)).stdout)
                      for e in ({}, env))
    largest = max(map(abs, plain))
    off = max(abs(a - b) for a, b in zip(plain, limited)) / largest
    print(f"{who}: limited scores are off by {100 * off:.3g} % of the largest", file=sys.stderr)


def measure(args, root, name, threads, out, rival_env):
    contenders = []
    try:
        for c in contenders_of(args, root, name, threads, out, rival_env):
            contenders.append(c)
        for _ in range(args.rounds):
            for c in contenders:
                c.turn()
    finally: # a stopped process would stay for ever
        for c in contenders:
            c.close()
    return {c.name: 1e3 * statistics.median(c.seconds) for c in contenders}


def rows_of(name, threads, ms):
    int8 = min(v for k, v in ms.items() if k.startswith("ORT U8"))
    return [{"network": name, "bits": who, "threads": threads, "ms": value,
             "ratio_int8": int8 / value, "ratio_f32": ms["ORT float32"] / value}
            for who, value in ms.items()]


def print_scaling(rows):
    for row in rows:
        if row["threads"] == 2:
            one = next(r for r in rows if r["threads"] == 1 and r["bits"] == row["bits"]
                       and r["network"] == row["network"])
            print(f"{row['network']} {row['bits']}: 2 threads are {one['ms'] / row['ms']:.2f} x 1")


def main():
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]))
        return 0
    if sys.argv[1:2] == ["--results"]:
        results(sys.argv[2])
        return 0
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path,
                        default=os.environ.get("BITBRANCH_DATA", root.parent / "shared/data"))
    parser.add_argument("--build", type=pathlib.Path, default=root / "build")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", action="append")
    parser.add_argument("--isa", choices=["avx2"])
    args = parser.parse_args()
    out = args.build / "bench-networks"
    out.mkdir(parents=True, exist_ok=True)
    rival_env = limit_cpuid.environment(args.build) if args.isa else {}
    rows = []
    print("| network | threads | bits | ms | x ORT int8 | x ORT float32 |\n|---|--:|---|--:|--:|--:|")
    for name in args.only or NETWORKS:
        onnx = source(args, root, name)[0]
        if not onnx.exists():
            print(f"{name}: skipped, no {onnx}", file=sys.stderr)
            continue
        for threads in (1, 2):
            for row in rows_of(name, threads, measure(args, root, name, threads, out, rival_env)):
                rows.append(row)
                print(f"| {name} | {threads} | {row['bits']} | {row['ms']:.3f} | "
                      f"{row['ratio_int8']:.2f} | {row['ratio_f32']:.2f} |", flush=True)
    print_scaling(rows)
    suffix = f"-{args.isa}" if args.isa else ""
    (args.build / f"bench-networks{suffix}.json").write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
