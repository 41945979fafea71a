"""Which form of a stored weight each of TFLite's kernels reads, found by trial.

Tried on ai-edge-litert 2.3 and tflite-runtime 2.14; docs/targets.md has the times.
Several kernels take a form that they were not written for and answer with nonsense: what is not
listed here was wrong, slower than float, or refused.

* Behind a DEQUANTIZE, int8 and float16 run at float's speed in both, computed back once on
  loading; 4 and 2 bits make XNNPACK pass the reader over (three times slower than float) and do
  not load in 2.14, so that these codes get a byte each there.
* Read directly, activations are rounded to 8 bits at run time ("hybrid" kernels).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimtab.targets.tflite_codes import Codes


@dataclass(frozen=True)
class Direct:
    """Codes that a kernel reads itself.

    Attributes:
        bits: 2, 4 or 8, of each code as stored.
        version: Of the operator, the oldest whose kernel computes this rightly.
    """

    bits: int
    version: int


@dataclass(frozen=True)
class Use:
    """Where an operator reads a constant.

    Attributes:
        operator: Its name in `BuiltinOperator`.
        position: Of the constant among its inputs.
        data_channels: Size of the last axis of its first input; None if that is unknown.
    """

    operator: str
    position: int
    data_channels: int | None


def direct_form(use: Use, codes: Codes) -> Direct | str:
    """Returns how an operator can read codes directly, or why it cannot."""
    rule = _RULES.get((use.operator, use.position))
    if rule is None:
        return _REFUSED.get(use.operator, f"{use.operator} has no kernel for integer weights alone")
    if not codes.symmetric:
        return f"{use.operator} takes codes around zero only"
    return rule(use, codes)


def _fully_connected(_use: Use, codes: Codes) -> Direct | str:
    """Version 12 knows a scale for each row; 2.14, which ends at 10, uses the first for all."""
    if codes.block is not None:
        if codes.block % 32 or codes.bits > 4:
            return "FULLY_CONNECTED takes 4-bit codes in blocks of a multiple of 32 only"
        return Direct(4, 12)
    if codes.axis:
        return "FULLY_CONNECTED takes a scale for each output only"
    return Direct(codes.bits, 12 if len(codes.scales) > 1 else 9)


def _conv(use: Use, codes: Codes) -> Direct | str:
    if codes.block is not None or codes.axis:
        return f"{use.operator} takes a scale for each output channel only"
    if codes.values.shape[-1] != use.data_channels:
        return f"grouped {use.operator} has no kernel for integer weights alone"
    return Direct(8, 5)


def _transpose_conv(use: Use, codes: Codes) -> Direct | str:
    if codes.block is not None or codes.axis:
        return f"{use.operator} takes a scale for each output channel only"
    return Direct(8, 2)


def _batch_matmul(use: Use, codes: Codes) -> Direct | str:
    if len(codes.scales) > 1:
        return f"{use.operator} takes one scale only: with several its results were a third off"
    return Direct(8, 4)


_RULES: dict[tuple[str, int], Callable[[Use, Codes], Direct | str]] = {
    ("FULLY_CONNECTED", 1): _fully_connected,
    ("CONV_2D", 1): _conv,
    ("TRANSPOSE_CONV", 1): _transpose_conv,
    ("BATCH_MATMUL", 1): _batch_matmul,
}

_REFUSED = {
    "DEPTHWISE_CONV_2D": (
        "DEPTHWISE_CONV_2D rounding its activations itself is four times slower than in float"
    ),
}
