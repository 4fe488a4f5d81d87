#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole networks beside ONNX Runtime: float32 and int8 (the fastest of U8S8, U8S8 with reduced
range and U8U8 static quantization), at 1 and 2 threads.

    scripts/bench-networks.py --data FOLDER [--rounds 30] [--only resnet18] [--build build]

Every contender is a process of its own that waits for its turn; one round is one turn each, so that
noise on the machine hits all alike. Writes BUILD/bench-networks.json and prints a table. Needs
the packages onnx and onnxruntime; `make bench-networks` runs it in a folder of its own.
"""
import argparse
import gzip
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

NETWORKS = {
    "resnet18": ("resnet18_imagenet/resnet18_pqf", "imagenet_train1000/train.txt"),
    "mobilenetv2": ("mobilenetv2_imagenet/mobilenetv2", "imagenet_train1000/train.txt"),
    "squeezenet": ("squeezenet_imagenet/squeezenet1.0_dc", "imagenet_train1000/train.txt"),
    "fashion": (None, "/usr/share/datasets/fashion-mnist"),
}
BITS = ["w8a8", "w4a4", "w2a2", "w1a2", "w1a1"]


def worker(path, threads):
    """Runs in its own process: one inference per line on standard input."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    shape = [d if isinstance(d, int) else 1 for d in first.shape]
    feed = {first.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    for _ in range(3):
        session.run(None, feed)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        session.run(None, feed)
        print(f"{time.perf_counter() - start:.9f}", flush=True)


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

    # Per-channel QDQ exists from opset 13 on.
    model = onnx.load(str(onnx_path))
    if model.opset_import[0].version < 13:
        model = onnx.version_converter.convert_version(model, 13)
    raised = out / (onnx_path.stem + "-13.onnx")
    onnx.save(model, str(raised))
    prepared = out / (onnx_path.stem + "-prepared.onnx")
    quant_pre_process(str(raised), str(prepared), skip_symbolic_shape=True)
    kinds = {"U8S8": dict(weight_type=QuantType.QInt8),
             "U8S8 reduced": dict(weight_type=QuantType.QInt8, reduce_range=True),
             "U8U8": dict(weight_type=QuantType.QUInt8)}
    paths = {}
    for kind, options in kinds.items():
        path = out / f"{onnx_path.stem}-{kind.replace(' ', '-')}.onnx"
        quantize_static(str(prepared), str(path), Random(str(prepared)),
                        quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
                        per_channel=True, **options)
        paths[kind] = path
    return paths


class Contender:
    def __init__(self, name, command):
        env = dict(os.environ, OMP_WAIT_POLICY="passive")
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{name} did not start: {command}")
        self.seconds = []

    def turn(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def quantized_model(args, onnx, calib, bits, out):
    path = out / f"{onnx.name.split('.')[0]}-{bits}.bbm"
    if not path.exists():
        # The codes do not change the time: scales alone are enough here.
        subprocess.run([args.build / "tools/bitbranch", "quantize", onnx, path, "--calib", calib,
                        "--calib-count", "64", "--effort", "fast", "-w", bits[1], "-a", bits[3],
                        "-o", "json"], check=True, stdout=subprocess.DEVNULL)
    return path


def source(args, root, name, out):
    stem, calib = NETWORKS[name]
    if stem is None:
        return root / "examples/fashion-mnist/fashion.onnx", calib
    path = args.data / "models" / (stem + ".onnx")
    if not path.exists():
        path = args.data / "models" / (stem + ".onnx.gz")
    return path, args.data / "datasets" / calib


def measure(args, root, name, threads, out):
    onnx, calib = source(args, root, name, out)
    plain = onnx
    if onnx.suffix == ".gz":
        plain = out / onnx.stem
        plain.write_bytes(gzip.decompress(onnx.read_bytes()))
    me = [sys.executable, __file__, "--worker"]
    contenders = [Contender("ORT float32", me + [str(plain), str(threads)])]
    for kind, path in int8_variants(plain, out).items():
        contenders.append(Contender("ORT " + kind, me + [str(path), str(threads)]))
    for bits in BITS:
        model = quantized_model(args, onnx, calib, bits, out)
        contenders.append(Contender(bits, [args.build / "bench/bench_network_worker", model,
                                           str(threads)]))
    for c in contenders:
        c.turn()
    for _ in range(args.rounds):
        for c in contenders:
            time.sleep(0.02)  # the threads of the one before must have stopped spinning
            c.seconds.append(c.turn())
    for c in contenders:
        c.close()
    return {c.name: 1e3 * statistics.median(c.seconds) for c in contenders}


def main():
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]))
        return 0
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, default=root.parent / "shared/data")
    parser.add_argument("--build", type=pathlib.Path, default=root / "build")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", action="append")
    args = parser.parse_args()
    out = args.build / "bench-networks"
    out.mkdir(parents=True, exist_ok=True)
    results = []
    print("| network | threads | bits | ms | x ORT int8 | x ORT float32 |\n|---|--:|---|--:|--:|--:|")
    for name in args.only or NETWORKS:
        for threads in (1, 2):
            ms = measure(args, root, name, threads, out)
            int8 = min(v for k, v in ms.items() if k.startswith("ORT U8"))
            for who, value in ms.items():
                print(f"| {name} | {threads} | {who} | {value:.3f} | {int8 / value:.2f} | "
                      f"{ms['ORT float32'] / value:.2f} |", flush=True)
                if not who.startswith("ORT"):
                    results.append({"network": name, "bits": who, "threads": threads,
                                    "median_ms": value, "ratio_int8": int8 / value,
                                    "ratio_f32": ms["ORT float32"] / value})
    (args.build / "bench-networks.json").write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
