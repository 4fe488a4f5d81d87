#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/benchmarks.md and README.md and the plots from what the benchmarks left
in the build folder:

    scripts/bench-report.py [--build build]

A table stands between <!-- NAME --> and <!-- /NAME -->. What has not been measured stays as it is.
"""
import argparse
import json
import pathlib
import re

import svg_plots

SETS = {"avx2": "AVX2", "": "AVX-512 with VNNI"}
PAIRS = ["w1a1", "w1a2", "w1a4", "w2a2", "w2a4", "w3a3", "w4a4", "w4a8", "w8a8"]
NETWORK_BITS = ["w8a8", "w4a4", "w2a2", "w1a2", "w1a1"]
SQUARES = ["w1a1", "w2a2", "w3a3", "w4a4", "w5a5", "w6a6", "w7a7", "w8a8"]
INT8, FLOAT = "oneDNN u8s8", "oneDNN f32"


def load(build, name, isa):
    path = build / f"{name}{'-' + isa if isa else ''}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def unique(rows, key):
    return list(dict.fromkeys(row[key] for row in rows))


def value_of(rows, field, **keys):
    for row in rows:
        if all(row[k] == v for k, v in keys.items()):
            return row[field]
    return None


# ---- layers --------------------------------------------------------------------------------------

def layers_table(rows):
    out = []
    for shape in unique(rows, "shape"):
        at = lambda field, bits: value_of(rows, field, shape=shape, bits=bits)
        cells = [f"{at('mac_per_cycle', b):.0f} ({at('ratio_int8', b):.2f})" for b in PAIRS]
        out.append([shape] + [f"{at('mac_per_cycle', b):.0f}" for b in (INT8, FLOAT)] + cells)
    return table(["shape", INT8, FLOAT] + PAIRS, out)


def layers_plot(docs, by_isa):
    shapes = ["3x3 256ch 14x14", "3x3 64ch 56x56", "1x1 256-256 14x14"]
    elements, y = svg_plots.legend(60, 20, shapes), 62
    for isa, rows in by_isa.items():
        series = {s: [value_of(rows, "mac_per_cycle", shape=s, bits=b) for b in PAIRS]
                  for s in shapes}
        references = [(who, value_of(rows, "mac_per_cycle", shape=shapes[0], bits=who))
                      for who in (INT8, FLOAT)]
        elements += svg_plots.bar_panel(40, y, 620, 190, f"MAC per cycle, {SETS[isa]}", PAIRS,
                                        series, references)
        y += 250
    svg_plots.write(docs / "benchmark-layers.svg", 760, y - 30, elements)


def pairs_plot(docs, by_isa):
    elements, x, bits = [], 60, range(1, 9)
    for isa, rows in by_isa.items():
        values = [[value_of(rows, "ratio_int8", shape="3x3 256ch 14x14", bits=f"w{k}a{m}")
                   for m in bits] for k in bits]
        elements += svg_plots.grid_panel(x, 56, 36, f"times {INT8}, {SETS[isa]}", bits, bits, values,
                                         "weight bits K", "activation bits M")
        x += 370
    svg_plots.write(docs / "benchmark-pairs.svg", x - 20, 370, elements)


# ---- square products -----------------------------------------------------------------------------

def gemm_table(rows):
    sizes, out = unique(rows, "size"), []
    for who in unique(rows, "who"):
        at = lambda field, size: value_of(rows, field, size=size, who=who)
        last = sizes[-1]
        out.append([who] + [f"{at('ms', s):.1f}" for s in sizes]
                   + [f"{at('mac_per_cycle', last):.1f}", f"{at('ratio_naive', last):.1f}",
                      f"{at('ratio_f32', last):.2f}", f"{at('ratio_int8', last):.2f}"])
    return table(["ms"] + [str(s) for s in sizes]
                 + ["MAC/cycle", "x naive", "x OpenBLAS", "x oneDNN u8s8"], out)


def gemm_plot(docs, by_isa):
    sizes = unique(next(iter(by_isa.values())), "size")
    elements, y = svg_plots.legend(60, 20, [str(s) for s in sizes]), 62
    for isa, rows in by_isa.items():
        series = {str(s): [value_of(rows, "ratio_f32", size=s, who=b) for b in SQUARES]
                  for s in sizes}
        references = [(who, value_of(rows, "ratio_f32", size=sizes[-1], who=who))
                      for who in (INT8, FLOAT)]
        title = f"Square products, times OpenBLAS sgemm, {SETS[isa]}"
        elements += svg_plots.bar_panel(40, y, 620, 170, title, SQUARES, series, references)
        y += 230
    svg_plots.write(docs / "benchmark-gemm.svg", 760, y - 30, elements)


# ---- networks ------------------------------------------------------------------------------------

def fastest_int8(rows, network, threads):
    return min((r["ms"], r["bits"]) for r in rows
               if r["bits"].startswith("ORT U8") and (r["network"], r["threads"]) ==
               (network, threads))


def networks_table(rows):
    out = []
    for network in unique(rows, "network"):
        for threads in (1, 2):
            at = lambda field, bits: value_of(rows, field, network=network, threads=threads,
                                              bits=bits)
            int8, kind = fastest_int8(rows, network, threads)
            cells = [f"{at('ms', b):.2f} ({at('ratio_int8', b):.2f}, {at('ratio_f32', b):.2f})"
                     for b in NETWORK_BITS]
            out.append([network, str(threads), f"{at('ms', 'ORT float32'):.2f}",
                        f"{int8:.2f} {kind[4:]}"] + cells)
    return table(["network", "threads", "ORT float32", "ORT int8"] + NETWORK_BITS, out)


def scaling_table(rows):
    out, who = [], ["ORT float32", "ORT int8"] + NETWORK_BITS
    for network in unique(rows, "network"):
        ms = {t: {b: value_of(rows, "ms", network=network, threads=t, bits=b) for b in who}
              for t in (1, 2)}
        for t in (1, 2):
            ms[t]["ORT int8"] = fastest_int8(rows, network, t)[0]
        out.append([network] + [f"{ms[1][b] / ms[2][b]:.2f}" for b in who])
    return table(["2 threads over 1"] + who, out)


def networks_plot(docs, by_isa):
    networks = unique(next(iter(by_isa.values())), "network")
    names = ["ORT float32", "ORT int8 (fastest)"] + NETWORK_BITS
    elements, y = svg_plots.legend(60, 20, names), 62
    for isa, rows in by_isa.items():
        at = lambda field, n, b: value_of(rows, field, network=n, threads=1, bits=b)
        series = {"float": [1.0 for _ in networks],
                  "int8": [at("ms", n, "ORT float32") / fastest_int8(rows, n, 1)[0]
                           for n in networks]}
        series.update((b, [at("ratio_f32", n, b) for n in networks]) for b in NETWORK_BITS)
        title = f"Times ONNX Runtime float32, one thread, {SETS[isa]}"
        elements += svg_plots.bar_panel(40, y, 700, 170, title, networks, series)
        y += 230
    svg_plots.write(docs / "benchmark-networks.svg", 760, y - 30, elements)


# ---- README --------------------------------------------------------------------------------------

def speed_table(layers, networks):
    bits, out = ["w1a1", "w1a2", "w2a2", "w4a4"], []
    for isa, rows in layers.items():
        for shape in ("3x3 256ch 14x14", "3x3 64ch 56x56"):
            out.append([f"layer {shape}, {SETS[isa]}: times oneDNN int8"]
                       + [f"{value_of(rows, 'ratio_int8', shape=shape, bits=b):.1f}" for b in bits])
    for isa, rows in networks.items():
        for rival, field in (("int8", "ratio_int8"), ("float32", "ratio_f32")):
            out.append([f"ResNet-18, {SETS[isa]}: times ONNX Runtime {rival}"]
                       + [f"{value_of(rows, field, network='resnet18', threads=1, bits=b):.1f}"
                          for b in bits])
    return table(["both sides on the same instruction set"] + bits, out)


# ---- the pages -----------------------------------------------------------------------------------

def put(page, name, content):
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    if not pattern.search(page):
        raise SystemExit(f"there is no place for {name}")
    return pattern.sub(lambda m: f"{m[1]}\n{content}\n\n{m[2]}", page)


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=root / "build")
    args = parser.parse_args()
    parts = {"bench": ("layers", [("layers", layers_table)], [layers_plot, pairs_plot]),
             "bench-gemm": ("gemm", [("gemm", gemm_table)], [gemm_plot]),
             "bench-networks": ("networks", [("networks", networks_table),
                                             ("scaling", scaling_table)], [networks_plot])}
    docs = root / "docs"
    page, measured = (docs / "benchmarks.md").read_text(), {}
    for name, (what, tables, plots) in parts.items():
        by_isa = measured[what] = {isa: rows for isa in SETS if (rows := load(args.build, name, isa))}
        for isa, rows in by_isa.items():
            for place, make in tables:
                page = put(page, f"{place}-{isa}" if isa else place, make(rows))
        if len(by_isa) == len(SETS):
            for plot in plots:
                plot(docs, by_isa)
        else:
            print(f"{what}: measure with and without ISA=avx2 for the plots")
    (docs / "benchmarks.md").write_text(page)
    if measured["layers"] and measured["networks"]:
        readme = (root / "README.md").read_text()
        speed = speed_table(measured["layers"], measured["networks"])
        (root / "README.md").write_text(put(readme, "speed", speed))


if __name__ == "__main__":
    main()
