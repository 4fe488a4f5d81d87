#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Instructions per product of the inner loops of the convolution kernels, counted in compiled code:
what can be said about processors that are not at hand.

    scripts/count-instructions.py [--write]

Compiles the kernels for each architecture whose compiler is installed and takes, of each kernel,
the innermost loop with most working instructions (a multiplication, a look-up). --write puts the
table into docs/kernels.md between <!-- instructions --> and <!-- /instructions -->.
"""
import argparse
import pathlib
import re
import subprocess
import tempfile

FLAGS = "-O3 -std=c11 -ffp-contract=off -D_POSIX_C_SOURCE=200809L -Iinclude -Isrc -c".split()
ARMV7 = ["-march=armv7-a", "-mfpu=neon"]
# compiler prefix, flags, instruction set; then of each kernel: file, name, working instruction,
# products of one (of one plane, for look-up).
SETS = [
    ("aarch64-linux-gnu-", [], "NEON, 64-bit", [
        ("arm/conv_dot_neon.c", "dot", r"sdot", 16),
        ("arm/conv_lut_neon.c", "look-up", r"tbl", 64),
        ("arm/conv_int8_neon.c", "int8", r"smlal2?\s+v\d+\.8h", 8),
        ("arm/conv_int16_neon.c", "int16", r"smlal2?\s+v\d+\.4s", 4),
        ("arm/conv_depthwise_neon.c", "depthwise", r"smlal2?\s+v\d+\.4s", 4)]),
    ("arm-linux-gnueabihf-", ARMV7, "NEON, 32-bit", [
        ("arm/conv_lut_neon.c", "look-up", r"vtbl\.8", 32),
        ("arm/conv_int8_neon.c", "int8", r"vmlal\.s8", 8),
        ("arm/conv_int16_neon.c", "int16", r"vmlal\.s16", 4),
        ("arm/conv_depthwise_neon.c", "depthwise", r"vmlal\.s16", 4)]),
    ("", [], "SSE4.1", [
        ("x86/conv_ssse3.c", "look-up", r"pshufb", 64),
        ("x86/conv_ssse3.c", "int8", r"pmaddubsw", 16),
        ("x86/conv_ssse3.c", "int16", r"pmaddwd", 8),
        ("x86/conv_ssse3.c", "depthwise", r"pmaddwd", 8)]),
    ("", [], "AVX2", [
        ("x86/conv_lut_avx2.c", "look-up", r"vpshufb.*%ymm", 128),
        ("x86/conv_int8_avx2.c", "int8", r"vpmaddubsw.*%ymm", 32),
        ("x86/conv_int16_avx2.c", "int16", r"vpmaddwd.*%ymm", 16)]),
    ("", [], "AVX-512", [
        ("x86/conv_lut_avx512.c", "look-up", r"vpermb.*%zmm", 384),
        ("x86/conv_vnni_avx512.c", "vnni", r"vpdpbusd.*%zmm", 64)]),
]
# Functions by kernel where a file has several; elsewhere all but transforms.
SEVERAL = {"look-up": "narrow_lut_(pass|block|groups)", "int8": "narrow_int8_block",
           "int16": "narrow_int16_block", "depthwise": "narrow_depthwise"}
ANY = "(?!.*(transform|table|widen))"


def disassemble(root, prefix, flags, source, folder):
    """{function: [(address, instruction)]}"""
    target = pathlib.Path(folder) / "kernel.o"
    subprocess.run([prefix + "gcc", *FLAGS, *flags, f"src/kernels/{source}", "-o", target],
                   cwd=root, check=True)
    text = subprocess.run([prefix + "objdump", "-d", "--no-show-raw-insn", target], check=True,
                          capture_output=True, text=True).stdout
    functions, body = {}, None
    for line in text.splitlines():
        if head := re.match(r"\w+ <(.+)>:$", line):
            body = functions.setdefault(head[1], [])
        elif code := re.match(r"\s+(\w+):\t(.*)", line):
            body.append((int(code[1], 16), code[2]))
    return functions


def loops(body):
    """Instructions of the innermost loops: from a backward jump's target to the jump."""
    spans = []
    for address, text in body:
        jump = re.match(r"(?:j\w+|b[.\w]*|cbn?z|tbn?z)\s+(?:\S+,\s*)*([0-9a-f]+) <", text)
        if jump and int(jump[1], 16) < address:
            spans.append((int(jump[1], 16), address))
    for low, high in spans:
        if not any((a, b) != (low, high) and low <= a and b <= high for a, b in spans):
            yield [text for address, text in body if low <= address <= high]


def densest(functions, wanted, work):
    """(instructions, working instructions) of the loop with most of the latter for its length."""
    best = (1, 0)
    for name, body in functions.items():
        if not re.match(wanted, name):
            continue
        for loop in loops(body):
            count = sum(bool(re.match(work, text)) for text in loop)
            if count >= 4 and count * best[0] > best[1] * len(loop):
                best = (len(loop), count)
    return best


def rows(root):
    with tempfile.TemporaryDirectory() as folder:
        for prefix, flags, name, kernels in SETS:
            for source, kernel, work, products in kernels:
                try:
                    functions = disassemble(root, prefix, flags, source, folder)
                except FileNotFoundError:
                    print(f"{name}: {prefix}gcc is not installed")
                    break
                several = source.endswith(("_ssse3.c", "_lut_neon.c"))
                length, count = densest(functions, SEVERAL[kernel] if several else ANY, work)
                yield (f"| {name} | {kernel} | {length} | {count * products} | "
                       f"{length / (count * products):.3f} |" if count else
                       f"| {name} | {kernel} | no loop found |||")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    table = "\n".join(["| instruction set | kernel | instructions | products | instructions per product |",
                       "|---|---|--:|--:|--:|", *rows(root)])
    print(table)
    if args.write:
        page = root / "docs/kernels.md"
        text = re.sub(r"(<!-- instructions -->\n).*(<!-- /instructions -->)",
                      lambda m: f"{m[1]}\n{table}\n\n{m[2]}", page.read_text(), flags=re.S)
        page.write_text(text)


if __name__ == "__main__":
    main()
