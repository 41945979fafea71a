"""The gate: an exported file is run in its real runtime before it is let out.

Converters fail silently: a known one writes a file that loads, runs and answers at chance. So
each file is loaded here by the code that a device loads it with, and its outputs are compared
with the graph that it was made from, run by ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ExportError, UnsupportedOperatorError
from trimtab.graph.dequantize import dequantized
from trimtab.graph.precision import rounds_activations
from trimtab.graph.run import run_graph
from trimtab.targets.bisect import cut, cut_points, describe, first_departure, paired_name
from trimtab.targets.writing import Written
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import RuntimeName
from trimtab_agent.errors import CallerError, DeviceError, FormatError, RuntimeUnavailableError

Array = NDArray[Any]

FLOAT_RELATIVE_ERROR = 1e-3
"""Float kernels of different runtimes sum in different orders: relative errors near 1e-6 are
usual. A thousand times that is a mistake and not rounding."""

INT8_RELATIVE_ERROR = 0.15
INT8_COSINE = 0.99
"""Integer kernels of different runtimes round a half differently, and one step early in a network
becomes a few at its end: the largest error is loose, the direction of the outputs is not."""

QUANTIZED_EXPLAINED = 0.5
"""Share of the variance of a float model's outputs that the quantized one must explain. Int8 done
well explains more than 0.95; a model at chance explains nothing."""

FLOAT_DEPARTURES_RATIO = 1.5
"""A file beyond these limits is let out still if its distance from the float model, in root mean
squares, is at most so many times that of its graph."""

_BISECTED = 8
"""Samples that a search for the faulty layer looks at; each look runs two models."""


class Comparison(msgspec.Struct, kw_only=True, frozen=True):
    """Outputs of a file against those of its graph.

    Attributes:
        samples: How many were compared.
        max_abs_error: Largest difference of an element.
        relative_error: The same, as a share of the largest output of the graph.
        cosine: Smallest cosine similarity of a sample's outputs; None for all-zero outputs.
        agreement: Share of samples whose largest output is at the same place.
    """

    samples: int
    max_abs_error: float
    relative_error: float
    cosine: float | None
    agreement: float


def check_file(
    model: ir.Model, target: RuntimeName, written: Written, samples: tuple[Array, ...]
) -> Comparison:
    """Runs a file and compares it with its graph; the worst of several outputs counts.

    Raises:
        ExportError: It does not load or run, or is further off than rounding can explain; the
            message says by how much.
        RuntimeUnavailableError: The runtime is not installed here.
    """
    expected = run_graph(model, samples)
    name = written.path.name
    if not all(np.isfinite(array).all() for array in expected):
        raise ExportError(
            f"{name} for {target} cannot be checked: the model itself gives outputs that are "
            "not finite"
        )
    try:
        session = runtimes.load(target, written.path, options=written.options)
        actual = runtimes.run_samples(session, list(samples))
    except RuntimeUnavailableError:
        raise  # says nothing about the file
    except (FormatError, DeviceError, CallerError) as error:
        raise ExportError(f"{name} for {target} does not load or run: {error}") from error
    shapes = [array.shape for array in actual], [array.shape for array in expected]
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"{name} for {target} gives outputs of the shapes {shapes[0]}, the model {shapes[1]}"
        )
    results = [compare(one, other) for one, other in zip(actual, expected, strict=True)]
    faults = (_fault(result, quantized=rounds_activations(model)) for result in results)
    fault = next((fault for fault in faults if fault is not None), None)
    if fault is not None and not _is_as_near_to_float(model, samples, actual, expected):
        raise ExportError(
            f"{name} for {target} does not do what the model does: {fault} on "
            f"{len(samples[0])} samples"
        )
    return max(results, key=lambda result: result.relative_error)


def _is_as_near_to_float(
    model: ir.Model, samples: tuple[Array, ...], actual: Sequence[Array], expected: Sequence[Array]
) -> bool:
    """Says whether a file is about as near to the float model as its quantized graph is.

    In a network that amplifies rounding, two right files of one graph may be as far from each
    other as both are from the float model.
    """
    if not rounds_activations(model):
        return False
    try:
        twin = dequantized(model)
    except UnsupportedOperatorError:
        return False
    return all(
        follows(one, true)
        and np.square(one - true).mean()
        <= FLOAT_DEPARTURES_RATIO**2 * np.square(other - true).mean()
        for one, other, true in zip(actual, expected, run_graph(twin, samples), strict=True)
    )


def check_quantization(quantized: ir.Model, original: ir.Model, samples: tuple[Array, ...]) -> None:
    """Checks that a quantized graph still does what the float graph before it does.

    Args:
        quantized: The graph with QuantizeLinear/DequantizeLinear pairs.
        original: The float graph that it was made from.
        samples: One array per input, samples along axis 0.

    Raises:
        ExportError: The outputs no longer follow the float model's; the message says how far, and
            at which layer that begins.
    """
    for actual, expected in zip(
        run_graph(quantized, samples), run_graph(original, samples), strict=True
    ):
        if not follows(actual, expected):
            agreement = compare(actual, expected).agreement
            raise ExportError(
                f"quantization broke the model: its outputs explain "
                f"{max(_explained(actual, expected), 0):.0%} of the variance of the float model's "
                f"({QUANTIZED_EXPLAINED:.0%} is accepted) and give the same answer on "
                f"{agreement:.0%} of {len(actual)} samples"
                f"{_first_broken(quantized, original, samples)}. Check that the calibration data "
                "looks like real inputs, leave that layer in float (keep_float), or leave the "
                "quantization out"
            )


def follows(actual: Array, expected: Array) -> bool:
    """Says whether a quantized model's outputs still follow the float model's."""
    finite = bool(np.isfinite(actual).all())
    return finite and _explained(actual, expected) >= QUANTIZED_EXPLAINED


def _first_broken(quantized: ir.Model, original: ir.Model, samples: tuple[Array, ...]) -> str:
    """Names the layer behind which a quantized graph no longer follows the float one."""
    few = tuple(array[:_BISECTED] for array in samples)
    values = {str(value.name) for node in original.graph for value in node.outputs}
    names = [name for name in cut_points(quantized) if paired_name(quantized, name) in values]

    def departs(name: str) -> bool:
        prefix = cut(quantized, name)
        twin = cut(original, paired_name(quantized, name))
        (actual,) = run_graph(prefix.model, prefix.choose(few))
        (expected,) = run_graph(twin.model, twin.choose(few))
        return not follows(actual, expected)

    found = first_departure(quantized, names, departs)
    return "" if found is None else f"; that begins at {describe(quantized, found)}"


def relative_limit(*, quantized: bool) -> float:
    """Returns how far, as a share of the largest output, kernels may be from each other."""
    return INT8_RELATIVE_ERROR if quantized else FLOAT_RELATIVE_ERROR


def compare(actual: Array, expected: Array) -> Comparison:
    """Compares the outputs of several samples; samples lie along axis 0."""
    flat, reference = (
        array.reshape(len(array), -1).astype(np.float64) for array in (actual, expected)
    )
    error = float(np.abs(flat - reference).max()) if np.isfinite(flat).all() else float("inf")
    scale = float(np.abs(reference).max())
    norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(reference, axis=1)
    cosines = (flat * reference).sum(axis=1)[norms > 0] / norms[norms > 0]
    return Comparison(
        samples=len(flat),
        max_abs_error=error,
        relative_error=error / scale if scale else error,
        cosine=float(cosines.min()) if cosines.size else None,
        agreement=float((flat.argmax(axis=1) == reference.argmax(axis=1)).mean()),
    )


def _explained(actual: Array, expected: Array) -> float:
    """Returns the coefficient of determination; 1 where the expected outputs never vary."""
    variation = float(np.square(expected - expected.mean(axis=0)).sum())
    return 1 - float(np.square(actual - expected).sum()) / variation if variation else 1.0


def _fault(result: Comparison, *, quantized: bool) -> str | None:
    """Returns what is wrong, in words with the figures, or None."""
    limit = relative_limit(quantized=quantized)
    if not np.isfinite(result.max_abs_error):
        return "outputs that are not finite"
    if result.relative_error > limit:
        return (
            f"outputs differ by up to {result.max_abs_error:.3g}, which is "
            f"{result.relative_error:.2%} of the largest; {limit:.2%} is accepted"
        )
    if result.cosine is not None and result.cosine < INT8_COSINE:
        return f"outputs have a cosine similarity of only {result.cosine:.4f}"
    return None
