"""Packages whose manifest, golden samples or chunks are wrong."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import zstandard

from support.hundred_device import Surroundings
from support.hundred_kinds import Attack, Case, Kind
from support.hundred_models import Array
from support.hundred_packages import edit, raw_edit, with_file, with_golden
from support.manifests import SmallPackage
from trimtab.package.encoding import encode_change
from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.manifest import (
    Chunk,
    Delta,
    Hardware,
    PackageFile,
    Quantization,
    TensorSpec,
)

Change = Callable[[dict[str, Any]], None]


def _told(name: str, change: Change, *reasons: str, families: Any = None) -> Kind:
    """A kind whose manifest says something else."""
    attack = lambda case: Attack(raw_edit(case.made.package, change))  # noqa: E731
    return Kind(name, reasons or ("format",), "refused", attack, families)


def _set(path: str, value: Any) -> Change:
    """Returns a change of one field, such as `runtime.name`."""
    *way, last = path.split(".")

    def change(fields: dict[str, Any]) -> None:
        for name in way:
            fields = fields[int(name)] if isinstance(fields, list) else fields[name]
        fields[last] = value

    return change


def _rename_file(value: str) -> Change:
    def change(fields: dict[str, Any]) -> None:
        fields["files"].append({**fields["files"][0], "path": value})

    return change


def _other_name(case: Case) -> Attack:
    return Attack(case.made.package, target=f"{case.family.name}-other.json")


def _lacks_runtime(case: Case) -> Attack:
    return Attack(case.made.package, around=Surroundings(runtimes_missing=(case.family.runtime,)))


def _full_disk(case: Case) -> Attack:
    return Attack(case.made.package, around=Surroundings(free_bytes=100_000))


def _hardware(case: Case, hardware: Hardware) -> Attack:
    return Attack(edit(case.made.package, hardware=hardware))


def _edges(case: Case, change: Callable[[TensorSpec], TensorSpec], side: str) -> Attack:
    specs = getattr(case.made.manifest, side)
    return Attack(edit(case.made.package, **{side: tuple(map(change, specs))}))


def _edge_kind(
    name: str, side: str, change: Callable[[TensorSpec], TensorSpec], **fit: Any
) -> Kind:
    attack = functools.partial(_edges, change=change, side=side)
    return Kind(name, ("format",), "refused", attack, **fit)


def _shifted_zero(spec: TensorSpec) -> TensorSpec:
    found = spec.quantization
    assert found is not None
    return msgspec.structs.replace(
        spec,
        quantization=Quantization(scales=found.scales, zero_points=(found.zero_points[0] + 1,)),
    )


def _swapped_inputs(case: Case) -> Attack:
    return Attack(edit(case.made.package, inputs=case.made.manifest.inputs[::-1]))


# Golden samples


def _golden(case: Case, content: bytes) -> Attack:
    return Attack(with_file(case.made.package, case.made.manifest.golden.path, content))


def _golden_arrays(case: Case, change: Callable[[dict[str, Array]], dict[str, Array]]) -> Attack:
    return Attack(with_golden(case.made, change(dict(case.made.samples.arrays))))


def _bomb(case: Case) -> Attack:
    """An `.npz` of a megabyte that unpacks to a gigabyte."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("in_0.npy", "w") as file:
            header = {"descr": "|i1", "fortran_order": False, "shape": (1 << 30,)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(1 << 10):
                file.write(bytes(1 << 20))
        archive.writestr("out_0.npy", b"")
    return _golden(case, stream.getvalue())


def _boast(case: Case) -> Attack:
    """An `.npz` whose header promises 4 TB that are not there."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("in_0.npy", "out_0.npy"):
            entry = io.BytesIO()
            header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
            np.lib.format.write_array_header_1_0(entry, header)
            archive.writestr(name, entry.getvalue() + bytes(64))
    return _golden(case, stream.getvalue())


# Chunks and streams


def _new_chunk(package: SmallPackage) -> Chunk:
    """A chunk that the device cannot have: golden samples are drawn anew for each package."""
    return package.manifest.file(package.manifest.golden.path).chunks[0]


def _spoilt_chunk(case: Case, change: Callable[[bytes], bytes | None]) -> Attack:
    """The network changes one chunk; the device must see that by its hash."""
    victim = _new_chunk(case.made.package)

    def spoil(chunk: Chunk, wire: bytes) -> bytes | None:
        return change(wire) if chunk.sha256 == victim.sha256 else wire

    return Attack(case.made.package, around=Surroundings(spoil=spoil))


def _entry(
    case: Case, path: str, change: Callable[[PackageFile], PackageFile], wire: Any
) -> Attack:
    package = case.made.package
    files = tuple(change(f) if f.path == path else f for f in case.made.manifest.files)
    changed = edit(package, files=files)
    return Attack(SmallPackage(changed.manifest, changed.manifest_bytes, package.wire | dict(wire)))


def _stream(case: Case, stream: bytes, **changes: Any) -> Attack:
    """The model's stream is another one, in one chunk that is listed rightly."""
    chunk = Chunk(sha256=sha256_hex(stream), wire_bytes=len(stream))
    return _entry(
        case,
        case.made.manifest.runtime.model,
        lambda file: msgspec.structs.replace(file, chunks=(chunk,), deltas=(), **changes),
        {chunk.sha256: stream},
    )


def _zstd(content: bytes, *, window_log: int = 0) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, window_log=window_log
    )
    # Its length is not told: else the frame asks for no more of a window than that.
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return b"\0" + frame.compress(content) + frame.flush()


