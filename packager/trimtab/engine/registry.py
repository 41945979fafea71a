"""What an operator's function gets, and how it makes itself known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx_ir as ir

from trimtab.engine.layout import Axes, Laid, arrange, onnx_order
from trimtab.errors import UnsupportedOperatorError

Weight = Callable[[Axes], Any]
"""Gives a weight in a physical order; a trainable one is a variable stored in that order."""


@dataclass(frozen=True)
class Call:
    """What an operator's function gets.

    Attributes:
        node: The node.
        inputs: Its inputs; None where an optional one is left out.
        weights: Per input, how to get it as a weight in a wished order; None if it is computed.
    """

    node: ir.Node
    inputs: tuple[Laid | None, ...]
    weights: tuple[Weight | None, ...]

    def __getitem__(self, index: int) -> Laid:
        """Returns an input that the operator requires."""
        value = self.inputs[index]
        if value is None:
            raise IndexError(f"{self.node.op_type} lacks its input {index}")
        return value

    def has(self, index: int) -> bool:
        """Says whether an optional input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def wants(self, index: int) -> bool:
        """Says whether anything reads output `index`."""
        if index >= len(self.node.outputs):
            return False
        output = self.node.outputs[index]
        return bool(output.uses()) or output.is_graph_output()

    def tensor(self, index: int) -> Any:
        """Returns a required input in ONNX's own order of axes."""
        return onnx_order(self[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        """Returns an attribute's value, or `default`."""
        attributes: Mapping[str, ir.Attr] = self.node.attributes
        return attributes[name].value if name in attributes else default

    def weight(self, index: int, axes: Axes) -> Any:
        """Returns input `index` in the physical order `axes`.

        A weight that is trained is kept in that order, so that a step does not permute it.
        """
        stored = self.weights[index]
        return arrange(self[index], axes) if stored is None else stored(axes)

    def array(self, index: int) -> Any:
        """Returns an input that must be constant, as numpy in ONNX's order.

        Raises:
            UnsupportedOperatorError: It is computed.
        """
        value = self[index]
        if not value.is_constant:
            source = self.node.inputs[index]
            raise self.unsupported(f"with a computed input {index} ({source and source.name!r})")
        return onnx_order(value)

    def integers(self, index: int, attribute: str) -> tuple[int, ...] | None:
        """Returns integers that newer opsets pass as an input and older ones as an attribute.

        Raises:
            UnsupportedOperatorError: They are computed.
        """
        if self.has(index):
            return tuple(int(item) for item in self.array(index).reshape(-1))
        given = self.attribute(attribute)
        return None if given is None else tuple(given)

    def unsupported(self, what: str) -> UnsupportedOperatorError:
        """Returns the error for a variant of an operator that the engine does not run.

        Args:
            what: The variant, in words that continue the operator's name.
        """
        name = self.node.op_type
        return UnsupportedOperatorError(
            f"node {self.node.name!r}: {name} {what} is not supported by the training engine, "
            "which fine-tuning and TFLite need",
            [name],
        )


Outputs = Laid | tuple[Laid | None, ...]
"""One value, or one per output of the node; None for an optional one that nobody reads."""

Operator = Callable[[Call], Outputs]


@dataclass(frozen=True)
class Registered:
    """An operator that the engine knows.

    Attributes:
        run: Its function.
        trainable: Positions of inputs that training may change if they are initializers.
    """

    run: Operator
    trainable: frozenset[int]


REGISTRY: dict[str, Registered] = {}
"""Every operator by its ONNX name; `trimtab.engine.supported` fills it."""

_Function = TypeVar("_Function", bound=Operator)


def operator(*names: str, trainable: tuple[int, ...] = ()) -> Callable[[_Function], _Function]:
    """Registers a function for ONNX operators.

    Args:
        names: The operators' names.
        trainable: Positions of inputs that training may change if they are initializers.
    """

    def register(function: _Function) -> _Function:
        for name in names:
            REGISTRY[name] = Registered(function, frozenset(trainable))
        return function

    return register
