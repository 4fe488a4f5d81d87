# SPDX-License-Identifier: Apache-2.0
"""compare_rewrite.py REWRITE MODELS

Writes every .onnx and .onnx.gz file below MODELS again with bitbranch (REWRITE), has onnx.checker
look at the result, and compares the outputs of ONNX Runtime on it with those on the original. Files
that ONNX Runtime cannot run (QONNX) are left out.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from compare_float import is_qonnx, model_bytes, model_inputs, run_peer, worst_difference

TOLERANCE = 1e-5


def compare(tool, path, folder):
    """Largest difference, or None where there is nothing to compare with."""
    data = model_bytes(path)
    model = onnx.load_model_from_string(data)
    if is_qonnx(model):
        return None
    again = folder / "again.onnx"
    run = subprocess.run([tool, path, again], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip())
    written = onnx.load(again)
    onnx.checker.check_model(written, full_check=True)
    dims = [d.dim_value or 1 for d in model_inputs(model)[0].type.tensor_type.shape.dim]
    tensor = np.random.default_rng(7).uniform(-1.0, 1.0, dims).astype(np.float32)
    theirs = [np.asarray(x) for x in run_peer(data, tensor)]
    return worst_difference([np.asarray(x, np.float32)
                             for x in run_peer(written.SerializeToString(), tensor)], theirs)


def main():
    tool, models = sys.argv[1], pathlib.Path(sys.argv[2])
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(p for p in models.rglob("*") if p.name.endswith((".onnx", ".onnx.gz"))):
            try:
                worst = compare(tool, path, pathlib.Path(folder))
                good = worst is None or worst <= TOLERANCE
                text = "QONNX: left out" if worst is None else f"{worst:.2e}"
            except Exception as error:  # any of three tools may refuse
                good, text = False, str(error).splitlines()[0]
            failed += not good
            print(f"{'ok  ' if good else 'FAIL'} {path.name} {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
