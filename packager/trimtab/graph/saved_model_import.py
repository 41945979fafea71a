"""The folder of a TensorFlow SavedModel to an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from trimtab.errors import ModelError
from trimtab.graph.tensorflow_import import clean_name, convert_function, one_line, unique
from trimtab.tensorflow_setup import import_tensorflow

_DEFAULT = "serving_default"


def read_saved_model(folder: Path) -> ir.Model:
    """Reads the signature `serving_default`, or the only one that there is.

    Raises:
        ModelError: The folder holds no SavedModel, or several signatures and none of that name,
            or it cannot be converted.
    """
    tf = import_tensorflow()
    try:
        loaded = tf.saved_model.load(str(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{folder} cannot be read as a SavedModel: {one_line(error)}") from error
    function = _signature(dict(loaded.signatures), folder)
    keywords = function.structured_input_signature[1]
    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for spec, name in zip(keywords.values(), unique(map(clean_name, keywords)), strict=True)
    ]
    outputs = list(function.structured_outputs)

    def run(*inputs: Any) -> list[Any]:
        results = function(**dict(zip(keywords, inputs, strict=True)))
        return [tf.identity(results[name]) for name in outputs]

    return convert_function(tf.function(run), specs, [clean_name(o) for o in outputs], str(folder))


def _signature(signatures: dict[str, Any], folder: Path) -> Any:
    if _DEFAULT in signatures:
        return signatures[_DEFAULT]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    if not signatures:
        raise ModelError(
            f"{folder} has no signature, so that its inputs are unknown; save it with "
            "tf.saved_model.save(model, folder, signatures=function), or with Keras' model.export"
        )
    raise ModelError(
        f"{folder} has the signatures {', '.join(sorted(signatures))} and none called {_DEFAULT}; "
        f"save it with the one to deploy as {_DEFAULT}"
    )
