"""Padding, strides and kernels: what convolutions and pooling have in common.

1-D operators run as 2-D ones of height 1, which is what TensorFlow and TFLite have kernels for.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.engine.layout import Axes, Laid, channels_last
from trimtab.engine.registry import Call


@dataclass(frozen=True)
class Window:
    """A 2-D window, height first.

    Attributes:
        kernel: Its size.
        strides: Its step.
        dilations: Distance of its taps.
        pads: Per axis, how much is added before and after, `overhang` included.
        overhang: Per axis, how much of what is added after is there for `ceil_mode` only.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    overhang: tuple[int, int]

    @property
    def is_valid(self) -> bool:
        """Whether nothing is padded."""
        return self.pads == ((0, 0), (0, 0))

    def is_same(self, size: tuple[int | None, int | None]) -> bool:
        """Whether the padding is what TensorFlow's SAME means for an input of this size.

        SAME puts the odd element of padding at the end (tf.nn, "Notes on padding").
        """
        for axis in range(2):
            if self.pads[axis] == (0, 0) and self.kernel[axis] == 1:
                continue
            length = size[axis]
            if length is None:
                return False
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            total = same_padding(length, reach, self.strides[axis])
            if self.pads[axis] != (total // 2, total - total // 2):
                return False
        return True


def same_padding(length: int, reach: int, stride: int) -> int:
    """Returns how much to add along an axis for ceil(length / stride) outputs."""
    return max((-(-length // stride) - 1) * stride + reach - length, 0)


def spatial_axes(call: Call) -> Axes:
    """Returns the order that a node's data is convolved or pooled in.

    Raises:
        UnsupportedOperatorError: The data is neither 1-D nor 2-D.
    """
    rank = call[0].rank
    if rank not in (3, 4):
        raise call.unsupported(f"over {rank - 2} dimensions")
    return channels_last(rank)


def window(call: Call, kernel: tuple[int, ...], data: Laid) -> Window:
    """Reads a node's window.

    Args:
        call: The node.
        kernel: Size of the kernel per spatial axis.
        data: What the window moves over.

    Raises:
        UnsupportedOperatorError: `auto_pad` or `ceil_mode` is given for an input of free size.
    """
    rank = len(kernel)
    strides = tuple(call.attribute("strides") or (1,) * rank)
    dilations = tuple(call.attribute("dilations") or (1,) * rank)
    sides = []
    for axis in range(rank):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        sides.append(_side(call, axis, reach, strides[axis], data.dim(axis + 2)))
    # One-dimensional: a height of 1, which nothing is done to.
    before, after, overhang = (
        (0,) * (2 - rank) + tuple(numbers) for numbers in zip(*sides, strict=True)
    )
    return Window(
        kernel=_two(kernel),
        strides=_two(strides),
        dilations=_two(dilations),
        pads=((before[0], after[0]), (before[1], after[1])),
        overhang=(overhang[0], overhang[1]),
    )


def _two(numbers: tuple[int, ...]) -> tuple[int, int]:
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (1, numbers[0])


def _side(
    call: Call, axis: int, reach: int, stride: int, length: int | None
) -> tuple[int, int, int]:
    """Returns what is added before and after along one axis, and how much of it is overhang."""
    mode = call.attribute("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = same_padding(_known(call, length, mode), reach, stride)
        small, large = total // 2, total - total // 2
        return (small, large, 0) if mode == "SAME_UPPER" else (large, small, 0)
    pads = call.attribute("pads")
    rank = call[0].rank - 2
    before, after = (pads[axis], pads[axis + rank]) if pads and mode == "NOTSET" else (0, 0)
    if not call.attribute("ceil_mode", 0):
        return before, after, 0
    overhang = _overhang(_known(call, length, "ceil_mode"), before, after, reach, stride)
    return before, after + overhang, overhang


def _known(call: Call, length: int | None, what: str) -> int:
    if length is None:
        raise call.unsupported(f"with {what} over an input of free size")
    return length


def _overhang(length: int, before: int, after: int, reach: int, stride: int) -> int:
    """Returns how far the last window of `ceil_mode` reaches past the padded input.

    A window that would start behind the input and its front padding is left out (ONNX operator
    AveragePool, `ceil_mode`).
    """
    steps = -(-(length + before + after - reach) // stride)
    if steps * stride >= length + before:
        steps -= 1
    return max(steps * stride + reach - (length + before + after), 0)
