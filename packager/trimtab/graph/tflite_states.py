"""Variables of a `.tflite` file, which ONNX lacks, as inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def free_states(model: Any, graph: Any) -> None:
    """Takes the variables out of a graph, in place.

    One that is assigned, such as the state of a streaming model, becomes an input of its name, in
    the type that it is kept in, and an output `<name>_next`: whoever runs the model hands it on.
    One that is only read becomes the constant that it is set to at the start.

    Args:
        model: A `ModelT` of TFLite's schema.
        graph: The one of its subgraphs that is run.

    Raises:
        KeyError: A variable is only read, and nothing sets it.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    names = _Names(graph)
    values: dict[str, int] = {}
    replaced: dict[int, int] = {}
    read, assigned = dict[str, int](), set[str]()
    kept = []
    for operator, kind in list(_operators(model, graph)):
        operator.inputs = [replaced.get(index, index) for index in operator.inputs]
        if kind == kinds.VAR_HANDLE:
            names.add(operator)
        elif kind == kinds.READ_VARIABLE:
            name, output = names[operator], operator.outputs[0]
            replaced[output] = values.setdefault(name, output)
            if replaced[output] == output:
                read[name] = output
        elif kind == kinds.ASSIGN_VARIABLE:
            values[names[operator]] = operator.inputs[1]
            assigned.add(names[operator])
        elif kind != kinds.CALL_ONCE:
            kept.append(operator)
    initial = _initial_values(model, graph)
    graph.operators = kept
    graph.outputs = [replaced.get(index, index) for index in graph.outputs]
    for name in read:
        if name not in assigned:
            graph.tensors[read[name]].buffer = initial[name]
    for name in sorted(assigned):
        _add_ports(graph, name, read.get(name), values[name])


class _Names:
    """The variables' names by the tensors that refer to them."""

    def __init__(self, graph: Any) -> None:
        self._tensors = graph.tensors
        self._names: dict[int, str] = {}

    def add(self, handle: Any) -> None:
        """Takes the name that a VAR_HANDLE says, and frees it for a tensor."""
        tensor = handle.outputs[0]
        name = handle.builtinOptions.sharedName or self._tensors[tensor].name
        self._names[tensor] = name.decode() if isinstance(name, bytes) else name
        self._tensors[tensor].name = f"{self._names[tensor]}/handle"

    def __getitem__(self, operator: Any) -> str:
        return self._names[operator.inputs[0]]


def _add_ports(graph: Any, name: str, first: int | None, last: int) -> None:
    if first is not None:
        graph.tensors[first].name = name
        graph.inputs = [*graph.inputs, first]
    if last not in (*graph.inputs, *graph.outputs):
        graph.tensors[last].name = f"{name}_next"
        graph.outputs = [*graph.outputs, last]


def _operators(model: Any, graph: Any) -> Iterator[tuple[Any, int]]:
    """Yields a graph's operators, each with its number in `BuiltinOperator`."""
    for operator in graph.operators or []:
        code = model.operatorCodes[operator.opcodeIndex]
        yield operator, max(code.builtinCode, code.deprecatedBuiltinCode)


def _initial_values(model: Any, graph: Any) -> dict[str, int]:
    """Returns which buffer holds what each variable is set to at the start."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    buffers = {}
    for once, kind in _operators(model, graph):
        if kind == kinds.CALL_ONCE:
            start = model.subgraphs[once.builtinOptions.initSubgraphIndex]
            names = _Names(start)
            for operator, inner in _operators(model, start):
                if inner == kinds.VAR_HANDLE:
                    names.add(operator)
                elif inner == kinds.ASSIGN_VARIABLE:
                    buffers[names[operator]] = start.tensors[operator.inputs[1]].buffer
    return buffers
