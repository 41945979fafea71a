"""Keeps recurrent layers with stored integer weights in float in OpenVINO.

Next to a FakeQuantize, OpenVINO 2026.4 takes a LSTMSequence or GRUSequence whose weights are
integers behind Convert and Multiply for one to run in int8. It does so wrongly: an LSTM was off by
22 % of its largest output, a GRU with a state of its own did not load ("could not create a
primitive descriptor", "expects Constant for port 3"). With one more Convert in between the pattern
does not match, the weights become float constants on loading, and the file still stores integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Foreign = Any
"""An object of OpenVINO, which ships no complete type information."""

_RECURRENT = frozenset(
    {"GRUCell", "GRUSequence", "LSTMCell", "LSTMSequence", "RNNCell", "RNNSequence"}
)


def keep_recurrent_float(model: Foreign) -> None:
    """Lets recurrent layers read integer weights by way of 32-bit integers, in place."""
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() not in _RECURRENT:
            continue
        for convert in _converts_of_codes(node):
            wide = opset13.convert(convert.input_value(0), "i32")
            convert.input(0).replace_source_output(wide.output(0))


def _converts_of_codes(node: Foreign) -> Iterator[Foreign]:
    """Yields what makes floats of integer constants, for the inputs that are constants."""
    for port in range(node.get_input_size()):
        above = _ancestors(node.input_value(port).get_node())
        if all(each.get_type_name() not in ("Parameter", "FakeQuantize") for each in above):
            yield from filter(_makes_floats_of_codes, above)


def _makes_floats_of_codes(node: Foreign) -> bool:
    if node.get_type_name() != "Convert":
        return False
    codes = node.input_value(0).get_node()
    kind = codes.get_element_type()
    return bool(codes.get_type_name() == "Constant" and kind.is_integral() and kind.bitwidth <= 8)


def _ancestors(node: Foreign) -> list[Foreign]:
    """Returns a node and all that it is computed from."""
    found = {node.get_name(): node}
    queue = [node]
    while queue:
        each = queue.pop()
        sources = [each.input_value(port).get_node() for port in range(each.get_input_size())]
        new = {source.get_name(): source for source in sources if source.get_name() not in found}
        found |= new
        queue += new.values()
    return list(found.values())
