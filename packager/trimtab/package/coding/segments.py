"""A model file cut into tensors and the structure between them.

Cuts decide only how small a file gets and how much two versions share: a file that is not
understood is one segment of unknown content, and is coded as well as its bytes allow.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

from trimtab.package.coding.onnx_layout import onnx_tensors
from trimtab.package.coding.openvino_layout import openvino_tensors
from trimtab.package.coding.segment import Segment
from trimtab.package.coding.tflite_layout import tflite_tensors

_TEXT = frozenset({".json", ".txt", ".xml", ".yaml", ".yml", ".csv"})


def segments(path: str, contents: Mapping[str, bytes]) -> list[Segment]:
    """Cuts a file.

    Args:
        path: The file's path in the package; its suffix tells the format.
        contents: All files of the package: OpenVINO keeps the map of a `.bin` in the `.xml`
            beside it.

    Returns:
        Segments in order, without gaps, together the file.
    """
    data = contents[path]
    suffix = PurePosixPath(path).suffix
    try:
        if suffix == ".bin":
            xml = contents.get(str(PurePosixPath(path).with_suffix(".xml")))
            tensors = openvino_tensors(xml) if xml is not None else []
        else:
            tensors = list(_FORMATS[suffix](data)) if suffix in _FORMATS else []
    except (struct.error, IndexError, ValueError):
        # Not what its suffix says. Whether it is a model is for the runtime to decide.
        tensors = []
    if not tensors and data:
        return [Segment(0, len(data), "structure" if suffix in _TEXT else "unknown")]
    return _without_gaps(tensors, len(data))


def _without_gaps(tensors: Iterable[Segment], size_bytes: int) -> list[Segment]:
    """Sorts tensors, drops those that overlap one before, and fills the gaps with structure."""
    found: list[Segment] = []
    at = 0
    for tensor in sorted(tensors, key=lambda segment: segment.start):
        if tensor.start < at or not tensor.start < tensor.stop <= size_bytes:
            continue
        if tensor.start > at:
            found.append(Segment(at, tensor.start, "structure"))
        found.append(tensor)
        at = tensor.stop
    if at < size_bytes:
        found.append(Segment(at, size_bytes, "structure"))
    return found


_FORMATS: dict[str, Callable[[bytes], Iterable[Segment]]] = {
    ".onnx": onnx_tensors,
    ".tflite": tflite_tensors,
}
