"""Where the constants of an OpenVINO `.bin` file lie: the `.xml` beside it says so."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from trimtab.package.coding.segment import Segment, tensor

_ELEMENTS = {
    "f32": (4, True),
    "f16": (2, True),
    "bf16": (2, True),
    "f64": (8, True),
    "i8": (1, False),
    "u8": (1, False),
    "i16": (2, False),
    "u16": (2, False),
    "i32": (4, False),
    "u32": (4, False),
    "i64": (8, False),
    "u64": (8, False),
    "boolean": (1, False),
}
"""By `element_type`; smaller ones share a byte."""


def openvino_tensors(xml: bytes) -> list[Segment]:
    """Returns the constants of a `.bin` file.

    Args:
        xml: The `.xml` file beside it: its Const layers give offset, size, type and shape.

    Raises:
        ValueError: A number in it is none.
    """
    try:
        root = ET.fromstring(xml)  # noqa: S314 - the host's own export, read on the host
    except ET.ParseError:
        return []
    found = []
    for element in root.iterfind("./layers/layer/data[@offset][@size]"):
        offset, size = int(element.attrib["offset"]), int(element.attrib["size"])
        shape = tuple(int(n) for n in element.attrib.get("shape", "").split(",") if n.strip())
        kind = _ELEMENTS.get(element.attrib.get("element_type", ""), (0, False))
        found.append(tensor(offset, offset + size, kind, shape))
    return found
