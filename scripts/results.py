#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quantizes the public classifiers at several bit widths, evaluates them against their float runs
and writes the table of docs/results.md.

    scripts/results.py --data FOLDER [--bitbranch build/tools/bitbranch] [--only NAME] [--bits w4a4]

FOLDER holds models/ and datasets/ (docs/results.md lists the networks and images). Calibration
uses training images only, evaluation the whole public set. Every figure goes to
build/results/NAME-BITS.json as well; rows whose file is there already are not run again.

    scripts/results.py --data FOLDER --effort-best [--threads N] [--only NAME] [--bits w2a2]

does the same for the rows of `--effort best`, the most important first, which take up to 90 minutes
each: build/results/NAME-BITS-best.json. Killed and called again it goes on behind the last row that
is done.

    scripts/results.py --training build/train

writes the table of trained networks from the results.json of every folder there (docs/training.md).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time

IMAGENET = ("imagenet_train1000/train.txt", "ilsvrc2012_val1300/val.txt")
CIFAR = ("cifar10_jpeg/calib", "cifar10_jpeg/test")
NETWORKS = {
    "resnet18": ("resnet18_imagenet/resnet18_pqf", IMAGENET),
    "mobilenetv2": ("mobilenetv2_imagenet/mobilenetv2", IMAGENET),
    "squeezenet": ("squeezenet_imagenet/squeezenet1.0_dc", IMAGENET),
    "mobilenetv1_025": ("mobilenetv1_025_128_imagenet/mobilenetv1_025_128", IMAGENET),
    "resnet20": ("resnet20_cifar10/resnet20_cifar10", CIFAR),
    "resnet8": ("resnet8_cifar10/resnet8_cifar10", CIFAR),
}
# Rows of --effort best.
BEST = [("resnet18", "w2a2"), ("resnet18", "w4a4"), ("resnet18", "w2a4"), ("resnet18", "w3a3"),
        ("mobilenetv2", "w4a4"), ("resnet20", "w2a2")]
BITS = ["w8a8", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2", "w1a2"]


def model_path(data, stem):
    """The network's .onnx; a gzipped one is used as it is."""
    for ending in (".onnx", ".onnx.gz"):
        path = data / "models" / (stem + ending)
        if path.exists():
            return path
    sys.exit(f"{stem}.onnx is not below {data / 'models'}")


def run(command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"failed ({done.returncode}): {' '.join(str(c) for c in command)}")
    return done.stdout


def measure(args, name, bits, out, effort="default"):
    stem, (calib, test) = NETWORKS[name]
    onnx = model_path(args.data, stem)
    datasets = args.data / "datasets"
    bbm = out / row_file(name, bits, effort, ".bbm")
    start = time.time()
    report = json.loads(run([args.bitbranch, "quantize", onnx, bbm, "--calib", datasets / calib,
                             "--calib-count", args.calib_count, "-w", bits[1], "-a", bits[3],
                             "--effort", effort, "--threads", args.threads, "-o", "json"] + args.quantize_options))
    seconds = time.time() - start
    score = json.loads(run([args.bitbranch, "eval", bbm, datasets / test, "--reference", onnx,
                            "-o", "json"]))
    return {"network": name, "bits": bits, "quantize_seconds": round(seconds, 1),
            "threads": args.threads, "divergence": report.get("divergence"),
            "file_bytes": bbm.stat().st_size, "float32_bytes": report["float32_bytes"], **score}


def row_file(name, bits, effort, ending):
    return f"{name}-{bits}{'' if effort == 'default' else '-' + effort}{ending}"


def measured(args, name, bits, effort, wanted):
    """The row's figures; where there are none yet, measured now if wanted, else None. The file is
    there whole or not at all."""
    path = args.out / row_file(name, bits, effort, ".json")
    if wanted and not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(measure(args, name, bits, args.out, effort), indent=1))
        partial.rename(path)
    return json.loads(path.read_text()) if path.exists() else None


def row_text(r):
    ref = r["reference"]
    return (f"| {r['network']} | {r['bits']} | {r['top1']:.2f} | {ref['top1']:.2f} | {ref['drop']:+.2f} "
            f"| {ref['standard_error']:.2f} | {ref['changed']} | {ref['gained']} | {ref['lost']} "
            f"| {r['top5']:.2f} | {r['integer_mac_share']:.2f} | {r['file_bytes'] / 1e6:.2f} "
            f"| {r['float32_bytes'] / r['file_bytes']:.1f} | {r['quantize_seconds']:.0f} |")


