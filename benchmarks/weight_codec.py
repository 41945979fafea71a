"""The weight codec beside zstd, xz, brotli, bsdiff and constriction.

    python benchmarks/weight_codec.py [MODEL ...] [--bsdiff] [--json RESULT.json]

Files: every MODEL (.onnx, .tflite, .bin beside its .xml, .safetensors) coded whole, its decoding
time in processor time, best of 5, and the decoder's memory in a process of its own.
Tensors: each int8, clustered and pruned tensor above 64 KiB of the MODELs and some that are made
here, against the order-0 entropy of its symbols; int8 ones beside constriction's ANS coder too.
Deltas: 16 int8 layers of 1 Mi Gaussian weights, all or the last changed as in a fine-tune;
`--bsdiff` makes bsdiff's too, which takes minutes.

zstd is at level 19, xz at 9e, brotli at quality 11 with a window of 16 MiB, or at 9 above 4 MB.
Needs: trimtab, onnx, brotli, bsdiff4, constriction.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import brotli
import constriction
import numpy as np
import onnx
import zstandard
from digits import machine
from onnx import helper, numpy_helper

from trimtab.package.coding.segments import segments
from trimtab.package.coding.stream import encode_delta, encode_stream
from trimtab_agent.coding.stream import decode_stream

SEED = 20261122
LARGE_BYTES = 4_000_000
MEMORY = """
import sys
import numpy, trimtab_agent.coding.stream as stream
def kib(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))
def pieces():
    with open(sys.argv[1], "rb") as file:
        while piece := file.read(98304):
            yield piece
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # forget the peak of importing
before = kib("VmRSS:")
for _ in stream.decode_stream(pieces(), int(sys.argv[2])):
    pass
print((kib("VmHWM:") - before) * 1024)
"""


class Bytes:
    """The base of a delta, in memory."""

    def __init__(self, data):
        self._data = data

    def read(self, offset, count):
        """Returns bytes from anywhere in the base."""
        return self._data[offset : offset + count]


def timed(work, repeats=1):
    """Returns the last result and the best processor time in seconds."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        result = work()
        best = min(best, time.process_time() - begin)
    return result, best


def parts_of(path, data):
    contents = {path.name: data}
    xml = path.with_suffix(".xml")
    if path.suffix == ".bin" and xml.exists():
        contents[xml.name] = xml.read_bytes()
    return segments(path.name, contents)


def decode(stream, size_bytes, base=None):
    return b"".join(decode_stream([stream], size_bytes, base=base))


def memory_bytes(stream, size_bytes):
    with tempfile.NamedTemporaryFile() as file:
        file.write(stream)
        file.flush()
        command = [sys.executable, "-c", MEMORY, file.name, str(size_bytes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def whole_file(name, path, data):
    parts = parts_of(path, data)
    stream, encode_s = timed(lambda: encode_stream(data, parts).data)
    content, decode_s = timed(lambda: decode(stream, len(data)), 5)
    assert content == data
    quality = 11 if len(data) <= LARGE_BYTES else 9
    sizes = {
        "ours": len(stream),
        "zstd": len(zstandard.ZstdCompressor(level=19).compress(data)),
        "xz": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
        "brotli": len(brotli.compress(data, quality=quality, lgwin=24)),
    }
    row = {
        "file": name,
        "bytes": len(data),
        **sizes,
        "to_zstd": sizes["ours"] / sizes["zstd"],
        "to_best_peer": sizes["ours"] / min(sizes["zstd"], sizes["xz"], sizes["brotli"]),
        "encode_s": encode_s,
        "decode_mb_s": len(data) / 1e6 / decode_s,
        "largest_tensor": max(part.stop - part.start for part in parts),
        "memory_bytes": memory_bytes(stream, len(data)),
    }
    print(
        f"{name:34} {len(data):>10,} {sizes['ours']:>10,} {sizes['zstd']:>10,} {sizes['xz']:>10,}"
        f" {sizes['brotli']:>10,} {row['to_zstd']:6.3f} {row['to_best_peer']:6.3f}"
        f" {encode_s:7.1f} {row['decode_mb_s']:6.0f} {row['memory_bytes'] / 1e6:6.1f}"
        f" {row['largest_tensor'] / 1e6:6.1f}",
        flush=True,
    )
    return row


def entropy_bytes(symbols):
    _, counts = np.unique(symbols, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum() * symbols.size / 8)


def bound_bytes(values):
    """Order-0 entropy: of the symbols and their palette, or of a mask and what it leaves."""
    distinct = np.unique(values)
    if values.itemsize == 1 or distinct.size <= 256:
        return entropy_bytes(values) + (distinct.nbytes if values.itemsize > 1 else 0)
    bits = values.view("<u4")
    rest = bits[bits << 1 != 0]
    mask = np.where(bits == 0, 0, np.where(bits << 1 == 0, 1, 2))
    return entropy_bytes(mask) + entropy_bytes(rest << 1 >> 24) + rest.size * 3


def constriction_bytes(symbols):
    values, indices = np.unique(symbols, return_inverse=True)
    counts = np.bincount(indices).astype(np.float64)
    model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(indices.astype(np.int32), model)
    size_bytes = coder.num_bits() / 8 + 2 * values.size  # its model, 16 bits a symbol
    decoded, decode_s = timed(lambda: coder.decode(model, indices.size))
    assert (decoded == indices).all()
    return size_bytes, decode_s


def one_tensor(kind, name, values):
    data = onnx_file([values])
    stream = encode_stream(data, segments("m.onnx", {"m.onnx": data})).data
    bound = bound_bytes(values.reshape(-1))
    row = {"kind": kind, "tensor": name, "bytes": values.nbytes, "ratio": len(stream) / bound}
    row["zstd_ratio"] = len(zstandard.ZstdCompressor(level=19).compress(data)) / bound
    extra = ""
    if values.itemsize == 1:
        peer_bytes, decode_s = constriction_bytes(values.reshape(-1))
        _, our_s = timed(lambda: decode(stream, len(data)), 5)
        row |= {"constriction_ratio": peer_bytes / bound}
        row |= {"mb_s": values.nbytes / 1e6 / our_s}
        row |= {"constriction_mb_s": values.nbytes / 1e6 / decode_s}
        extra = (
            f"constriction {row['constriction_ratio']:.4f}; decoding {row['mb_s']:.0f} MB/s,"
            f" constriction {row['constriction_mb_s']:.0f}"
        )
    print(
        f"{kind:10} {name[-34:]:34} {values.nbytes:>10,} {row['ratio']:.4f}"
        f" zstd {row['zstd_ratio']:.4f} {extra}"
    )
    return row


def kind_of(values):
    """Says what a tensor is for the second table; None if it is none of these."""
    if values.nbytes < 65536 or values.dtype not in (np.int8, np.uint8, np.float32):
        return None
    if values.itemsize == 1:
        return "int8"
    if np.unique(values[:64]).size <= 256 and np.unique(values).size <= 256:
        return "clustered"
    return "pruned" if (values == 0).mean() > 0.3 else None


def made_tensors():
    random = np.random.default_rng(SEED)
    weights = random.normal(size=(512, 512)).astype(np.float32)
    scaled = weights * np.exp(random.normal(size=(512, 1))).astype(np.float32)
    yield "normal", np.rint(np.clip(weights * 30, -127, 127)).astype(np.int8)
    yield "channels of own scale", np.rint(np.clip(scaled * 10, -127, 127)).astype(np.int8)
    centres = np.sort(random.normal(size=32)).astype(np.float32)
    yield "32 values", centres[np.abs(weights[:, :, None] - centres).argmin(-1)]
    kept = np.abs(weights) > np.quantile(np.abs(weights), 0.8)
    yield "80 % zeros", np.where(kept, weights, np.float32(0))
    yield (
        "90 % zeros, 16 values",
        np.where(
            np.abs(weights) > 1.65, centres[::2][np.rint(np.abs(weights) * 3).astype(int) % 16], 0
        ).astype(np.float32),
    )


def onnx_file(tensors):
    initializers = [numpy_helper.from_array(t, f"t{i}") for i, t in enumerate(tensors)]
    graph = helper.make_graph([], "g", [], [], initializer=initializers)
    return helper.make_model(graph).SerializeToString()


def tensors_of(path):
    if path.suffix == ".onnx":
        for tensor in onnx.load(path).graph.initializer:
            yield tensor.name, numpy_helper.to_array(tensor)


def from_safetensors(path):
    """Returns a .safetensors file's float tensors as the initializers of an ONNX file."""
    data = path.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:head])
    found = []
    for name, entry in entries.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, last = entry["data_offsets"]
            found.append(np.frombuffer(data[head + first : head + last], "<f4"))
            found[-1] = found[-1].reshape(entry["shape"])
    return onnx_file(found)