def _other_bytes(case: Case) -> Attack:
    content = case.made.files[case.made.manifest.runtime.model]
    return _stream(case, _zstd(content[:-1] + bytes([content[-1] ^ 1])))


def _too_long_chunk(case: Case) -> Attack:
    return _stream(case, _zstd(case.rng.bytes(5 << 20)))


def _wrong_base(case: Case) -> Attack:
    """A delta from the active version's model that was made from another one."""
    good = case.device.good
    assert good is not None
    path = max(case.made.files, key=lambda name: len(case.made.files[name]))  # with the weights
    near = {n: a + (0.01 if a.dtype == np.float32 else 0) for n, a in case.weights.items()}
    other = case.family.write({n: a.astype(case.weights[n].dtype) for n, a in near.items()})
    coded = encode_change(path, case.made.files, other, 16 * 1024)
    delta = Delta(
        base_sha256=good.manifest.file(path).sha256, chunks=tuple(chunk for chunk, _ in coded)
    )
    # The only way there: the file's own chunks are dearer than any delta.
    dear = bytes(1 << 21)
    whole = Chunk(sha256=sha256_hex(dear), wire_bytes=len(dear))
    return _entry(
        case,
        path,
        lambda file: msgspec.structs.replace(file, chunks=(whole,), deltas=(delta,)),
        {whole.sha256: dear} | {chunk.sha256: wire for chunk, wire in coded},
    )


_LAYERS = ("layers", "value")
_FLOAT = ("layers", "image", "pair", "sequence", "value")

