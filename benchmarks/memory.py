"""Peak memory of compressing a large model without data, stage by stage.

    python benchmarks/memory.py [--megabytes 500] [--folder FOLDER]

Makes an ONNX model of dense layers whose weights lie in a file beside it, and runs each stage in a
process of its own: loading, each technique that needs no data, export for ONNX Runtime, and
`trimtab compress` from beginning to end. Prints the largest resident set of each process less that
of a process that only imports, as a multiple of the model's size. The aim is 3 at most.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMPORTS = """
import tempfile
from pathlib import Path
import onnxruntime
from trimtab.compress.context import Context
from trimtab.compress.recipe import parse_recipe, run_recipe
from trimtab.graph.load import load_model
from trimtab.hardware import load_profile
profile = load_profile("generic-x86-64")
"""
STEP = """
model = load_model(Path({path!r}))
context = Context(profile=profile, dataset=None, teacher=model, seed=0, log=lambda _: None)
result = run_recipe(model, parse_recipe({{"steps": [{step}]}}, "benchmark"), context)
"""
EXPORT = """
from trimtab.targets import export
import numpy
model = load_model(Path({path!r}))
samples = (numpy.zeros((2, {width}), "float32"),)
with tempfile.TemporaryDirectory(dir={folder!r}) as folder:
    export(model, "onnxruntime", Path(folder), samples=samples)
"""
PRINT = """
import re
print(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1])
"""
"""The kernel counts `VmHWM` from the start of the program; `ru_maxrss` has the parent's in it."""
COMPRESS = """
import sys
from trimtab.cli.app import main
sys.argv = ["trimtab", "compress", {path!r}, "--recipe", {recipe!r}, "--target", "onnxruntime",
            "--profile", "generic-x86-64", "-o", {out!r}, "--json"]
try:
    main()
except SystemExit as exit:
    assert not exit.code
"""
STEPS = {
    "quantize_weights, 8 bits": {"quantize_weights": {"bits": 8}},
    "quantize_weights, 4 bits in groups": {"quantize_weights": {"bits": 4, "group": 32}},
    "prune_weights, magnitude": {"prune_weights": {"sparsity": 0.8}},
    "share_weights": {"share_weights": {"values": 16}},
    "factorize": {"factorize": {"energy": 0.5}},
}
LAYERS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", help="names that contain this")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"onnx {onnx.__version__}, numpy {np.__version__}, seed 0"
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path, width = make_model(Path(folder), arguments.megabytes)
        measure(path, width, arguments.only or "")


def make_model(folder: Path, megabytes: int) -> tuple[Path, int]:
    """Writes a model of dense layers; returns its path and the width of its input."""
    width = round((megabytes * 1e6 / 4 / LAYERS) ** 0.5)
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(LAYERS):
        weight = rng.standard_normal((width, width), dtype=np.float32) / np.float32(width**0.5)
        weights += [
            numpy_helper.from_array(weight, f"w{layer}"),
            numpy_helper.from_array(np.zeros(width, np.float32), f"b{layer}"),
        ]
        nodes += [
            helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"g{layer}"]),
            helper.make_node("Relu", [f"g{layer}"], [f"r{layer}"]),
        ]
        last = f"r{layer}"
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name in ("x", last)
    ]
    graph = helper.make_graph(nodes, "dense", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "large.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="large.bin")
    return path, width


def measure(path: Path, width: int, only: str) -> None:
    """Runs every stage and prints a row for each."""
    size = (path.parent / "large.bin").stat().st_size
    fields = {"path": str(path), "width": width, "folder": str(path.parent)}
    programs = {"load": "\nmodel = load_model(Path({path!r}))".format(**fields)}
    programs |= {name: STEP.format(step=step, **fields) for name, step in STEPS.items()}
    programs["export for ONNX Runtime"] = EXPORT.format(**fields)
    base = peak_bytes([sys.executable, "-c", IMPORTS + PRINT])
    print(f"model {size / 1e6:.0f} MB, imports alone {base / 1e6:.0f} MB\n")
    print("| stage | peak above imports | times the model |\n|---|--:|--:|")
    for name, program in programs.items():
        if only in name:
            report(name, peak_bytes([sys.executable, "-c", IMPORTS + program + PRINT]) - base, size)
    whole = "trimtab compress, quantize_weights"
    if only in whole:
        recipe = path.parent / "recipe.yaml"
        recipe.write_text("steps: [{quantize_weights: {bits: 8}}]")
        program = COMPRESS.format(recipe=str(recipe), out=str(path.parent / "out"), **fields)
        report(whole, peak_bytes([sys.executable, "-c", program + PRINT]) - base, size)


def report(name: str, above_bytes: int, size_bytes: int) -> None:
    print(f"| {name} | {above_bytes / 1e6:,.0f} MB | {above_bytes / size_bytes:.2f} |", flush=True)


def peak_bytes(command: list[str]) -> int:
    """Returns the largest resident set that a process says it had."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.split()[-1]) * 1024


if __name__ == "__main__":
    main()
