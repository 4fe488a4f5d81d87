# SPDX-License-Identifier: Apache-2.0
"""A copy of ONNX Runtime that chooses AVX2 kernels.

ONNX Runtime chooses its kernels by cpuid and no setting limits it. Here every cpuid instruction of
a copy of its libraries is made illegal, and bench/limit_cpuid.c, preloaded, executes them in a
signal handler and hides what lies beyond AVX2. Nothing else of the libraries changes.
"""
import os
import pathlib
import re
import shutil
import subprocess

CPUID, PREPARED = b"\x0f\xa2", b"\x27\xa2"


def load_segments(library):
    """(file offset, address, size) of what is mapped."""
    text = subprocess.run(["readelf", "-lW", library], check=True, capture_output=True,
                          text=True).stdout
    rows = re.findall(r"LOAD\s+0x(\w+) 0x(\w+) 0x\w+ 0x(\w+)", text)
    return [tuple(int(x, 16) for x in row) for row in rows]


def cpuid_addresses(library):
    with subprocess.Popen(["objdump", "-d", library], stdout=subprocess.PIPE, text=True) as dump:
        return [int(line.split(":")[0], 16) for line in dump.stdout if "\tcpuid" in line]


def prepare_library(library):
    """Replaces each cpuid; returns how many there were."""
    addresses, segments = cpuid_addresses(library), load_segments(library)
    data = bytearray(library.read_bytes())
    for address in addresses:
        begin, base, _ = next(s for s in segments if s[1] <= address < s[1] + s[2])
        offset = begin + address - base
        if data[offset:offset + 2] != CPUID:
            raise ValueError(f"{library}: no cpuid at {address:#x}")
        data[offset:offset + 2] = PREPARED
    library.write_bytes(data)
    return len(addresses)


def prepared_onnxruntime():
    """Folder to put in front of PYTHONPATH; made on first use, beside the package it copies."""
    import onnxruntime

    package = pathlib.Path(onnxruntime.__file__).parent
    folder = package.parent.parent / f"avx2-onnxruntime-{onnxruntime.__version__}"
    if folder.exists():
        return folder
    making = folder.with_suffix(".part")
    shutil.rmtree(making, ignore_errors=True)
    shutil.copytree(package, making / "onnxruntime")
    found = sum(prepare_library(path) for path in making.glob("onnxruntime/capi/*.so*"))
    if not found:
        raise ValueError("ONNX Runtime has no cpuid instruction to replace")
    making.rename(folder)
    return folder


def environment(build):
    """What a process needs to run the prepared copy."""
    return {"PYTHONPATH": str(prepared_onnxruntime()),
            "LD_PRELOAD": os.fspath(pathlib.Path(build).resolve() / "bench/limit_cpuid.so")}
