#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the #include lines of src/ and tools/ against the arrows of docs/architecture.md."""
import pathlib
import re
import sys

CORE = {"base", "cpu", "encode", "model", "format", "kernels", "engine"}
MAY_INCLUDE = {
    "base": {"base"},
    "cpu": {"base"},
    "encode": {"base"},
    "model": {"encode", "base"},
    "format": {"model", "encode", "base"},
    "kernels": {"cpu", "encode", "base"},
    "engine": {"kernels", "cpu", "model", "encode", "base"},
    "graph": {"base"},
    "onnx": {"graph", "model", "encode", "base"},
    "passes": {"graph", "encode", "base"},
    "nn": {"graph", "encode", "base"},
    "lower": {"passes", "graph", "model", "encode", "base"},
    "quantize": {"nn", "lower", "passes", "graph", "model", "encode", "base"},
    "train": {"quantize", "lower", "nn", "passes", "onnx", "vision", "graph", "model", "encode", "base"},
    "vision": {"base"},
}
# Libraries that only one room may see.
ONLY_IN = {"dnnl": "nn", "protobuf-c": "onnx", "onnx.pb-c": "onnx", "jpeglib": "vision",
           "png.h": "vision", "lapacke": "quantize", "cblas": "quantize"}
INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', re.M)


def room_of(path, root):
    parts = path.relative_to(root).parts
    return parts[1] if parts[0] == "src" else parts[0]


def check_file(path, root):
    room = room_of(path, root)
    for target in INCLUDE.findall(path.read_text()):
        for library, owner in ONLY_IN.items():
            if library in target and room != owner:
                yield f"includes {target}, which only src/{owner} may see"
        first = target.split("/")[0]
        if "/" not in target or first not in MAY_INCLUDE:
            continue
        if room == "tools":
            yield f"includes {target}; it may use the public headers only"
        elif room in MAY_INCLUDE and first != room and first not in MAY_INCLUDE[room]:
            yield f"includes {target}; {room} may include {', '.join(sorted(MAY_INCLUDE[room]))}"


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    files = [p for d in ("src", "tools") for p in sorted((root / d).rglob("*.[ch]"))]
    files += sorted((root / "src").rglob("*.inc"))
    errors = [f"{p.relative_to(root)}: {e}" for p in files for e in check_file(p, root)]
    for room in sorted({p.name for p in (root / "src").iterdir() if p.is_dir()} - set(MAY_INCLUDE)):
        errors.append(f"src/{room}: room without a rule in scripts/check-includes.py")
    print("\n".join(errors) or f"{len(files)} files keep to the arrows")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