def deltas(with_bsdiff):
    random = np.random.default_rng(SEED)
    layers = [random.normal(size=(1024, 1024)) * 0.02 for _ in range(16)]
    tops = [np.abs(layer).max() for layer in layers]

    def quantized(weights):
        pairs = zip(weights, tops, strict=True)
        return onnx_file(
            [np.clip(np.rint(w / top * 127), -127, 127).astype(np.int8) for w, top in pairs]
        )

    head = [*layers[:-1], layers[-1] + random.normal(size=layers[-1].shape) * 2e-3]
    every = [layer + random.normal(size=layer.shape) * 2e-4 for layer in layers]
    before = quantized(layers)
    parts = segments("m.onnx", {"m.onnx": before})
    rows = []
    for name, after in (("all layers", quantized(every)), ("the last layer", quantized(head))):
        stream, encode_s = timed(
            lambda after=after: (
                encode_delta(after, segments("m.onnx", {"m.onnx": after}), before, parts).data
            ),
            3,
        )
        content, decode_s = timed(
            lambda after=after, stream=stream: decode(stream, len(after), Bytes(before)), 3
        )
        assert content == after
        row = {"delta": name, "bytes": len(after), "ours": len(stream), "encode_s": encode_s}
        row["decode_mb_s"] = len(after) / 1e6 / decode_s
        if with_bsdiff:
            import bsdiff4

            patch, row["bsdiff_s"] = timed(lambda after=after: bsdiff4.diff(before, after))
            row["bsdiff"] = len(patch)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--bsdiff", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine(), f"seed {SEED}")
    print(
        f"{'file':34} {'bytes':>10} {'ours':>10} {'zstd':>10} {'xz':>10} {'brotli':>10}"
        f" {'/zstd':>6} {'/best':>6} {'enc s':>7} {'MB/s':>6} {'mem MB':>6} {'tensor':>6}"
    )
    files = []
    for path in options.models:
        name = f"{path.parent.name}/{path.name}"
        if path.suffix == ".safetensors":
            files.append(whole_file(name, Path("m.onnx"), from_safetensors(path)))
        else:
            files.append(whole_file(name, path, path.read_bytes()))
    tensors = [one_tensor(kind_of(t) or "int8", name, t) for name, t in made_tensors()]
    for path in options.models:
        for name, values in tensors_of(path):
            if kind := kind_of(values):
                tensors.append(one_tensor(kind, f"{path.parent.name} {name}", values))
    result = {"files": files, "tensors": tensors, "deltas": deltas(options.bsdiff)}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


main()