KINDS: tuple[Kind, ...] = (
    _told("newer format", _set("format", 3)),
    _told("unknown requires", _set("requires", ["quantum-weights"])),
    _told("unknown runtime", _set("runtime.name", "torchscript")),
    _told("unknown session option", _set("runtime.options", {"warp": 9}), "caller"),
    _told("path escapes", _rename_file("../../etc/cron.d/job")),
    _told("absolute path", _rename_file("/etc/passwd")),
    _told("path twice", lambda fields: fields["files"].append(fields["files"][0])),
    _told("model not among the files", _set("runtime.model", "other.bin")),
    _told("golden file not among the files", _set("golden.path", "missing.npz")),
    _told("negative size", _set("files.0.size_bytes", -1)),
    _told("no manifest", lambda fields: fields.clear()),
    _told("larger than any disk", _set("files.0.size_bytes", 1 << 60), "storage"),
    Kind("name or version not the target's", ("format",), "refused", _other_name),
    Kind("larger than the disk", ("storage",), "refused", _full_disk),
    Kind("wrong architecture", ("architecture",), "refused",
         lambda case: _hardware(case, Hardware(architectures=("riscv64", "aarch64x")))),
    Kind("needs more RAM", ("memory",), "refused",
         lambda case: _hardware(case, Hardware(min_ram_bytes=1 << 50))),
    Kind("runtime not installed", ("runtime",), "refused", _lacks_runtime),
    _edge_kind("input told with another name", "inputs",
               lambda spec: msgspec.structs.replace(spec, name="pixels")),
    _edge_kind("input told with another dtype", "inputs",
               lambda spec: msgspec.structs.replace(spec, dtype="uint8")),
    _edge_kind("input told with another shape", "inputs",
               lambda spec: msgspec.structs.replace(spec, shape=(*spec.shape[:-1], 99))),
    _edge_kind("output told with another shape", "outputs",
               lambda spec: msgspec.structs.replace(spec, shape=(None, 99))),
    _edge_kind("zero point told wrong", "inputs", _shifted_zero,
               families=("int8",), runtimes=("tflite",)),
    Kind("inputs told in another order", ("format",), "refused", _swapped_inputs, ("pair",)),
    Kind("golden samples garbled", ("format", "golden"), "refused",
         lambda case: _golden(case, case.rng.bytes(500))),
    Kind("golden file empty", ("format",), "refused", lambda case: _golden(case, b"")),
    Kind("no golden samples", ("format",), "refused", lambda case: _golden_arrays(
        case, lambda arrays: {name: array[:0] for name, array in arrays.items()})),
    Kind("fewer golden samples than told", ("format",), "refused", lambda case: _golden_arrays(
        case, lambda arrays: {name: array[:5] for name, array in arrays.items()})),
    Kind("golden samples of NaN", ("golden",), "refused", lambda case: _golden_arrays(
        case, lambda a: {**a, "out_0": np.full_like(a["out_0"], np.nan)}), _FLOAT),
    Kind("golden outputs of another model", ("golden",), "refused", lambda case: _golden_arrays(
        case, lambda a: {**a, "out_0": np.roll(a["out_0"], 1, 0)}), _FLOAT),
    Kind("golden output lacks", ("format", "golden"), "refused", lambda case: _golden_arrays(
        case, lambda a: {n: v for n, v in a.items() if n != "out_1"}), ("pair",)),
    Kind("golden file unpacks to a gigabyte", ("format",), "refused", _bomb),
    Kind("golden file promises terabytes", ("format",), "refused", _boast),
    Kind("chunk wrong on the wire", ("integrity",), "refused",
         lambda case: _spoilt_chunk(case, lambda wire: wire[:-1] + bytes([wire[-1] ^ 1]))),
    Kind("chunk too long on the wire", ("integrity",), "refused",
         lambda case: _spoilt_chunk(case, lambda wire: wire + b"\0")),
    Kind("chunk does not come", ("network",), "waiting",
         lambda case: _spoilt_chunk(case, lambda wire: None)),
    Kind("chunk longer than allowed", ("integrity",), "refused", _too_long_chunk),
    Kind("stream decodes to other bytes", ("integrity",), "refused", _other_bytes),
    Kind("stream of an unknown form", ("format",), "refused",
         lambda case: _stream(case, b"\x07" + case.rng.bytes(200))),
    Kind("stream ends early", ("format",), "refused",
         lambda case: _stream(case, _zstd(case.rng.bytes(3000))[:1000], size_bytes=3000)),
    Kind("decompression bomb", ("format", "integrity"), "refused",
         lambda case: _stream(case, _zstd(bytes(1 << 27)))),
    Kind("window of 128 MB", ("format",), "refused",
         lambda case: _stream(case, _zstd(case.rng.bytes(1 << 20), window_log=27),
                              size_bytes=1 << 20)),
    Kind("delta on the wrong base", ("integrity", "format"), "refused", _wrong_base, _LAYERS),
)  # fmt: skip
