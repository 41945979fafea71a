"""Weights of a `.tflite` file in the few bits that its graph stores them in.

The converter writes float32 wherever activations are float. Here each such constant that the
graph stores in fewer bits is written as it is stored: read by its kernel directly where that may
round activations and has the form (`tflite_forms`), else with a DEQUANTIZE in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.targets.tflite_codes import Codes, pack_codes, signed_codes
from trimtab.targets.tflite_flatbuffer import (
    add_buffer,
    constants,
    contents,
    operator_code,
    operator_name,
    operator_version,
    text,
)
from trimtab.targets.tflite_forms import Direct, Use, direct_form
from trimtab.targets.tflite_stored import StoredWeight, StoredWeights

_DATA_INPUT = {"TRANSPOSE_CONV": 2}
"""Where operators read activations that do so elsewhere than at their first input."""

_HALF_ERROR = 2.0**-11
"""As a share of the largest weight: half a step of float16, where its range suffices."""


@dataclass(frozen=True)
class WeightForm:
    """How one constant came out.

    Attributes:
        name: Of the graph's initializer.
        tensor: The file's name of it.
        dtype: What is stored: `int8`, `int4`, `float16`, ...
        direct: Whether a kernel reads it; otherwise a DEQUANTIZE does.
        reason: Why it is not in fewer bits, or not read directly; None if nothing was left out.
    """

    name: str
    tensor: str
    dtype: str
    direct: bool
    reason: str | None = None


def store_weights(file: Any, model: ir.Model) -> tuple[WeightForm, ...]:
    """Writes a file's float32 constants as the graph stores them, in place.

    Args:
        file: A `ModelT`.
        model: The graph that the file was converted from.

    Returns:
        How every constant came out that the graph stores in fewer bits.
    """
    weights = StoredWeights(model)
    forms = []
    for graph in file.subgraphs if weights else ():
        for index, tensor in list(constants(file, graph)):
            found = weights.find(contents(file, tensor, np.float32)) if not tensor.type else None
            if found is not None:
                forms.append(_Constant(file, graph, index).store(found))
    return tuple(forms)


class _Constant:
    """A float32 constant of a file, and all that reads it."""

    def __init__(self, file: Any, graph: Any, index: int) -> None:
        self._file, self._graph, self._index = file, graph, index
        self._tensor = graph.tensors[index]
        self._readers = [
            (operator, position)
            for operator in graph.operators
            for position, number in enumerate(operator.inputs)
            if number == index
        ]

    def store(self, weight: StoredWeight) -> WeightForm:
        """Writes the constant as `weight` is stored, and says how."""
        if weight.scales is None:
            reason = None if weight.codes.dtype == np.float16 else "TFLite computes no bfloat16"
            return self._store_half(weight, reason)
        codes = signed_codes(weight)
        if codes is None:
            return self._store_half(weight, "TFLite has no scales for blocks of a convolution")
        reason = None
        if weight.dynamic:
            forms = [direct_form(self._use(*reader), codes) for reader in self._readers]
            reason = next((form for form in forms if isinstance(form, str)), None)
            if reason is None and forms:
                return self._read_directly(weight, codes, forms)
        if codes.block is not None:
            return self._store_half(weight, reason or "DEQUANTIZE takes no scales of blocks")
        if codes.bits < 8 and reason is None:
            reason = f"behind a DEQUANTIZE, {codes.bits} bits run slower than float"
        return self._store_codes(weight, codes, reason)

    def _use(self, operator: Any, position: int) -> Use:
        name = operator_name(self._file, operator)
        data = self._graph.tensors[operator.inputs[_DATA_INPUT.get(name, 0)]]
        channels = None if data.shape is None or not len(data.shape) else int(data.shape[-1])
        return Use(name, position, channels)

    def _read_directly(self, weight: StoredWeight, codes: Codes, forms: list[Any]) -> WeightForm:
        bits = max(form.bits for form in forms)
        tensor = self._tensor
        self._set(tensor, pack_codes(codes.values, bits), f"INT{bits}", codes)
        for (operator, _), form in zip(self._readers, forms, strict=True):
            self._take_codes(operator, form)
        return WeightForm(weight.name, text(tensor.name), f"int{bits}", direct=True)

    def _take_codes(self, operator: Any, form: Direct) -> None:
        options = operator.builtinOptions
        if hasattr(options, "asymmetricQuantizeInputs"):
            # Activations behind a Relu have no negatives: a zero point gives them twice the steps.
            options.asymmetricQuantizeInputs = True
        version = max(form.version, operator_version(self._file, operator))
        code = self._file.operatorCodes[operator.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        operator.opcodeIndex = operator_code(self._file, kind, version)

    def _store_half(self, weight: StoredWeight, reason: str | None) -> WeightForm:
        """Stores float16, which holds the products of few-bit codes and scales to 11 bits."""
        with np.errstate(over="ignore"):  # infinities are told from the error
            half = weight.real.astype(np.float16)
        error = np.abs(half.astype(np.float32) - weight.real).max()
        if not error <= _HALF_ERROR * np.abs(weight.real).max():
            name = text(self._tensor.name)
            why = f"{reason}, and float16 does not hold its range"
            return WeightForm(weight.name, name, "float32", direct=True, reason=why)
        stored = self._dequantize(half, "FLOAT16", None, version=3)
        return WeightForm(weight.name, stored, "float16", direct=False, reason=reason)

    def _store_codes(self, weight: StoredWeight, codes: Codes, reason: str | None) -> WeightForm:
        version = 5 if len(codes.scales) > 1 else 2
        stored = self._dequantize(codes.values, "INT8", codes, version=version)
        return WeightForm(weight.name, stored, "int8", direct=False, reason=reason)

    def _dequantize(self, data: Any, kind: str, codes: Codes | None, *, version: int) -> str:
        """Lets a DEQUANTIZE write what was a constant; returns the new constant's name."""
        from ai_edge_litert import schema_py_generated as schema

        stored = schema.TensorT()
        stored.name = f"{text(self._tensor.name)}/stored"
        stored.shape, stored.hasRank = self._tensor.shape, True
        self._set(stored, data, kind, codes)
        self._graph.tensors.append(stored)
        operator = schema.OperatorT()
        kinds = schema.BuiltinOperator
        operator.opcodeIndex = operator_code(self._file, kinds.DEQUANTIZE, version)
        operator.inputs, operator.outputs = [len(self._graph.tensors) - 1], [self._index]
        operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        operator.builtinOptions = schema.DequantizeOptionsT()
        self._graph.operators.insert(0, operator)
        self._tensor.buffer = 0
        return str(stored.name)

    def _set(self, tensor: Any, data: Any, kind: str, codes: Codes | None) -> None:
        from ai_edge_litert import schema_py_generated as schema

        tensor.buffer = add_buffer(self._file, data)
        tensor.type = getattr(schema.TensorType, kind)
        tensor.quantization = None if codes is None else self._parameters(codes)

    def _parameters(self, codes: Codes) -> Any:
        from ai_edge_litert import schema_py_generated as schema

        parameters = schema.QuantizationParametersT()
        if codes.block is None:
            parameters.scale, parameters.zeroPoint = codes.scales, codes.zeros
            parameters.quantizedDimension = codes.axis
            return parameters
        scales = schema.TensorT()
        scales.name = f"{text(self._tensor.name)}/scales"
        scales.shape, scales.hasRank = list(codes.scales.shape), True
        scales.type = schema.TensorType.FLOAT16
        scales.buffer = add_buffer(self._file, codes.scales.astype(np.float16))
        self._graph.tensors.append(scales)
        details = schema.BlockwiseQuantizationT()
        details.scales, details.zeroPoints = len(self._graph.tensors) - 1, -1
        details.blockSize = codes.block
        parameters.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        parameters.details = details
        return parameters
