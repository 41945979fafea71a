"""What a `.tflite` file says of itself: names of inputs and outputs, class names, versions.

The metadata is a flatbuffer of its own within the file, of the schema metadata_schema.fbs of
tflite-support (identifier M001), in a buffer that the file calls `TFLITE_METADATA`. Files that
belong to it, here the class names, are a zip archive behind the model; readers of TFLite files
start at the front, readers of zip archives at the end.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from trimtab.targets.tflite_flatbuffer import add_buffer, text
from trimtab.targets.writing import WriteRequest

BUFFER_NAME = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
_IDENTIFIER = b"M001"
_AXIS_LABELS = 2
"""TENSOR_AXIS_LABELS of AssociatedFileType: one name for each index of the last axis."""

_MODEL = {"name": 0, "description": 1, "subgraphs": 3, "min_parser_version": 7}
_SUBGRAPH = {"inputs": 2, "outputs": 3}
_TENSOR = {"name": 0, "description": 1, "files": 6}
_FILE = {"name": 0, "description": 1, "type": 2}
"""Positions of fields in their tables."""

_FIELDS = 12
"""As many as the largest of these tables has."""

_ARCHIVE_DATE = (1980, 1, 1, 0, 0, 0)
"""The first that a zip archive can hold: the same model gives the same bytes."""


def describe_file(file: Any, model: ir.Model, request: WriteRequest) -> None:
    """Puts metadata into a file, in place.

    Args:
        file: A `ModelT`.
        model: The graph that it was made from.
        request: Names the model and its classes.
    """
    from ai_edge_litert import schema_py_generated as schema

    entry = schema.MetadataT()
    entry.name, entry.buffer = BUFFER_NAME, add_buffer(file, _metadata(model, request))
    kept = [other for other in file.metadata or () if text(other.name) != BUFFER_NAME]
    file.metadata = [*kept, entry]
    file.description = request.stem


def forget_oldest_runtime(file: Any) -> None:
    """Drops the converter's word on which runtime is new enough: weights took newer kernels since.

    Which release brought each of these is nowhere listed up to now; a runtime that is too old
    refuses the operator's version.
    """
    file.metadata = [e for e in file.metadata or () if text(e.name) != "min_runtime_version"]


def with_labels(content: bytes, labels: Sequence[str] | None) -> bytes:
    """Returns a file with class names behind it, one a line; without any, the file as it is."""
    if not labels:
        return content
    archive = io.BytesIO(content)
    with zipfile.ZipFile(archive, "a") as writer:
        lines = "".join(f"{' '.join(label.splitlines())}\n" for label in labels)
        writer.writestr(zipfile.ZipInfo(LABELS_FILE, _ARCHIVE_DATE), lines)
    return archive.getvalue()


def _metadata(model: ir.Model, request: WriteRequest) -> bytes:
    """Returns the flatbuffer; only the first output, by custom the scores, can have class names."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    write = _Writer(builder)
    labels = []
    if request.labels:
        about = {"name": LABELS_FILE, "description": "Class names, one a line."}
        labels = [write.table(_FILE, about, type_byte=_AXIS_LABELS)]
    inputs = [write.tensor(value, []) for value in model.graph.inputs]
    outputs = [
        write.tensor(value, [] if index else labels)
        for index, value in enumerate(model.graph.outputs)
    ]
    subgraph = write.table(
        _SUBGRAPH, {"inputs": write.vector(inputs), "outputs": write.vector(outputs)}
    )
    fields: dict[str, str | int] = {
        "name": request.stem,
        "description": "Written by Trimtab.",
        "subgraphs": write.vector([subgraph]),
        "min_parser_version": "1.0.0",
    }
    builder.Finish(write.table(_MODEL, fields), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


class _Writer:
    """Writes tables; flatbuffers are written from the leaves to the root."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def tensor(self, value: ir.Value, files: list[int]) -> int:
        """Writes what is known of an input or output, and returns its place."""
        dims = ", ".join(str(dim) for dim in value.shape or ())
        kind = "" if value.dtype is None else f"{value.dtype.name.lower()} "
        fields: dict[str, str | int] = {
            "name": str(value.name),
            "description": f"{kind}[{dims}] in the graph that the file was made from.",
        }
        if files:
            fields["files"] = self.vector(files)
        return self.table(_TENSOR, fields)

    def vector(self, places: Sequence[int]) -> int:
        """Writes a vector of tables."""
        self._builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self._builder.PrependUOffsetTRelative(place)
        return int(self._builder.EndVector())

    def table(
        self,
        positions: dict[str, int],
        fields: Mapping[str, str | int],
        *,
        type_byte: int | None = None,
    ) -> int:
        """Writes a table of texts and places of what was written before."""
        places = {
            name: self._builder.CreateString(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        self._builder.StartObject(_FIELDS)
        for name, place in places.items():
            self._builder.PrependUOffsetTRelativeSlot(positions[name], place, 0)
        if type_byte is not None:
            self._builder.PrependInt8Slot(positions["type"], type_byte, 0)
        return int(self._builder.EndObject())
