"""Padding, strides and kernels: what convolutions and pooling have in common.

1-D operators run as 2-D ones of height 1, which is what TensorFlow and TFLite have kernels for.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.engine.registry import Call
from trimtab.errors import UnsupportedOperatorError


@dataclass(frozen=True)
class Window:
    """A 2-D window, height first.

    Attributes:
        kernel: Its size.
        strides: Its step.
        dilations: Distance of its taps.
        pads: Per axis, how much is added before and after.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]

    @property
    def is_valid(self) -> bool:
        """Whether nothing is padded."""
        return self.pads == ((0, 0), (0, 0))

    def is_same(self, size: tuple[int | None, int | None]) -> bool:
        """Whether the padding is what TensorFlow's SAME means for an input of this size.

        SAME gives ceil(size / stride) outputs, with the odd element of padding at the end
        (tf.nn, "Notes on padding").
        """
        for axis in range(2):
            if self.pads[axis] == (0, 0) and self.kernel[axis] == 1:
                continue
            length = size[axis]
            if length is None:
                return False
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            stride = self.strides[axis]
            total = max((-(-length // stride) - 1) * stride + reach - length, 0)
            if self.pads[axis] != (total // 2, total - total // 2):
                return False
        return True


def window(call: Call, kernel: tuple[int, ...], size: tuple[int | None, ...]) -> Window:
    """Reads a node's window.

    Args:
        call: The node.
        kernel: Size of the kernel per spatial axis.
        size: Size of the input per spatial axis; None is free.

    Raises:
        UnsupportedOperatorError: `auto_pad` is given for an input of free size.
    """
    rank = len(kernel)
    strides = tuple(call.attribute("strides") or (1,) * rank)
    dilations = tuple(call.attribute("dilations") or (1,) * rank)
    pads = _pads(call, kernel, strides, dilations, size)
    if rank == 1:
        return Window((1, kernel[0]), (1, strides[0]), (1, dilations[0]), ((0, 0), pads[0]))
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1]),
    )


def _pads(
    call: Call,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    size: tuple[int | None, ...],
) -> list[tuple[int, int]]:
    rank = len(kernel)
    mode = call.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = tuple(call.attribute("pads") or (0,) * (2 * rank))
        return [(pads[axis], pads[axis + rank]) for axis in range(rank)]
    if mode == "VALID":
        return [(0, 0)] * rank
    result = []
    for axis in range(rank):
        length = size[axis]
        if length is None:
            raise UnsupportedOperatorError(
                f"node {call.node.name!r}: auto_pad={mode} needs an input of known size",
                [call.node.op_type],
            )
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        total = max((-(-length // strides[axis]) - 1) * strides[axis] + reach - length, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return result