HEADER = ("| network | bits | top-1 % | float top-1 % | drop | s.e. | changed | gained | lost | top-5 % "
          "| integer MACs % | MB | times smaller | quantize s |\n"
          "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")


BEST_HEADER = (
    "| network | bits | top-1 % | float top-1 % | drop | s.e. | changed | gained | lost "
    "| divergence solved, reconstructed, distilled | kept | minutes | threads |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|--:|--:|")


def best_row_text(r):
    ref, d = r["reference"], r["divergence"]
    stages = ", ".join(f"{d[stage]:.3f}" for stage in ("solved", "reconstructed", "distilled"))
    return (f"| {r['network']} | {r['bits']} | {r['top1']:.2f} | {ref['top1']:.2f} | {ref['drop']:+.2f} "
            f"| {ref['standard_error']:.2f} | {ref['changed']} | {ref['gained']} | {ref['lost']} "
            f"| {stages} | {d['kept']} | {r['quantize_seconds'] / 60:.0f} | {r['threads']} |")


TRAINING_HEADER = (
    "| config | stage | from | bits | epochs | network % | model % | against float | model kB | hours | threads | precision |\n"
    "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|---|")


def training_rows(folder):
    """One row a profile of every finished stage; each against the first float stage of its config."""
    for path in sorted(folder.glob("*/results.json")):
        run = json.loads(path.read_text())
        name = path.parent.name
        reference = next((s["profiles"][0]["test_top1"] for s in run["stages"]
                          if s["profiles"][0]["bits"] == "float"), None)
        for stage in run["stages"]:
            for p in stage["profiles"]:
                best = p.get("model_top1", p["test_top1"])
                change = "" if reference is None or p["bits"] == "float" else f"{best - reference:+.2f}"
                model = f"{p['model_top1']:.2f}" if "model_top1" in p else ""
                size = f"{stage['model_bytes'] / 1e3:.1f}" if "model_bytes" in stage else ""
                yield (f"| {name} | {stage['stage']} | {stage.get('from', 'new')} | {p['bits']} "
                       f"| {stage['epochs']} | {p['test_top1']:.2f} | {model} | {change} | {size} "
                       f"| {stage['seconds'] / 3600:.2f} | {run['threads']} "
                       f"| {stage.get('precision', 'f32')} |")


def written_rows(document, name):
    """Lines of a table by their first two columns: rows without figures here stay as they are."""
    text = document.read_text().split(f"<!-- {name} begins -->")[1].split(f"<!-- {name} ends -->")[0]
    cells = ((line.split("|"), line) for line in text.splitlines() if line.startswith("| "))
    return {(c[1].strip(), c[2].strip()): line for c, line in cells}


def write_table(lines, document, name="table"):
    begin, end = f"<!-- {name} begins -->", f"<!-- {name} ends -->"
    text = document.read_text()
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    body = "\n".join(lines)
    document.write_text(f"{head}{begin}\n{body}\n{end}{tail}")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--training", type=pathlib.Path)
    parser.add_argument("--bitbranch", default=root / "build/tools/bitbranch")
    parser.add_argument("--effort-best", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--bits", action="append")
    parser.add_argument("--calib-count", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantize-options", nargs="*", default=[])
    parser.add_argument("--out", type=pathlib.Path, default=root / "build/results")
    args = parser.parse_args()
    if args.training:
        lines = [TRAINING_HEADER] + list(training_rows(args.training))
        print("\n".join(lines))
        write_table(lines, root / "docs/results.md", "training table")
        return 0
    if not args.data:
        parser.error("--data or --training is needed")
    args.out.mkdir(parents=True, exist_ok=True)
    best = args.effort_best
    todo = BEST if best else [(name, bits) for name in NETWORKS for bits in BITS]
    text, lines = (best_row_text, [BEST_HEADER]) if best else (row_text, [HEADER])
    table, document = "best table" if best else "table", root / "docs/results.md"
    written = written_rows(document, table)
    for name, bits in todo:
        wanted = name in (args.only or NETWORKS) and bits in (args.bits or BITS)
        row = measured(args, name, bits, "best" if best else "default", wanted)
        if row:
            written[name, bits] = text(row)
        if row and wanted:
            print(written[name, bits], flush=True)
        if (name, bits) in written:
            lines.append(written[name, bits])
    write_table(lines, document, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
